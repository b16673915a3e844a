"""The one place that talks to Ray: connect quietly, hand out work, get every piece back exactly once."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

from dataset_catalog.publish import Written
from ray_jobs.errors import WorkFailed
from ray_jobs.settings import JobsSettings

Item = Mapping[str, Any]
Progress = Callable[[int, int], None]
RETRIES = 3  # of a task whose worker or node dies, so that what kills every worker it meets does not go on for ever


@dataclass(frozen=True, slots=True)
class Part:
    """What one task gives back: the fragments it wrote per table, and what it has to tell."""

    written: dict[str, Written]
    report: dict[str, Any] = field(default_factory=dict)


def no_progress(done: int, total: int) -> None:
    """Nobody watches."""


def connect(settings: JobsSettings) -> None:
    """A Ray to work on: the running one, the one that `RAY_ADDRESS` names, else a local one till this process ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray forks only to start its processes
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **_local(settings))


def _local(settings: JobsSettings) -> dict[str, Any]:
    if os.environ.get("RAY_ADDRESS"):
        return {}
    return {
        "include_dashboard": False,
        "num_cpus": settings.local_cpus,
        "object_store_memory": settings.local_store_bytes,
    }


def fan_out(
    items: Sequence[Item],
    work: Callable[[list[Item]], Part],
    *,
    per_task: int,
    settings: JobsSettings,
    progress: Progress = no_progress,
) -> list[Part]:
    """`work` over all items, in tasks of neighbours; the parts in the order of the items.

    Raises what `work` raised, or `WorkFailed`; the tasks that are not done then are ended.
    """
    import ray

    connect(settings)
    shared, shares = ray.put(work), _shares(items, per_task=per_task, cpus=int(ray.cluster_resources().get("CPU", 1)))
    tasks = {_task().remote(shared, share): number for number, share in enumerate(shares)}
    parts: dict[int, Part] = {}
    done = 0
    progress(0, len(items))
    for task, part in _ended(list(tasks)):
        parts[tasks[task]] = part
        done += len(shares[tasks[task]])
        progress(done, len(items))
    return [parts[number] for number in range(len(shares))]


def _shares(items: Sequence[Item], *, per_task: int, cpus: int) -> list[list[Item]]:
    """At most `per_task` neighbours each, of nearly one size, and something for every CPU."""
    count = max(min(len(items), cpus), math.ceil(len(items) / per_task))
    bounds = [number * len(items) // count for number in range(count + 1)]
    return [list(items[first:last]) for first, last in pairwise(bounds)]


@cache
def _task() -> Any:
    """`_perform` as a task, on whichever node is free; again, where its worker or its node dies."""
    import ray

    return ray.remote(_perform).options(max_retries=RETRIES, scheduling_strategy="SPREAD")


def _perform(work: Callable[[list[Item]], Part], share: list[Item]) -> Part:
    return work(share)


def _ended(tasks: list[Any]) -> Iterator[tuple[Any, Part]]:
    """Every task with its part, as they come. An error of Ray's own becomes one of ours, that of the work stays."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    left = tasks
    try:
        while left:
            (task,), left = ray.wait(left)
            yield task, ray.get(task)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WorkFailed(f"Ray could not do the work: {said}") from error
    finally:
        for task in left:
            ray.cancel(task, force=True)  # else a worker goes on, and may answer a question of before
