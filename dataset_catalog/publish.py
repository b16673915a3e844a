"""The exactly-once commit of a chain: fence, fragments, one deletion and one append a table, one manifest.

A version exists when its manifest does. Whatever a run leaves behind before that (fragments, table versions, whole new
tables) is unpublished, and the next run's fence takes it away: it restores every table to the newest manifest, always,
and Lance then refuses every transaction that was begun before.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata, write_fragments

from dataset_catalog import versions
from dataset_catalog.errors import CommitLost, RowsLost, VersionConflict
from dataset_catalog.schema import DATA_STORAGE_VERSION
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest

TAGGED_TABLE = "steps"
_FENCED_TOGETHER = 16  # tables
_FENCED = ("already exists", "commit conflict")  # how Lance says so where it raises a bare OSError


@dataclass(frozen=True)
class Base:
    """What a commit builds on: the newest manifest, and the Lance version at which the fence left each table."""

    storage: Storage
    chain: str
    manifest: Manifest | None
    versions: dict[str, int]

    @property
    def next_n(self) -> int:
        """The number of the manifest to be published."""
        return self.manifest.n + 1 if self.manifest else 1


@dataclass(frozen=True, slots=True)
class Written:
    """Fragments of one table that a worker wrote, as JSON, and how many rows it put into them."""

    rows: int
    fragments: tuple[str, ...]

    @classmethod
    def join(cls, parts: Iterable[Written]) -> Written:
        parts = list(parts)
        return cls(sum(part.rows for part in parts), tuple(text for part in parts for text in part.fragments))


def begin(storage: Storage, chain: str, *, planned_on: Manifest | None, schemas: Mapping[str, pa.Schema]) -> Base:
    """Fence every table of the chain, and create the tables of `schemas` that no manifest names yet, empty.

    A table that an older release made gets the columns that it lacks, null in its rows. `planned_on` is the manifest
    that the work was planned on; `VersionConflict` if it is no longer the newest, `CommitLost` if another writer begins
    at the same time.
    """
    manifest = versions.newest(storage, chain)
    if manifest != planned_on:
        found, expected = (m.n if m else 0 for m in (manifest, planned_on))
        raise VersionConflict(f"{chain} was at version {expected} when this run was planned and is at {found} now")
    named = manifest.tables if manifest else {}
    new = [table for table in schemas if table not in named]
    with ThreadPoolExecutor(_FENCED_TOGETHER) as pool:  # some 20 ms a table, and a fleet has hundreds of topics
        fenced = pool.map(lambda table: _restore(storage, chain, table, named[table], schemas.get(table)), named)
        created = pool.map(lambda table: _create_empty(storage, chain, table, schemas[table]), new)
        return Base(storage, chain, manifest, dict(zip([*named, *new], [*fenced, *created], strict=True)))


def write(storage: Storage, chain: str, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Written:
    """Write batches, one at a time, as fragments of a table that are not part of any version yet.

    What making a batch raises is raised as it is: Lance would make an `OSError` of it.
    """
    rows, broken = 0, list[Exception]()

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        try:
            for batch in batches:
                rows += batch.num_rows
                yield batch
        except Exception as error:
            broken.append(error)
            raise

    source = counted()
    first = next(source, None)
    if first is None:
        return Written(0, ())
    uri, options = versions.table_uri(storage, chain, table), storage.lance_options()
    try:
        fragments = write_fragments(
            pa.RecordBatchReader.from_batches(schema, itertools.chain([first], source)),
            lance.dataset(uri, storage_options=options),  # by its address a small file takes half as long again
            mode="append",
            data_storage_version=DATA_STORAGE_VERSION,
            storage_options=options,
        )
    except OSError:
        if broken:
            raise broken[0] from broken[0].__cause__
        raise
    return Written(rows, tuple(json.dumps(fragment.to_json()) for fragment in fragments))


def commit(
    base: Base,
    written: Mapping[str, Written],
    *,
    positions: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    gone: str = "",
    now_ns: int,
) -> Manifest:
    """Append to every table and publish the next manifest.

    `gone` is a Lance filter: the rows of which it is true go from every table of `written` before the new ones come.
    Raises `RowsLost`, `CommitLost` or `VersionConflict`; then nothing is published.
    """
    landed = {table: _change(base, table, part, gone) for table, part in written.items()}
    return publish(base, landed, positions=positions, facts=facts or {}, now_ns=now_ns)


def publish(
    base: Base, landed: Mapping[str, int], *, positions: Mapping[str, Any], facts: Mapping[str, Any], now_ns: int
) -> Manifest:
    """The next manifest, with these tables at the versions at which the run left them.

    `VersionConflict` where another writer was faster; nothing is published then.
    """
    named = base.manifest.tables if base.manifest else {}
    created = {table: version for table, version in base.versions.items() if table not in named}
    manifest = Manifest(base.next_n, {**named, **created, **landed}, dict(positions), now_ns, dict(facts))
    versions.publish(base.storage, base.chain, manifest)
    tag(base.storage, base.chain, manifest)
    return manifest


def _change(base: Base, table: str, written: Written, gone: str) -> int:
    """The Lance version of the table without the rows that go and with those that come."""
    at = base.versions[table]
    if gone:
        at = _delete(base, table, gone, at=at)
    return _append(base, table, written, at=at) if written.rows else at


def _delete(base: Base, table: str, where: str, *, at: int) -> int:
    """Without these rows; the version stays `at` where there are none."""
    uri, options = versions.table_uri(base.storage, base.chain, table), base.storage.lance_options()
    opened = lance.dataset(uri, version=at, storage_options=options)
    found = opened.to_table(columns=[], filter=where, with_row_address=True)["_rowaddr"].to_numpy()
    touched = sorted({int(address) >> 32 for address in found})
    if not touched:
        return at
    left = {number: opened.get_fragment(number).delete(where) for number in touched}
    kept = [fragment for fragment in left.values() if fragment is not None]
    emptied = [number for number, fragment in left.items() if fragment is None]
    return _land(base, table, lance.LanceOperation.Delete(kept, emptied, where), at=at)


def _append(base: Base, table: str, written: Written, *, at: int) -> int:
    """With the rows of these fragments."""
    return _land(base, table, lance.LanceOperation.Append(_checked(table, written)), at=at)


def _land(base: Base, table: str, operation: Any, *, at: int) -> int:
    """Commit upon version `at`. `CommitLost` unless it becomes the next one: something else came in between."""
    uri, options = versions.table_uri(base.storage, base.chain, table), base.storage.lance_options()
    with _unless_lost(base.chain, table):
        landed = lance.LanceDataset.commit(uri, operation, read_version=at, storage_options=options)
    if landed.version != at + 1:
        raise CommitLost(f"{base.chain} {table}: the change landed at {landed.version}, expected {at + 1}")
    return at + 1


def _checked(table: str, written: Written) -> Sequence[FragmentMetadata]:
    fragments = [FragmentMetadata.from_json(text) for text in written.fragments]
    rows = sum(fragment.num_rows for fragment in fragments)
    if rows != written.rows:
        raise RowsLost(f"{table}: fragments hold {rows} rows, workers wrote {written.rows}")
    return fragments


def _restore(storage: Storage, chain: str, table: str, version: int, schema: pa.Schema | None) -> int:
    uri, options = versions.table_uri(storage, chain, table), storage.lance_options()
    dataset = lance.dataset(uri, version=version, storage_options=options)
    known = set(dataset.schema.names)
    lacking = [field for field in schema or () if field.name not in known]
    with _unless_lost(chain, table):
        dataset.restore()
        if lacking:
            dataset.add_columns(pa.schema(lacking))
    return int(dataset.version)


def _create_empty(storage: Storage, chain: str, table: str, schema: pa.Schema) -> int:
    """An empty table, whatever an unpublished run may have left in its place."""
    with _unless_lost(chain, table):
        dataset = lance.write_dataset(
            schema.empty_table(),
            versions.table_uri(storage, chain, table),
            mode="overwrite",
            data_storage_version=DATA_STORAGE_VERSION,
            enable_stable_row_ids=True,
            storage_options=storage.lance_options(),
        )
    return int(dataset.version)


@contextmanager
def _unless_lost(chain: str, table: str) -> Iterator[None]:
    """`CommitLost` for what Lance raises where another writer changes or creates the table at the same time."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CommitConflictError) or any(words in str(error) for words in _FENCED):
            raise CommitLost(f"{chain} {table}: another writer fenced this run off: {error}") from error
        raise


def tag(storage: Storage, chain: str, manifest: Manifest) -> None:
    """Give a dataset's version its Lance tag, if it has none yet: a run may have died just after publishing."""
    if not chain.startswith(f"{versions.DATASETS}/") or TAGGED_TABLE not in manifest.tables:
        return
    uri, version = versions.table_uri(storage, chain, TAGGED_TABLE), manifest.tables[TAGGED_TABLE]
    tags = lance.dataset(uri, version=version, storage_options=storage.lance_options()).tags
    name = f"v{manifest.n}"
    if name in tags.list():
        return
    try:
        tags.create(name, version)
    except ValueError:  # the next run, which is there already, did it meanwhile
        if name not in tags.list():
            raise
