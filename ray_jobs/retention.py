"""What has been kept long enough: raw segments, and rows of telemetry. Only where the settings give an age.

A recording goes whole, so many days after the last of its segments came. One run marks its segments `expiring`: from
then on no job works with them, and the manifest keeps since when that is. A run that comes a grace period later removes
their objects and marks them `expired`, or, where more came or they are to stay longer after all, marks them as what
they were. Their rows stay, with thumbnails and all that the index knows; gaps stay; and so does what was made of them:
telemetry tables, datasets.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from dataset_catalog import publish, versions
from dataset_catalog.schema import SEGMENTS
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table
from dataset_catalog.versions import Manifest
from ingest_serve.raw_store import RawStore
from ray_jobs.load_telemetry import POSITION
from ray_jobs.segments_table import EXPIRED, EXPIRING, segment_of

TABLE = "segments"
KEPT = "kept"  # no state: back to what they were
_STORED = "state IN ('ok', 'quarantined')"
_ROWS_A_VERSION = 20_000  # that are marked together: a thumbnail each


@dataclass(frozen=True, slots=True)
class Retained:
    """What one run did, or would do: segments marked, segments removed and their bytes, rows of telemetry removed."""

    marked: int = 0
    removed: int = 0
    freed: int = 0
    rows: int = 0
    published: tuple[int, ...] = ()


def expire_raw(storage: Storage, *, before_ns: int, marked_before_ns: int, dry_run: bool) -> Retained:
    """Remove what was marked before `marked_before_ns`, then mark the recordings of which all came before `before_ns`.

    Raises `VersionConflict` or `CommitLost` where another writer was faster; what was published till then stands.
    """
    manifest = versions.newest(storage, versions.SEGMENTS)
    if manifest is None:
        return Retained()
    marked = _sizes(storage, manifest, f"state = '{EXPIRING}'")
    if not marked and not before_ns:
        return Retained()
    due = _due(storage, manifest, before_ns, marked)
    since = manifest.facts.get(EXPIRING, {})
    ripe = {name for name in due if since.get(name, marked_before_ns + 1) <= marked_before_ns}
    removing = {name: size for name, size in marked.items() if name in ripe}
    # more came, or they are to stay longer, or a release that does not know since when it is published meanwhile
    keeping = {name: size for name, size in marked.items() if name not in due or name not in since}
    marking = {name: size for name, size in due.items() if name not in marked}
    done = Retained(
        marked=sum(rows for rows, _ in marking.values()),
        removed=sum(rows for rows, _ in removing.values()),
        freed=sum(size for _, size in removing.values()),
    )
    if dry_run:
        return done
    published = []
    for state, recordings in ((KEPT, keeping), (EXPIRED, removing), (EXPIRING, marking)):
        for piece in _pieces(recordings):
            manifest = _mark(storage, manifest, piece, state)
            published.append(manifest.n)
    return replace(done, published=tuple(published))


def _due(
    storage: Storage, manifest: Manifest, before_ns: int, marked: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Recordings that are `marked` or to be, that nothing was added to since, and whose telemetry is loaded."""
    old = marked | _sizes(storage, manifest, f"{_STORED} AND received_ns < {before_ns}")
    telemetry = versions.newest(storage, versions.TELEMETRY)
    loaded = telemetry.positions.get(POSITION, 0) if telemetry else 0
    table = open_table(storage, versions.SEGMENTS, manifest, TABLE)
    busy: set[str] = set()
    for names in _pieces(old):
        needed = f"received_ns >= {before_ns} OR ({_STORED} AND kind = 'telemetry' AND index_version > {loaded})"
        found = table.to_table(columns=["recording_id"], filter=f"{contains('recording_id', names)} AND ({needed})")
        busy.update(found["recording_id"].to_pylist())
    return {name: size for name, size in old.items() if name not in busy}


def _sizes(storage: Storage, manifest: Manifest, where: str) -> dict[str, tuple[int, int]]:
    """Recording → how many rows, how many bytes, of rows that this is true of."""
    table = open_table(storage, versions.SEGMENTS, manifest, TABLE)
    rows, size = Counter[str](), Counter[str]()
    for batch in table.to_batches(columns=["recording_id", "bytes"], filter=where):
        for name, bytes_ in zip(batch["recording_id"].to_pylist(), batch["bytes"].to_pylist(), strict=True):
            rows[name] += 1
            size[name] += bytes_ or 0  # an object without our metadata has none
    return {name: (rows[name], size[name]) for name in sorted(rows)}


def _pieces(recordings: dict[str, tuple[int, int]]) -> Iterator[list[str]]:
    """Recordings for one version after the other."""
    piece: list[str] = []
    for name, (rows, _) in recordings.items():
        if piece and sum(recordings[one][0] for one in piece) + rows > _ROWS_A_VERSION:
            yield piece
            piece = []
        piece.append(name)
    if piece:
        yield piece


def _mark(storage: Storage, manifest: Manifest, recordings: Sequence[str], state: str) -> Manifest:
    """Publish these recordings' segments in their next state; those that expire lose their objects first.

    A run that dies in between has removed what the next one removes again.
    """
    base = publish.begin(storage, versions.SEGMENTS, planned_on=manifest, schemas={TABLE: SEGMENTS})
    before = _STORED if state == EXPIRING else f"state = '{EXPIRING}'"
    where = f"{contains('recording_id', recordings)} AND {before}"
    rows = _at(base).to_table(filter=where)
    if state == EXPIRED:
        _remove_objects(storage, rows)
    if state == KEPT:
        column = pc.if_else(pc.is_valid(rows["reason"]), "quarantined", "ok")
    else:
        column = pa.repeat(state, len(rows))
    marked = rows.set_column(rows.schema.get_field_index("state"), "state", column).select(SEGMENTS.names)
    written = publish.write(storage, versions.SEGMENTS, TABLE, SEGMENTS, marked.cast(SEGMENTS).to_batches())
    now_ns = time.time_ns()
    return publish.commit(
        base,
        {TABLE: written},
        positions=manifest.positions,
        facts=_facts(manifest.facts, recordings, state, now_ns),
        gone=where,
        now_ns=now_ns,
    )


def _facts(facts: Mapping[str, Any], recordings: Sequence[str], state: str, now_ns: int) -> dict[str, Any]:
    """What the manifest says, with since when each recording is marked that is marked now."""
    since = {name: at_ns for name, at_ns in facts.get(EXPIRING, {}).items() if name not in recordings}
    if state == EXPIRING:
        since |= dict.fromkeys(recordings, now_ns)
    others = {name: fact for name, fact in facts.items() if name != EXPIRING}
    return {**others, EXPIRING: since} if since else others


def _at(base: publish.Base) -> Any:
    """The table as the fence has left it, with the columns that an older release did not have."""
    uri = versions.table_uri(base.storage, base.chain, TABLE)
    return lance.dataset(uri, version=base.versions[TABLE], storage_options=base.storage.lance_options())


def _remove_objects(storage: Storage, rows: pa.Table) -> None:
    store = RawStore.open(storage)
    named = iter(rows.select(["robot_id", "recording_id", "stream", "seq"]).to_pylist())
    while some := list(islice(named, 1000)):
        store.remove([segment_of(row) for row in some])


def expire_telemetry(storage: Storage, *, before_ns: int, dry_run: bool) -> Retained:
    """Remove the rows of every telemetry table whose time lies before `before_ns`. Raises as `expire_raw`."""
    manifest = versions.newest(storage, versions.TELEMETRY)
    where = f"t_ns < {before_ns}"
    if manifest is None or not before_ns:
        return Retained()
    old = {name: _count(storage, manifest, name, where) for name in sorted(manifest.tables)}
    old = {name: count for name, count in old.items() if count}
    if dry_run or not old:
        return Retained(rows=sum(old.values()))
    base = publish.begin(storage, versions.TELEMETRY, planned_on=manifest, schemas={})
    published = publish.commit(
        base,
        {name: publish.Written(0, ()) for name in old},
        positions=manifest.positions,
        facts=manifest.facts,
        gone=where,
        now_ns=time.time_ns(),
    )
    return Retained(rows=sum(old.values()), published=(published.n,))


def _count(storage: Storage, manifest: Manifest, table: str, where: str) -> int:
    opened: Any = open_table(storage, versions.TELEMETRY, manifest, table)
    return int(opened.count_rows(filter=where))
