"""A robot's own program, as small as it can be: a control loop that logs, a camera thread that hands over pictures.

Run as a process: `python -m benchmarks.robot_program --folder F --pictures P --hz 1000 --topics 1 --seconds 40`.
It says `ready`, begins when it is sent a line, tells what it saw as one line of JSON when everything is sealed, and
ends when its standard input ends; between them it can be looked at from outside. It imports nothing that a robot's
program would not. The loops also run without a recorder: `--instead nothing` drops what they hand over and shows what
they cost themselves, `--instead json` makes JSON of the messages and shows what the machine does to any such call.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from benchmarks import camera
from benchmarks.readings import joint_states
from edge.recorder import Recorder
from edge.settings import EdgeSettings

CAMERA = "head_camera"
READY = "ready"
DIFFERENT_S = 10  # a segment's length: no segment holds the same message twice


class Records(Protocol):
    """The part of a recorder that the loops use."""

    def log(self, topic: str, t_ns: int, message: Any, /) -> None: ...

    def image(self, stream: str, t_ns: int, image: camera.Image, /) -> None: ...


class Nothing:
    """Drops everything."""

    def log(self, topic: str, t_ns: int, message: Any, /) -> None:
        pass

    def image(self, stream: str, t_ns: int, image: camera.Image, /) -> None:
        pass


class Json(Nothing):
    """Makes JSON of each message, and drops it."""

    def log(self, topic: str, t_ns: int, message: Any, /) -> None:
        json.dumps(message, separators=(",", ":")).encode()


STAND_INS = {"nothing": Nothing, "json": Json}


def live(records: Records, *, hz: int, topics: int, seconds: float, pictures: Path) -> dict[str, Any]:
    """Log and show pictures for `seconds`; how long each call took and how late the control loop woke, in ns."""
    shows = threading.Thread(target=_show, args=(records, pictures, round(seconds * camera.FPS)), name="camera")
    shows.start()
    calls, lateness = _control(records, hz=hz, topics=topics, seconds=seconds)
    shows.join()
    return {"calls_ns": calls.tolist(), "late_ns": lateness.tolist()}


def _control(records: Records, *, hz: int, topics: int, seconds: float) -> tuple[array[int], array[int]]:
    """Durations of the single `log` calls, and how much later than it had asked for each tick woke, in ns."""
    readings = itertools.cycle(joint_states(hz * topics * DIFFERENT_S))
    names = [f"/joint_states_{number}" for number in range(topics)]
    calls, lateness = array("q"), array("q")
    for late_ns in _ticks(round(seconds * hz), hz=hz):
        lateness.append(late_ns)
        t_ns = time.time_ns()
        for name, message in zip(names, readings, strict=False):
            began_ns = time.perf_counter_ns()
            records.log(name, t_ns, message)
            calls.append(time.perf_counter_ns() - began_ns)
    return calls, lateness


def _show(records: Records, pictures: Path, frames: int) -> None:
    for _, image in zip(_ticks(frames, hz=camera.FPS), camera.read_pictures(pictures), strict=False):
        records.image(CAMERA, time.time_ns(), image)


def _ticks(count: int, *, hz: int) -> Iterator[int]:
    """Sleep to each tick of a fixed grid; how late it woke, in ns. One that has passed already is not waited for."""
    period_ns = 1_000_000_000 // hz
    due_ns = time.perf_counter_ns()
    for _ in range(count):
        due_ns += period_ns
        time.sleep(max(0, due_ns - time.perf_counter_ns()) / 1e9)
        yield time.perf_counter_ns() - due_ns


def _record(asked: argparse.Namespace) -> dict[str, Any]:
    recorder = Recorder(asked.folder, settings=EdgeSettings(folder=asked.folder))
    _wait_for_start()
    with recorder:
        told = live(recorder, hz=asked.hz, topics=asked.topics, seconds=asked.seconds, pictures=asked.pictures)
    return {**told, "counts": recorder.counts, "dropped": recorder.dropped}


def _go_without(asked: argparse.Namespace) -> dict[str, Any]:
    _wait_for_start()
    told = live(
        STAND_INS[asked.instead](), hz=asked.hz, topics=asked.topics, seconds=asked.seconds, pictures=asked.pictures
    )
    return {**told, "counts": {}, "dropped": {}}


def _wait_for_start() -> None:
    print(READY, flush=True)
    sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--hz", type=int, required=True)
    parser.add_argument("--topics", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--instead", choices=STAND_INS)
    asked = parser.parse_args()
    print(json.dumps(_go_without(asked) if asked.instead else _record(asked)), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
