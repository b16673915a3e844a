"""What nobody can ask for any more: old versions of tables, and the manifests of lake/segments and lake/telemetry.

Every version that a kept manifest names stays, and so does every version younger than the limit: it may be that of a
run whose manifest comes next. Lance is told by number which versions go; files that no version needs go with them,
those of a transaction under way do not (`delete_unverified` stays off).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import lance

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest

DAY_S = 86_400
CONTINUOUS = (versions.SEGMENTS, versions.TELEMETRY)  # every minute a version, that nobody pins; a dataset's all stay


@dataclass(frozen=True, slots=True)
class Old:
    """Of one chain: manifests that go, and the versions of each table that go, both ascending."""

    chain: str
    manifests: tuple[int, ...]
    tables: Mapping[str, tuple[int, ...]]

    @property
    def count(self) -> int:
        return sum(map(len, self.tables.values()))


def find_old(storage: Storage, chain: str, *, keep_days: float, now_s: float | None = None) -> Old:
    """What is older than `keep_days` and not needed."""
    limit_s = (time.time() if now_s is None else now_s) - keep_days * DAY_S
    manifests = [_outline(versions.read(storage, chain, n)) for n in versions.list_versions(storage, chain)]
    gone = [one for one in manifests[:-1] if chain in CONTINUOUS and one.created_ns < limit_s * 1e9]
    named = _named([one for one in manifests if one not in gone])
    tables = {name: _old_versions(storage, chain, name, named, limit_s=limit_s) for name in sorted(_named(manifests))}
    return Old(chain, tuple(one.n for one in gone), {name: found for name, found in tables.items() if found})


def _outline(manifest: Manifest) -> Manifest:
    """Without positions and facts: a week of versions is held at once, and each names every stream there ever was."""
    return replace(manifest, positions={}, facts={})


def remove(storage: Storage, old: Old, *, keep_days: float) -> int:
    """Remove it, manifests first: a version that is still there harms nobody. The bytes that were freed."""
    for n in old.manifests:
        versions.remove(storage, old.chain, n)
    return sum(_clean(_open(storage, old.chain, name), found, keep_days) for name, found in old.tables.items())


def _named(manifests: list[Manifest]) -> dict[str, set[int]]:
    """Table → the versions that these name."""
    found: dict[str, set[int]] = defaultdict(set)
    for manifest in manifests:
        for table, version in manifest.tables.items():
            found[table].add(version)
    return found


def _old_versions(
    storage: Storage, chain: str, table: str, named: Mapping[str, set[int]], *, limit_s: float
) -> tuple[int, ...]:
    opened = _open(storage, chain, table)
    kept = {*named.get(table, ()), opened.version}
    return tuple(
        one["version"]
        for one in opened.versions()
        if one["version"] not in kept and one["timestamp"].timestamp() < limit_s
    )


def _clean(table: Any, found: tuple[int, ...], keep_days: float) -> int:
    stats = table.cleanup_old_versions(
        older_than=timedelta(days=keep_days), versions=list(found), error_if_tagged_old_versions=False
    )
    return int(stats.bytes_removed)


def _open(storage: Storage, chain: str, table: str) -> Any:
    return lance.dataset(versions.table_uri(storage, chain, table), storage_options=storage.lance_options())
