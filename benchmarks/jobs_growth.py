"""Whether the work for one recording grows with how many there are, and what a run costs that finds nothing new."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import jobs_footage as footage
from benchmarks.jobs_lake import S3, Put, Shape, count, record
from benchmarks.jobs_runs import Cluster, Spent, Took, telemetry_alone, whole_way
from benchmarks.measure import console, interleaved
from dataset_catalog.storage import Storage
from ray_jobs import index_segments

FACTORS = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class Size:
    """One lake: its recordings, and what every round came to."""

    recordings: int
    streams: int
    took: Sequence[Took]
    idle: Sequence[Spent]

    def per_recording_s(self) -> list[float]:
        """CPU seconds of all jobs for one recording, round by round."""
        return [sum(one.cpu_s for one in took.spent.values()) / self.recordings for took in self.took]


def grow(
    s3: S3,
    cluster: Cluster,
    shape: Shape,
    telemetry: footage.Telemetry,
    clips: Sequence[footage.Clip],
    *,
    rounds: int,
) -> dict[int, Size]:
    """`shape` is the smallest lake; the others have 4 and 16 times its recordings. The first round does not count."""
    lakes: dict[int, tuple[Storage, list[Put]]] = {}
    for factor in FACTORS:
        lake = s3.lake(f"grown-{factor}")
        grown = replace(shape, recordings=shape.recordings * factor)
        lakes[factor] = (lake, record(lake, grown, telemetry, clips))
    sides = {str(factor): _side(cluster, *lakes[factor]) for factor in FACTORS}
    found = interleaved(rounds + 1, sides)
    sizes = {}
    for factor in FACTORS:
        streams = len({(one.segment.recording, one.segment.stream) for one in lakes[factor][1]})
        counted = found[str(factor)][1:]
        took, idle = [one for one, _ in counted], [one for _, one in counted]
        sizes[factor] = Size(shape.recordings * factor, streams, took, idle)
    return sizes


def _side(cluster: Cluster, lake: Storage, puts: list[Put]) -> Callable[[int], tuple[Took, Spent]]:
    frames, messages = count(puts, "video"), count(puts, "telemetry")

    def run(_: int) -> tuple[Took, Spent]:
        way = whole_way(cluster, lake, puts, frames=frames)
        load = telemetry_alone(cluster, lake, messages=messages)
        _nothing, idle = cluster.measured(lambda: index_segments.run(lake, cluster.settings))
        return Took({}, {**way.spent, **load.spent}), idle

    return run


def show(sizes: Mapping[int, Size]) -> None:
    for factor, size in sizes.items():
        each, idle = statistics.median(size.per_recording_s()), [one.cpu_s for one in size.idle]
        console.print(
            f"  {factor:>2} × {size.recordings // factor} recordings: {each * 1e3:,.0f} ms CPU a recording; a run with "
            f"nothing new {statistics.median(idle) * 1e3:,.0f} ms for {size.streams} streams, "
            f"{statistics.median(idle) / size.streams * 1e3:.2f} ms each"
        )
