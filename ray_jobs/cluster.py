"""The one place that talks to Ray: connect quietly, hand out work, get every piece back exactly once."""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
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

    Items are JSON values. Raises what `work` raised, with a word of Ray Data's behind it, `WorkFailed` for what Ray
    itself raises, and `RowsLost` unless every task came back exactly once. What other tasks still write then is
    published by nobody.
    """
    if not items:
        return []
    import ray

    connect(settings)
    shares = _shares(items, per_task=per_task, cpus=int(ray.cluster_resources().get("CPU", 1)))
    parts: list[tuple[int, Part]] = []
    done = 0
    progress(0, len(items))
    for number, part in _stream(shares, work):
        parts.append((number, part))
        done += len(shares[number])
        progress(done, len(items))
    parts.sort(key=lambda one: one[0])
    if [number for number, _ in parts] != list(range(len(shares))):
        raise RowsLost(f"{len(shares)} tasks were given out, {[number for number, _ in parts]} came back")
    return [part for _, part in parts]


def _shares(items: Sequence[Item], *, per_task: int, cpus: int) -> list[list[Item]]:
    """At most `per_task` neighbours each, of nearly one size, and something for every CPU."""
    count = max(min(len(items), cpus), math.ceil(len(items) / per_task))
    bounds = [number * len(items) // count for number in range(count + 1)]
    return [list(items[first:last]) for first, last in pairwise(bounds)]


def _stream(shares: Sequence[list[Item]], work: Callable[[list[Item]], Part]) -> Iterator[tuple[int, Part]]:
    """A block of Ray Data for every share; each comes back as it is done."""
    import ray.data

    _be_quiet()
    rows = [{"number": number, "share": json.dumps(share)} for number, share in enumerate(shares)]
    blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
    done = blocks.map_batches(_Task(work), batch_size=None, batch_format="pyarrow")
    # with batches ahead, a part would be told of when the next one is done
    for block in _told(done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)):
        for row in block.to_pylist():
            yield row["number"], _part(json.loads(row["part"]))


def _part(found: dict[str, Any]) -> Part:
    written = {name: Written(part["rows"], tuple(part["fragments"])) for name, part in found["written"].items()}
    return Part(written, found["report"])


def _told(rows: Iterator[Any]) -> Iterator[Any]:
    """The same rows; an error of Ray's own becomes one of ours, what the work raises stays as it is."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield from rows
    except RayError as error:
        found = error.cause if isinstance(error, RayTaskError) else error
        if not isinstance(found, RayError):
            raise found from error
        said = str(found).strip().partition("\n")[0] or type(found).__name__
        raise WorkFailed(f"Ray could not do the work: {said}") from error


class _Task:
    """One share in, one part out; what crosses is JSON."""

    def __init__(self, work: Callable[[list[Item]], Part]) -> None:
        self._work = work

    def __call__(self, block: Any) -> Any:
        import pyarrow as pa

        parts = [self._work(json.loads(share)) for share in block["share"].to_pylist()]
        return pa.table({"number": block["number"], "part": [json.dumps(asdict(part)) for part in parts]})


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
