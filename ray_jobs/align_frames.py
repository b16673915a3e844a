"""The job align_frames: an align spec and the raw segments of whole episodes → one version of datasets/<name>."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from dataset_catalog import publish, versions
from dataset_catalog.errors import RowsLost
from dataset_catalog.publish import Written
from dataset_catalog.rendition import H264_G10, Fidelity
from dataset_catalog.schema import EPISODES, GOPS, SERIES, STATISTICS
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains
from dataset_catalog.versions import Manifest
from ray_jobs.align_episode import align_batch
from ray_jobs.align_plan import Plan, Work, make_plan
from ray_jobs.align_spec import AlignSpec
from ray_jobs.cluster import Part, Progress, fan_out, no_progress
from ray_jobs.errors import SpecError
from ray_jobs.settings import JobsSettings
from ray_jobs.summary import Summary

NAME = "align_frames"
POSITION = "segments"  # the version of lake/segments that has been consumed
SPEC = "spec"  # the fact of a manifest that holds the spec its rows were made by


def run(storage: Storage, settings: JobsSettings, spec: AlignSpec, *, progress: Progress = no_progress) -> Summary:
    """Align every episode that is whole and not yet in the dataset, and again each that late data have changed.

    Publishes nothing where there is none. Raises `SpecError` if the dataset was built by another spec.
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
    summary = nothing(NAME, chain)
    if indexed is None:
        return summary
    plan = make_plan(
        storage, spec, indexed=indexed, published=published, position=position, threads=settings.read_threads
    )
    done = align(storage, settings, spec, plan, published, progress, position=position, reached=indexed.n)
    return (summary + done).timed(started)


def nothing(job: str, chain: str) -> Summary:
    """What a run comes to that had nothing to do."""
    return Summary(job, chain, counts={"episodes": 0, "replaced": 0, "skipped": 0, "waiting for data": 0})


def align(
    storage: Storage,
    settings: JobsSettings,
    spec: AlignSpec,
    plan: Plan,
    published: Manifest | None,
    progress: Progress,
    *,
    position: int,
    reached: int,
) -> Summary:
    """Do what is planned, in one version or several; the last has the position `reached`."""
    summary = nothing(NAME, f"{versions.DATASETS}/{spec.name}")
    size = settings.episodes_per_commit
    for start in range(0, len(plan.work), size):
        at = reached if start + size >= len(plan.work) else position
        done, published = _align(storage, settings, spec, plan.work[start : start + size], published, at, progress)
        summary += done
    notes = (f"{plan.gone} recordings are kept no longer: their episodes stay as they are",) if plan.gone else ()
    return summary + Summary(NAME, summary.chain, counts={"waiting for data": plan.waiting}, notes=notes)


def _align(
    storage: Storage,
    settings: JobsSettings,
    spec: AlignSpec,
    work: Sequence[Work],
    published: Manifest | None,
    reached: int,
    progress: Progress,
) -> tuple[Summary, Manifest | None]:
    """Align these episodes and publish them together; the position moves on only with something published.

    What they replace goes in the same version, but stays where the episode cannot be aligned any more.
    """
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
    replaced = sorted({name for one in work if one.episode.episode_id not in skipped for name in one.replaces})
    if written["episodes"].rows:
        facts = {SPEC: spec.model_dump(mode="json"), "skipped": skipped}
        positions = {POSITION: reached}
        gone = contains("episode_id", replaced) if replaced else ""
        published = publish.commit(base, written, positions=positions, facts=facts, gone=gone, now_ns=time.time_ns())
    return _summary(chain, base, parts, written, skipped, replaced), published


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
    chain: str,
    base: publish.Base,
    parts: Sequence[Part],
    written: Mapping[str, Written],
    skipped: Mapping[str, str],
    replaced: Sequence[str],
) -> Summary:
    aligned = written["episodes"].rows
    counts: dict[str, Any] = {"episodes": aligned, "replaced": len(replaced), "skipped": len(skipped)}
    notes = _skipped_notes(skipped)
    total = Fidelity.join(Fidelity(**part.report["fidelity"]) for part in parts)
    if total.frames:
        weights = f"{total.source_bytes / total.frames:,.0f} → {total.bytes / total.frames:,.0f} bytes a frame"
        notes.append(f"{H264_G10}: {total.frames:,} frames, {weights}, PSNR {total.psnr_db:.1f} dB (luma)")
    rows = {table: part.rows for table, part in written.items()} if aligned else {}
    return Summary(NAME, chain, (base.next_n,) if aligned else (), counts, rows, tuple(notes))
