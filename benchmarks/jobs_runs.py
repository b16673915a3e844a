"""Runs of the real jobs on a local Ray, and what CPU time they take.

Counted are the driver, every Ray worker and their children. Ray's own processes (raylet, GCS, its agents) and S3 are
kept apart. `Cluster.connect` is where Ray starts: nothing of that is counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import psutil

from benchmarks import jobs_footage as footage
from benchmarks.jobs_lake import S3, Put, forget
from benchmarks.jobs_peers import Loop
from benchmarks.measure import BenchmarkFailed, console, tree_cpu_s
from benchmarks.readings import JOINTS
from dataset_catalog.storage import Storage
from ray_jobs import align_frames, cluster, index_segments, load_telemetry
from ray_jobs.align_spec import AlignSpec, Column
from ray_jobs.settings import JobsSettings

T = TypeVar("T")

STORE_BYTES = 1 << 30  # of Ray's object store: what Ray's own reader needs, so as not to spill
_RAYS_OWN = ("raylet", "gcs_server", "log_monitor", "/dashboard/", "/runtime_env/agent", "/autoscaler/")
# they go by a worker's kind of name, and are one a cluster, whatever runs on it
_SERVICES = ("ray::DashboardAgent", "ray::_StatsActor", "ray::_AutoscalingCoordinatorActor")


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds, user and system: of the work, of Ray's own processes, of S3; and what the clock on the wall says."""

    cpu_s: float
    ray_s: float
    s3_s: float
    wall_s: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.cpu_s + other.cpu_s, self.ray_s + other.ray_s, self.s3_s + other.s3_s, self.wall_s + other.wall_s
        )


class Cluster:
    """The local Ray of this process, as `ray_jobs` starts it."""

    def __init__(self, s3: S3) -> None:
        self._s3_pid = s3.pid
        self.settings = JobsSettings(local_store_bytes=STORE_BYTES)

    def connect(self) -> None:
        """Start Ray, and say what that took: it is in no figure."""
        before = self._now()
        cluster.connect(self.settings)
        started = self._since(before)
        console.print(f"Ray's start, in no figure: {started.cpu_s + started.ray_s:.1f} CPU-s, {started.wall_s:.1f} s")

    def measured(self, work: Callable[[], T]) -> tuple[T, Spent]:
        """What `work` returns, and what it took."""
        before = self._now()
        found = work()
        return found, self._since(before)

    def _now(self) -> Spent:
        own, s3_s = _rays_own_s(), tree_cpu_s(self._s3_pid)
        return Spent(tree_cpu_s(os.getpid()) - own - s3_s, own, s3_s, time.monotonic())

    def _since(self, before: Spent) -> Spent:
        now = self._now()
        return Spent(
            now.cpu_s - before.cpu_s, now.ray_s - before.ray_s, now.s3_s - before.s3_s, now.wall_s - before.wall_s
        )


def _rays_own_s() -> float:
    """CPU time of Ray's own processes below this one, without that of workers, which are their children."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            line, times = " ".join(process.cmdline()[:3]), process.cpu_times()
            if any(word in line for word in (_SERVICES if "ray::" in line else _RAYS_OWN)):
                total += times.user + times.system
    return total


SPEC = AlignSpec(
    name="benchmark",
    reference=footage.CAMERA,
    columns={
        name: Column(topic=topic, field=field, size=len(JOINTS), policy=policy, tolerance_ms=60)
        for name, topic, field, policy in (
            ("state", footage.STATES, "position", "linear"),
            ("velocity", footage.STATES, "velocity", "nearest"),
            ("effort", footage.STATES, "effort", "previous"),
            ("action", footage.COMMANDS, "position", "nearest"),
            ("action_velocity", footage.COMMANDS, "velocity", "previous"),
        )
    },
)


@dataclass(frozen=True, slots=True)
class Took:
    """What one side of one round came to: its loops by name, and of jobs also what they took by name."""

    loops: Mapping[str, Loop]
    spent: Mapping[str, Spent] = field(default_factory=dict)


def whole_way(cluster: Cluster, lake: Storage, puts: Sequence[Put], *, frames: int, spec: AlignSpec = SPEC) -> Took:
    """Index the video, then the rest, then align: from raw/ alone to a published dataset, every time anew."""
    forget(lake, "lake", f"datasets/{spec.name}")
    video = {_stream(one) for one in puts if one.kind == "video"}
    indexed, index = cluster.measured(lambda: index_segments.run(lake, cluster.settings, only=video))
    others, rest = cluster.measured(lambda: index_segments.run(lake, cluster.settings))
    aligned, align = cluster.measured(lambda: align_frames.run(lake, cluster.settings, spec))
    _check(indexed.counts["segments"] + others.counts["segments"], len(puts), "segments were indexed")
    _check(indexed.counts["quarantined"] + others.counts["quarantined"], 0, "segments were quarantined")
    _check(aligned.rows.get("steps", 0), frames, "frames were aligned")
    loops = {
        "index": Loop(frames, index.cpu_s),
        "align": Loop(sum(len(one.body) for one in puts), align.cpu_s),
        "way": Loop(frames, (index + rest + align).cpu_s),
    }
    return Took(loops, {"index video": index, "index telemetry": rest, "align": align})


def telemetry_alone(cluster: Cluster, lake: Storage, *, messages: int) -> Took:
    """Load what is indexed already."""
    forget(lake, "lake/telemetry")
    loaded, spent = cluster.measured(lambda: load_telemetry.run(lake, cluster.settings))
    _check(loaded.counts["messages"], messages, "messages were loaded")
    _check(loaded.counts["undecoded"], 0, "messages were not decoded")
    return Took({"load": Loop(messages, spent.cpu_s)}, {"load": spent})


def index_all(cluster: Cluster, lake: Storage, *, segments: int) -> None:
    """Index a lake that is to be loaded from."""
    _check(index_segments.run(lake, cluster.settings).counts["segments"], segments, "segments were indexed")


def _stream(put: Put) -> tuple[str, str, str]:
    return (put.segment.robot, put.segment.recording, put.segment.stream)


def _check(found: int, expected: int, what: str) -> None:
    if found != expected:
        raise BenchmarkFailed(f"{found} {what}, expected {expected}")
