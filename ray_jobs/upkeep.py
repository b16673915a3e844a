"""What one chain of tables needs so that it stays fast: fewer and larger fragments, and indices that cover all rows.

It is published as any other version is: fence, change, manifest. Who reads an older version is not disturbed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lance

from dataset_catalog import publish, versions
from dataset_catalog.errors import CommitLost
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest
from ray_jobs import indices

NEVER_COMPACTED = ("gops",)  # compaction would copy every byte of video; it is written in large fragments
SMALL_FRAGMENT_ROWS = 100_000
TARGET_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Need:
    """What one table needs: `fragments` too small to stay, `uncovered` rows that no index knows, `missing` indices."""

    table: str
    fragments: int
    uncovered: int
    missing: tuple[str, ...]

    def is_due(self, *, min_fragments: int) -> bool:
        """Whether it is worth a version: many small fragments, or rows without an index."""
        return bool(self.missing) or self.uncovered > 0 or self.fragments >= min_fragments

    def __str__(self) -> str:
        missing = f", no index on {', '.join(self.missing)}" if self.missing else ""
        return f"{self.table}: {self.fragments} small fragments, {self.uncovered} rows without an index{missing}"


def needs(storage: Storage, chain: str, manifest: Manifest) -> list[Need]:
    """What each table of a chain needs, at the versions that the manifest names."""
    return [_need(table, open_table(storage, chain, manifest, table)) for table in sorted(manifest.tables)]


def keep_up(storage: Storage, chain: str, manifest: Manifest, due: Sequence[Need]) -> Manifest:
    """Compact and index these tables, and publish the result.

    Raises `VersionConflict` or `CommitLost` where another writer was faster; then nothing is published.
    """
    base = publish.begin(storage, chain, planned_on=manifest, schemas={})
    landed = {need.table: _improve(base, need.table) for need in due}
    return publish.publish(base, landed, positions=manifest.positions, facts=manifest.facts, now_ns=time.time_ns())


def _need(name: str, table: Any) -> Need:
    compacted = name not in NEVER_COMPACTED
    small = [one for one in table.get_fragments() if one.count_rows() < SMALL_FRAGMENT_ROWS] if compacted else []
    missing = tuple(index.column for index in indices.missing(table)) if table.count_rows() else ()
    return Need(name, len(small) if len(small) > 1 else 0, indices.uncovered_rows(table), missing)


def _improve(base: publish.Base, name: str) -> int:
    """The table's version after it."""
    uri = versions.table_uri(base.storage, base.chain, name)
    table = lance.dataset(uri, version=base.versions[name], storage_options=base.storage.lance_options())
    rows = table.count_rows()
    try:
        indices.refresh(table)  # first: fragments that an index covers are not put together with others
        if name not in NEVER_COMPACTED:
            table.optimize.compact_files(target_rows_per_fragment=TARGET_ROWS)
        indices.refresh(table)
    except OSError as error:  # of Lance, also for a conflict with a writer that took over
        raise CommitLost(f"{base.chain} {name}: another writer fenced this run off: {error}") from error
    if table.count_rows() != rows:
        raise CommitLost(f"{base.chain} {name}: {rows} rows became {table.count_rows()}: nothing is published")
    return int(table.version)
