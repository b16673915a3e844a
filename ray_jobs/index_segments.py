"""The job index_segments: raw/ → lake/segments. Reads every new segment once and decodes every frame of it once."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import pyarrow as pa

from dataset_catalog import publish, versions
from dataset_catalog.errors import RowsLost
from dataset_catalog.publish import Written
from dataset_catalog.schema import SEGMENTS
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest
from edge.wire import SegmentId
from ingest_serve.raw_store import RawStore
from ray_jobs.backlog import Backlog, Covers, Missing, Reached, Stream, find, work_off
from ray_jobs.cluster import Item, Part, Progress, fan_out, no_progress
from ray_jobs.examine import examine_apart, fetch
from ray_jobs.gaps import last_seq_at, missing_row
from ray_jobs.sandbox import Sandbox
from ray_jobs.segments_table import EXPIRING
from ray_jobs.settings import JobsSettings
from ray_jobs.summary import Summary, run_in_pieces

NAME = "index_segments"
CHAIN = versions.SEGMENTS
TABLE = "segments"
_NOTHING = Summary(
    NAME, CHAIN, counts={"segments": 0, "quarantined": 0, "gaps": 0, "waiting behind a hole": 0}, rows={TABLE: 0}
)


def run(
    storage: Storage,
    settings: JobsSettings,
    *,
    only: Collection[Stream] | None = None,
    progress: Progress = no_progress,
) -> Summary:
    """Index what arrived since the newest version, in every stream or in those of `only`.

    Publishes nothing where nothing did.
    """
    return run_in_pieces(_NOTHING, partial(_run_piece, storage, settings, only, progress))


def _run_piece(
    storage: Storage, settings: JobsSettings, only: Collection[Stream] | None, progress: Progress
) -> tuple[Summary, bool]:
    manifest = versions.newest(storage, CHAIN)
    before = Reached.read(manifest.positions, manifest.facts) if manifest else Reached()
    store = RawStore.open(storage)
    found = find(store, before, threads=settings.read_threads, only=only)
    piece = _Piece(storage, settings, manifest, progress)
    with ThreadPoolExecutor(settings.read_threads) as pool:
        backlog = work_off(
            found,
            before,
            limit=settings.segments_per_commit,
            look=lambda asked: dict(zip(asked, pool.map(partial(last_seq_at, store), asked), strict=True)),
            take=piece.take,
            give_up_ns=time.time_ns() - int(settings.hole_grace_s * 1e9),
        )
    done = piece.commit(backlog) if backlog.ready else _NOTHING
    waiting = 0 if backlog.more else backlog.waiting
    return done + Summary(NAME, CHAIN, counts={"waiting behind a hole": waiting}), backlog.more


class _Piece:
    """The segments that one version adds, examined in one or more rounds."""

    def __init__(self, storage: Storage, settings: JobsSettings, manifest: Manifest | None, progress: Progress) -> None:
        self._storage, self._settings, self._manifest, self._progress = storage, settings, manifest, progress
        self._base: publish.Base | None = None
        self._parts: list[Part] = []

    def take(self, segments: Sequence[SegmentId]) -> Covers:
        """Examine these and write their rows; the last seq that each stands for."""
        base = self._begun()
        parts = fan_out(
            [asdict(segment) for segment in segments],
            partial(index_batch, self._storage, base.next_n, settings=self._settings),
            per_task=self._settings.segments_per_task,
            settings=self._settings,
            progress=self._progress,
        )
        self._parts += parts
        last = {key: gap["last_seq"] for key, gap in _told(parts, "gaps").items()}
        return {segment: last.get(segment.key, segment.seq) for segment in segments}

    def commit(self, backlog: Backlog) -> Summary:
        """Commit all that was taken, and what is given up."""
        if backlog.missing:
            self._parts.append(self._give_up(backlog.missing))
        written = Written.join(part.written[TABLE] for part in self._parts)
        if written.rows != len(backlog.ready) + len(backlog.missing):
            raise RowsLost(
                f"{len(backlog.ready)} segments were read and {len(backlog.missing)} holes named, "
                f"{written.rows} rows written"
            )
        published = publish.commit(
            self._begun(),
            {TABLE: written},
            positions=backlog.reached.positions,
            facts=self._marked() | backlog.reached.facts(),
            now_ns=time.time_ns(),
        )
        return _summary(published, self._parts, written)

    def _marked(self) -> dict[str, Any]:
        """Since when recordings are marked to go, which is for `retention.py` to change."""
        facts = self._manifest.facts if self._manifest else {}
        return {EXPIRING: facts[EXPIRING]} if EXPIRING in facts else {}

    def _give_up(self, missing: Sequence[Missing]) -> Part:
        """Name these holes."""
        n, store, now_ns = self._begun().next_n, RawStore.open(self._storage), time.time_ns()
        return write_rows(self._storage, [missing_row(store, one, index_version=n, now_ns=now_ns) for one in missing])

    def _begun(self) -> publish.Base:
        if self._base is None:
            self._base = publish.begin(self._storage, CHAIN, planned_on=self._manifest, schemas={TABLE: SEGMENTS})
        return self._base


def index_batch(storage: Storage, index_version: int, items: Sequence[Item], *, settings: JobsSettings) -> Part:
    """What one task does: read each segment, examine it apart, write the rows as fragments."""
    store, sandbox = RawStore.open(storage), _own_sandbox(settings.examine_memory_bytes, settings.examine_limit_s)
    rows = [examine_apart(fetch(store, SegmentId(**item)), sandbox, index_version=index_version) for item in items]
    return write_rows(storage, rows)


def write_rows(storage: Storage, rows: Sequence[dict[str, Any]]) -> Part:
    """Rows as fragments, and which of them are no sound segments."""
    batch = pa.RecordBatch.from_pylist(list(rows), schema=SEGMENTS)
    written = publish.write(storage, CHAIN, TABLE, SEGMENTS, [batch])
    quarantined = {row["key"]: row["reason"] for row in rows if row["state"] == "quarantined"}
    gaps = {row["key"]: {name: row[name] for name in ("last_seq", "reason")} for row in rows if row["state"] == "gap"}
    return Part({TABLE: written}, {"quarantined": quarantined, "gaps": gaps})


@cache
def _own_sandbox(memory_bytes: int, limit_s: float) -> Sandbox:
    """This worker's, kept between its tasks: a new one takes a second to start."""
    return Sandbox(memory_bytes=memory_bytes, limit_s=limit_s)


def _told(parts: Sequence[Part], what: str) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.report[what].items()}


def _summary(published: Manifest, parts: Sequence[Part], written: Written) -> Summary:
    quarantined, gaps = _told(parts, "quarantined"), _told(parts, "gaps")
    notes = [f"quarantined {key}: {reason}" for key, reason in quarantined.items()]
    notes += [f"gap {key} to {gap['last_seq']:010d}: {gap['reason']}" for key, gap in gaps.items()]
    return Summary(
        NAME,
        CHAIN,
        versions=(published.n,),
        counts={"segments": written.rows - len(gaps), "quarantined": len(quarantined), "gaps": len(gaps)},
        rows={TABLE: written.rows},
        notes=tuple(notes),
    )
