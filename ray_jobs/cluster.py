"""The one place that talks to Ray: connect quietly, hand out work, get every piece back exactly once."""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dataset_catalog.errors import RowsLost
from dataset_catalog.publish import Written
from ray_jobs.errors import WorkFailed
from ray_jobs.settings import JobsSettings

Item = Mapping[str, Any]
Progress = Callable[[int, int], None]


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

    Items are JSON values. Raises what `work` raised, or `RowsLost` unless every item came back exactly once.
    """
    connect(settings)
    results: list[tuple[list[int], Part]] = []
    done = 0
    progress(0, len(items))
    for numbers, part in _stream(items, work, per_task):
        results.append((numbers, part))
        done += len(numbers)
        progress(done, len(items))
    results.sort(key=lambda result: result[0])
    returned = [number for numbers, _ in results for number in numbers]
    if returned != list(range(len(items))):
        raise RowsLost(f"{len(items)} pieces of work were given out, {len(set(returned))} of {len(returned)} came back")
    return [part for _, part in results]


def _stream(
    items: Sequence[Item], work: Callable[[list[Item]], Part], per_task: int
) -> Iterator[tuple[list[int], Part]]:
    import ray.data

    _be_quiet()
    cpus = int(ray.cluster_resources().get("CPU", 1))
    blocks = max(min(len(items), cpus), math.ceil(len(items) / per_task))
    numbered = [{"number": number, "item": json.dumps(item)} for number, item in enumerate(items)]
    dataset = ray.data.from_items(numbered, override_num_blocks=blocks)
    for row in _told(dataset.map_batches(_Task(work), batch_size=None, batch_format="pyarrow").iter_rows()):
        found = json.loads(row["part"])
        written = {name: Written(part["rows"], tuple(part["fragments"])) for name, part in found["written"].items()}
        yield found["numbers"], Part(written, found["report"])


def _told(rows: Iterator[Any]) -> Iterator[Any]:
    """The same rows; an error of Ray's own becomes one of ours, what the work raises stays as it is."""
    from ray.exceptions import RayError

    try:
        yield from rows
    except RayError as error:
        raise WorkFailed(f"Ray could not do the work: {str(error).strip().partition(chr(10))[0]}") from error


class _Task:
    """One block of items in, one row out; what crosses is JSON."""

    def __init__(self, work: Callable[[list[Item]], Part]) -> None:
        self._work = work

    def __call__(self, block: Any) -> Any:
        import pyarrow as pa

        part = self._work([json.loads(text) for text in block["item"].to_pylist()])
        return pa.table({"part": [json.dumps({"numbers": block["number"].to_pylist(), **asdict(part)})]})


def _be_quiet() -> None:
    import ray.data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray's own settings warn of each other
        context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
