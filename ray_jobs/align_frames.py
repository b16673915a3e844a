"""The job align_frames: an align spec and the raw segments of whole episodes → one version of datasets/<name>."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from dataset_catalog import versions
from dataset_catalog.schema import EPISODES, GOPS, SERIES, STATISTICS
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest
from ray_jobs import publish
from ray_jobs.align_episode import align_batch
from ray_jobs.align_plan import Work, make_plan
from ray_jobs.align_spec import AlignSpec
from ray_jobs.cluster import Part, Progress, fan_out, no_progress
from ray_jobs.errors import RowsLost, SpecError
from ray_jobs.publish import Written
from ray_jobs.rendition import H264_G10, Fidelity
from ray_jobs.settings import JobsSettings
from ray_jobs.summary import Summary

NAME = "align_frames"
POSITION = "segments"  # the version of lake/segments that has been consumed
SPEC = "spec"  # the fact of a manifest that holds the spec its rows were made by


def run(storage: Storage, settings: JobsSettings, spec: AlignSpec, *, progress: Progress = no_progress) -> Summary:
    """Align every episode that is whole and not yet in the dataset; publishes nothing where there is none.

    Raises `SpecError` if the dataset was built by another spec.
    """
    started = time.monotonic()
    chain = f"{versions.DATASETS}/{spec.name}"
    indexed = versions.newest(storage, versions.SEGMENTS)
    published = versions.newest(storage, chain)
    _check_same_spec(spec, published)
    position = 0
    if published:
        position = published.positions[POSITION]
        publish.tag(storage, chain, published)
    summary = Summary(NAME, chain, counts={"episodes": 0, "skipped": 0, "waiting for data": 0})
    if indexed is None:
        return summary
    plan = make_plan(
        storage, spec, indexed=indexed, published=published, position=position, threads=settings.read_threads
    )
    size = settings.episodes_per_commit
    for start in range(0, len(plan.work), size):
        reached = indexed.n if start + size >= len(plan.work) else position
        work = plan.work[start : start + size]
        done, published = _align(storage, settings, spec, work, published, reached, progress)
        summary += done
    waiting = Summary(NAME, chain, counts={"waiting for data": plan.waiting})
    return (summary + waiting).timed(started)


def _align(
    storage: Storage,
    settings: JobsSettings,
    spec: AlignSpec,
    work: Sequence[Work],
    published: Manifest | None,
    reached: int,
    progress: Progress,
) -> tuple[Summary, Manifest | None]:
    """Align these episodes and publish them together; the position moves on only with something published."""
    chain = f"{versions.DATASETS}/{spec.name}"
    base = publish.begin(storage, chain, planned_on=published, schemas=_schemas(spec))
    parts = fan_out(
        [one.as_json() for one in work],
        partial(align_batch, storage, spec),
        per_task=settings.episodes_per_task,
        settings=settings,
        progress=progress,
    )
    written = {table: Written.join(part.written[table] for part in parts) for table in _schemas(spec)}
    skipped = {episode: reason for part in parts for episode, reason in part.report["skipped"].items()}
    if written["episodes"].rows + len(skipped) != len(work):
        raise RowsLost(f"{len(work)} episodes were given out, {written['episodes'].rows} + {len(skipped)} came back")
    if written["episodes"].rows:
        facts = {SPEC: spec.model_dump(mode="json"), "skipped": skipped}
        positions = {POSITION: reached}
        published = publish.commit(base, written, positions=positions, facts=facts, now_ns=time.time_ns())
    return _summary(chain, base, parts, written, skipped), published


def _schemas(spec: AlignSpec) -> dict[str, pa.Schema]:
    return {
        "steps": spec.steps_schema,
        "series": SERIES,
        "gops": GOPS,
        "statistics": STATISTICS,
        "episodes": EPISODES,
    }


def _check_same_spec(spec: AlignSpec, published: Manifest | None) -> None:
    before = published.facts.get(SPEC) if published else None
    now = spec.model_dump(mode="json")
    if before is not None and before != now:
        changed = ", ".join(sorted(key for key in now if now[key] != before.get(key)))
        raise SpecError(
            f"dataset {spec.name} was built by another spec ({changed} differ): give the new one a new name"
        )


def _skipped_notes(skipped: Mapping[str, str]) -> list[str]:
    """One line a reason; the manifest names every episode."""
    by_reason: dict[str, list[str]] = {}
    for episode, reason in sorted(skipped.items()):
        by_reason.setdefault(reason, []).append(episode)
    return [f"skipped {len(found)} ({_first(found)}): {reason}" for reason, found in by_reason.items()]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (" …" if len(names) > 2 else "")


def _summary(
    chain: str, base: publish.Base, parts: Sequence[Part], written: Mapping[str, Written], skipped: Mapping[str, str]
) -> Summary:
    aligned = written["episodes"].rows
    counts: dict[str, Any] = {"episodes": aligned, "skipped": len(skipped)}
    notes = _skipped_notes(skipped)
    total = Fidelity.join(Fidelity(**part.report["fidelity"]) for part in parts)
    if total.frames:
        weights = f"{total.source_bytes / total.frames:,.0f} → {total.bytes / total.frames:,.0f} bytes a frame"
        notes.append(f"{H264_G10}: {total.frames:,} frames, {weights}, PSNR {total.psnr_db:.1f} dB (luma)")
    rows = {table: part.rows for table, part in written.items()} if aligned else {}
    return Summary(NAME, chain, (base.next_n,) if aligned else (), counts, rows, tuple(notes))
