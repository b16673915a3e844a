"""The job backfill: align episodes of a dataset again, of a robot or a range of time, also by a changed spec.

Their rows are replaced in a new version; older versions keep theirs. What has not been aligned yet is aligned too.
"""

from __future__ import annotations

import time
from dataclasses import replace

from dataset_catalog import publish, versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest
from ray_jobs.align_frames import POSITION, SPEC, align, nothing
from ray_jobs.align_plan import plan_again
from ray_jobs.align_spec import AlignSpec
from ray_jobs.cluster import Progress, no_progress
from ray_jobs.errors import SpecError
from ray_jobs.settings import JobsSettings
from ray_jobs.summary import Summary

NAME = "backfill"
END_NS = 2**63 - 1


def run(
    storage: Storage,
    settings: JobsSettings,
    spec: AlignSpec,
    *,
    robot: str | None = None,
    start_ns: int = 0,
    end_ns: int = END_NS,
    progress: Progress = no_progress,
) -> Summary:
    """Align again what overlaps `[start_ns, end_ns)`, of one robot or of all. From then on the dataset has this spec.

    Raises `SpecError` if there is no such dataset, or its columns are others.
    """
    started = time.monotonic()
    chain = f"{versions.DATASETS}/{spec.name}"
    indexed, published = versions.newest(storage, versions.SEGMENTS), versions.newest(storage, chain)
    if indexed is None or published is None:
        raise SpecError(f"there is no dataset {spec.name} yet: align_frames builds it")
    _check_same_columns(spec, published)
    publish.tag(storage, chain, published)
    plan = plan_again(
        storage,
        spec,
        indexed=indexed,
        published=published,
        robot=robot,
        start_ns=start_ns,
        end_ns=end_ns,
        threads=settings.read_threads,
    )
    position = published.positions[POSITION]
    done = align(storage, settings, spec, plan, published, progress, position=position, reached=position)
    summary = replace(nothing(NAME, chain) + done, job=NAME)
    if summary.versions and published.facts[SPEC] != spec.model_dump(mode="json"):
        summary += Summary(NAME, chain, notes=_left(storage, chain, summary.rows["episodes"]))
    return summary.timed(started)


def _left(storage: Storage, chain: str, aligned: int) -> tuple[str, ...]:
    """How many episodes the changed spec has not reached: windows take one policy and tolerance a column for all."""
    manifest = versions.newest(storage, chain)
    left = open_table(storage, chain, manifest, "episodes").count_rows() - aligned if manifest else 0
    return (f"{left} episodes are still as the spec of before made them",) if left else ()


def _check_same_columns(spec: AlignSpec, published: Manifest) -> None:
    """Their order may be another: a manifest does not keep it."""
    before = AlignSpec.model_validate(published.facts[SPEC])
    ours, theirs = ({f"{field.name}: {field.type}" for field in one.steps_schema} for one in (spec, before))
    if ours != theirs:
        differ = ", ".join(sorted(ours ^ theirs))
        raise SpecError(f"dataset {spec.name} has other columns ({differ}): give the new one a new name")
