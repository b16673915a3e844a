"""The job load_telemetry: the telemetry segments that lake/segments lists → one table a topic, at the native rate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from dataset_catalog import publish, versions
from dataset_catalog.errors import RowsLost
from dataset_catalog.publish import Written
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest
from edge.wire import SegmentId
from ingest_serve.raw_store import RawStore
from ray_jobs import telemetry, widening
from ray_jobs.cluster import Item, Part, Progress, fan_out, no_progress
from ray_jobs.errors import SegmentLost
from ray_jobs.flatten import table_name, widened
from ray_jobs.lost import read_indexed
from ray_jobs.segments_table import Row, first_versions, rows_after, segment_of
from ray_jobs.settings import JobsSettings
from ray_jobs.summary import Summary, run_in_pieces
from ray_jobs.telemetry import Held
from ray_jobs.widening import Needed

NAME = "load_telemetry"
CHAIN = versions.TELEMETRY
POSITION = "segments"  # the version of lake/segments that has been consumed
_NOTHING = Summary(NAME, CHAIN, counts={"segments": 0, "messages": 0, "undecoded": 0})
TOGETHER_BYTES = 32 << 20  # of encoded messages, about
_WANTED = "state = 'ok' AND kind = 'telemetry'"


def run(storage: Storage, settings: JobsSettings, *, progress: Progress = no_progress) -> Summary:
    """Load what was indexed since the newest version; publishes nothing where nothing was."""
    return run_in_pieces(_NOTHING, partial(_run_piece, storage, settings, progress))


def _run_piece(storage: Storage, settings: JobsSettings, progress: Progress) -> tuple[Summary, bool]:
    indexed = versions.newest(storage, versions.SEGMENTS)
    manifest = versions.newest(storage, CHAIN)
    position = manifest.positions[POSITION] if manifest else 0
    rows = rows_after(storage, indexed, position, where=_WANTED) if indexed else []
    if not rows:
        return _NOTHING, False
    chosen, reached = first_versions(rows, settings.segments_per_commit)

    def load(schemas: Mapping[str, pa.Schema]) -> tuple[publish.Base, list[Part]]:
        base = publish.begin(storage, CHAIN, planned_on=manifest, schemas=schemas)
        items = [asdict(segment_of(row)) for row in chosen]
        work = partial(load_batch, storage, schemas)
        return base, fan_out(items, work, per_task=settings.telemetry_per_task, settings=settings, progress=progress)

    schemas = _table_schemas(storage, manifest, chosen)
    base, parts = load(schemas)
    if needed := _needed(parts):  # messages have changed, which is rare: all again, into wider tables
        base, parts = load(
            {table: widened(schema, widening.columns(needed.get(table, ()))) for table, schema in schemas.items()}
        )
    written = _joined(parts)
    lost = {key: reason for part in parts for key, reason in part.report["lost"].items()}
    _check([row for row in chosen if row["key"] not in lost], written)
    published = publish.commit(base, written, positions={POSITION: reached}, now_ns=time.time_ns())
    return _summary(published, len(chosen) - len(lost), parts, written), len(chosen) < len(rows)


def _table_schemas(storage: Storage, manifest: Manifest | None, rows: Sequence[Row]) -> dict[str, pa.Schema]:
    """Table → schema for every topic of these segments; a new topic's from the first of them that holds it."""
    schemas = _known_schemas(storage, manifest, rows)
    store = RawStore.open(storage)
    for row in rows:
        new = {topic["name"] for topic in row["topics"] if table_name(topic["name"]) not in schemas}
        if not new:
            continue
        try:
            messages = telemetry.by_topic(read_indexed(store, segment_of(row))[1])
        except SegmentLost:  # told by the task that meets it
            continue
        schemas |= {table_name(topic): telemetry.infer_schema(messages[topic]) for topic in sorted(new)}
    return schemas


def _known_schemas(storage: Storage, manifest: Manifest | None, rows: Sequence[Row]) -> dict[str, pa.Schema]:
    if manifest is None:
        return {}
    wanted = {table_name(topic["name"]) for row in rows for topic in row["topics"]}
    return {
        table: open_table(storage, CHAIN, manifest, table).schema for table in sorted(wanted & set(manifest.tables))
    }


def load_batch(storage: Storage, schemas: Mapping[str, pa.Schema], items: Sequence[Item]) -> Part:
    """What one task does: read each segment, decode its messages, write each table's rows as fragments.

    Messages are decoded and written together, as many as `TOGETHER_BYTES` hold.
    """
    store = RawStore.open(storage)
    parts: dict[str, list[Written]] = {}
    undecoded: Counter[str] = Counter()
    needed: dict[str, Needed] = {}
    lost: dict[str, str] = {}
    for held in _together(store, items, lost):
        for table, messages in _tables(held).items():
            loaded = telemetry.load(schemas[table], messages)
            if loaded.undecoded:
                undecoded[messages[0].messages.topic.name] += loaded.undecoded
            if loaded.needed:
                needed.setdefault(table, {}).update(loaded.needed)
            rows = pa.Table.from_batches(loaded.batches).combine_chunks()  # Lance takes longer over many small batches
            written = publish.write(storage, CHAIN, table, schemas[table], rows.to_batches())
            parts.setdefault(table, []).append(written)
    told = {table: [[list(path), name] for path, name in columns] for table, columns in needed.items()}
    joined = {table: Written.join(each) for table, each in parts.items()}
    return Part(joined, {"undecoded": dict(undecoded), "needed": told, "lost": lost})


def _together(store: RawStore, items: Sequence[Item], lost: dict[str, str]) -> Iterator[list[Held]]:
    """The messages of the segments, in order, in lists that memory holds; `lost`: which cannot be read, and why."""
    held: list[Held] = []
    size = 0
    for item in items:
        segment = SegmentId(**item)
        try:
            found = telemetry.read(segment, read_indexed(store, segment)[1])
        except SegmentLost as error:
            lost[segment.key] = str(error)
            continue
        held += found
        size += sum(one.bytes for one in found)
        if size >= TOGETHER_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _tables(held: Sequence[Held]) -> dict[str, list[Held]]:
    tables: dict[str, list[Held]] = {}
    for one in held:
        tables.setdefault(one.table, []).append(one)
    return tables


def _needed(parts: Sequence[Part]) -> dict[str, Needed]:
    """Table → the columns that its rows lack."""
    found: dict[str, Needed] = {}
    for part in parts:
        for table, columns in part.report["needed"].items():
            found.setdefault(table, {}).update({(tuple(path), name): None for path, name in columns})
    return found


def _joined(parts: Sequence[Part]) -> dict[str, Written]:
    tables = sorted({table for part in parts for table in part.written})
    return {table: Written.join(part.written[table] for part in parts if table in part.written) for table in tables}


def _check(rows: Sequence[Row], written: Mapping[str, Written]) -> None:
    """Every message that the index counted is a row now."""
    expected: Counter[str] = Counter()
    for row in rows:
        for topic in row["topics"]:
            expected[table_name(topic["name"])] += topic["count"]
    found = {table: part.rows for table, part in written.items()}
    if found != dict(expected):
        wrong = sorted(table for table in {*found, *expected} if found.get(table, 0) != expected[table])
        raise RowsLost(f"the index counts other messages than were loaded, in {', '.join(wrong)}")


def _summary(published: Manifest, segments: int, parts: Sequence[Part], written: Mapping[str, Written]) -> Summary:
    rows = {table: part.rows for table, part in written.items()}
    undecoded: Counter[str] = Counter()
    for part in parts:
        undecoded.update(part.report["undecoded"])
    counts: dict[str, Any] = {"segments": segments, "messages": sum(rows.values()), "undecoded": undecoded.total()}
    notes = [f"{count} messages of {topic} could not be decoded" for topic, count in sorted(undecoded.items())]
    notes += [reason for part in parts for reason in part.report["lost"].values()]
    return Summary(NAME, CHAIN, versions=(published.n,), counts=counts, rows=rows, notes=tuple(notes))
