"""The job index_segments: raw/ → lake/segments. Reads every new segment once and decodes every frame of it once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import pyarrow as pa

from dataset_catalog import versions
from dataset_catalog.schema import SEGMENTS
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest
from edge.wire import SegmentId
from ingest_serve.raw_store import RawStore
from ray_jobs import publish
from ray_jobs.backlog import Backlog, find_backlog
from ray_jobs.cluster import Item, Part, Progress, fan_out, no_progress
from ray_jobs.errors import RowsLost
from ray_jobs.examine import examine, fetch
from ray_jobs.publish import Written
from ray_jobs.settings import JobsSettings
from ray_jobs.summary import Summary, run_in_pieces

NAME = "index_segments"
CHAIN = versions.SEGMENTS
TABLE = "segments"
_NOTHING = Summary(NAME, CHAIN, counts={"segments": 0, "quarantined": 0, "waiting behind a hole": 0}, rows={TABLE: 0})


def run(storage: Storage, settings: JobsSettings, *, progress: Progress = no_progress) -> Summary:
    """Index what arrived since the newest version; publishes nothing where nothing did."""
    return run_in_pieces(_NOTHING, partial(_run_piece, storage, settings, progress))


def _run_piece(storage: Storage, settings: JobsSettings, progress: Progress) -> tuple[Summary, bool]:
    manifest = versions.newest(storage, CHAIN)
    positions = manifest.positions if manifest else {}
    store = RawStore.open(storage)
    backlog = find_backlog(store, positions, limit=settings.segments_per_commit, threads=settings.read_threads)
    done = _index(storage, settings, manifest, backlog, progress) if backlog.ready else _NOTHING
    waiting = 0 if backlog.more else backlog.waiting
    return done + Summary(NAME, CHAIN, counts={"waiting behind a hole": waiting}), backlog.more


def _index(
    storage: Storage, settings: JobsSettings, manifest: Manifest | None, backlog: Backlog, progress: Progress
) -> Summary:
    base = publish.begin(storage, CHAIN, planned_on=manifest, schemas={TABLE: SEGMENTS})
    parts = fan_out(
        [asdict(segment) for segment in backlog.ready],
        partial(index_batch, storage, base.next_n),
        per_task=settings.segments_per_task,
        settings=settings,
        progress=progress,
    )
    written = Written.join(part.written[TABLE] for part in parts)
    if written.rows != len(backlog.ready):
        raise RowsLost(f"{len(backlog.ready)} segments were read, {written.rows} rows written")
    published = publish.commit(base, {TABLE: written}, positions=backlog.positions, now_ns=time.time_ns())
    quarantined = {key: reason for part in parts for key, reason in part.report["quarantined"].items()}
    return Summary(
        NAME,
        CHAIN,
        versions=(published.n,),
        counts={"segments": written.rows, "quarantined": len(quarantined)},
        rows={TABLE: written.rows},
        notes=tuple(f"quarantined {key}: {reason}" for key, reason in quarantined.items()),
    )


def index_batch(storage: Storage, index_version: int, items: Sequence[Item]) -> Part:
    """What one task does: read each segment, examine it, write the rows as fragments."""
    store = RawStore.open(storage)
    rows = [examine(fetch(store, SegmentId(**item)), index_version=index_version) for item in items]
    batch = pa.RecordBatch.from_pylist(rows, schema=SEGMENTS)
    written = publish.write(storage, CHAIN, TABLE, SEGMENTS, [batch])
    quarantined = {row["key"]: row["reason"] for row in rows if row["state"] == "quarantined"}
    return Part({TABLE: written}, {"quarantined": quarantined})
