"""Messages a second through the recorder until its segments are sealed, beside a bare mcap writer."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcap.reader import make_reader
from mcap.writer import Writer

from benchmarks.measure import BenchmarkFailed, Result, console, interleaved, median_ratio, tree_cpu_s
from benchmarks.readings import Reading, joint_states, mean_json_bytes
from edge.recorder import Recorder
from edge.settings import EdgeSettings
from edge.spool import Spool

TOPIC = "/joint_states"
START_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """What so many messages took until they were on the disk."""

    messages: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.messages / self.wall_s

    @property
    def per_cpu_s(self) -> float:
        return self.messages / self.cpu_s


def log_beside_mcap(folder: Path, *, rounds: int, messages: int) -> Result:
    """The recorder until its segments are sealed, and a bare `mcap` writer until its file is synced."""
    readings = joint_states()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        sides = {
            "recorder": lambda number: _record(Path(place) / f"recorder-{number}", readings, messages),
            "mcap": lambda number: _write(Path(place) / f"{number}.mcap", readings, messages),
        }
        found = interleaved(rounds, sides)
    wall = {name: [one.per_s for one in costs] for name, costs in found.items()}
    cpu = {name: [one.per_cpu_s for one in costs] for name, costs in found.items()}
    for name in found:
        per_s, per_cpu_s = statistics.median(wall[name]), statistics.median(cpu[name])
        console.print(f"  {name:<9} {per_s:>8,.0f} messages/s of wall-clock time, {per_cpu_s:>8,.0f} of CPU time")
    cpu_ratio = median_ratio(cpu["recorder"], cpu["mcap"])
    medians = " | ".join(f"{statistics.median(per_s):,.0f}" for per_s in wall.values())
    return Result(
        "log_vs_mcap_writer",
        median_ratio(wall["recorder"], wall["mcap"]),
        "of mcap's",
        0.8,
        "higher",
        f"{rounds} interleaved rounds of {messages:,} dicts of {mean_json_bytes(readings):.0f} B: "
        "until sealed | one mcap file, zstd chunks, synced",
        f"{medians} messages/s; by CPU time {cpu_ratio:.2f}",
    )


def _record(folder: Path, readings: Sequence[Reading], messages: int) -> Cost:
    cpu_s, began_s = tree_cpu_s(os.getpid()), time.perf_counter()
    recorder = Recorder(folder, settings=EdgeSettings(folder=folder), wait_for_room=True)
    with recorder:
        for tick, reading in _ticks(readings, messages):
            recorder.log(TOPIC, START_NS + tick * STEP_NS, reading)
    wall_s = time.perf_counter() - began_s
    cost = Cost(messages, wall_s, tree_cpu_s(os.getpid()) - cpu_s)
    sealed = sum(segment.counts.get(TOPIC, 0) for segment in Spool(folder).waiting())
    if sealed != messages or recorder.dropped:
        raise BenchmarkFailed(f"{messages} messages were logged, {sealed} are sealed, dropped: {recorder.dropped}")
    return cost


def _write(path: Path, readings: Sequence[Reading], messages: int) -> Cost:
    cpu_s, began_s = tree_cpu_s(os.getpid()), time.perf_counter()
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel(TOPIC, "json", schema_id=0)
        for tick, reading in _ticks(readings, messages):
            t_ns, data = START_NS + tick * STEP_NS, json.dumps(reading, separators=(",", ":")).encode()
            writer.add_message(channel, log_time=t_ns, publish_time=t_ns, sequence=tick, data=data)
        writer.finish()
        file.flush()
        os.fsync(file.fileno())
    wall_s = time.perf_counter() - began_s
    cost = Cost(messages, wall_s, tree_cpu_s(os.getpid()) - cpu_s)
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    if summary is None or summary.statistics is None or summary.statistics.message_count != messages:
        raise BenchmarkFailed(f"the mcap writer's file does not hold {messages} messages")
    return cost


def _ticks(readings: Sequence[Reading], messages: int) -> Iterator[tuple[int, Reading]]:
    return enumerate(itertools.islice(itertools.cycle(readings), messages))
