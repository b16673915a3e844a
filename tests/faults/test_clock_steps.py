"""The robot's clock is stepped by ten years, while it records and while it uploads: all arrives, in order."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.identity import Identity
from edge.recorder import Recorder
from edge.segment import read_messages
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.uploader import Uploader
from edge.wire import RobotClock, SegmentId
from ingest_serve.raw_store import RawStore
from tests.ingest_serve.conftest import Robot, Server, serve
from tests.ingest_serve.conftest import s3_endpoint as s3_endpoint
from tests.ingest_serve.conftest import storage as storage

TEN_YEARS_NS = 10 * 365 * 86_400 * 1_000_000_000
ROBOT = "clock-robot"
STEPS = [(TEN_YEARS_NS, -TEN_YEARS_NS), (-TEN_YEARS_NS, TEN_YEARS_NS)]


class WallClock:
    """A wall clock that somebody sets."""

    def __init__(self) -> None:
        self.offset_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.offset_ns


@pytest.fixture
def server(storage: object) -> Iterator[Server]:
    with serve(storage) as running:  # type: ignore[arg-type]
        yield running


@pytest.mark.parametrize(("while_recording", "while_uploading"), STEPS)
def test_a_clock_stepped_by_ten_years_loses_and_reorders_nothing(
    tmp_path: Path, server: Server, while_recording: int, while_uploading: int
) -> None:
    clock, robot = WallClock(), server.new_robot(ROBOT)
    settings = EdgeSettings(folder=tmp_path, url=server.url, scan_s=0.01, max_backoff_s=0.01)
    recording, steps = _record(settings, clock, step_ns=while_recording)
    uploader = Uploader(Spool(tmp_path), Identity(ROBOT, robot.key), settings=settings, clock=clock)
    uploader.run(threading.Event(), until_empty=True)
    clock.offset_ns = while_uploading
    second, _ = _record(settings, clock, step_ns=0)
    uploader.run(threading.Event(), until_empty=True)
    assert not list(Spool(tmp_path).waiting())

    arrived = _messages(server, recording)
    assert [json.loads(data)["n"] for _, _, data in arrived] == list(range(len(steps)))
    assert [t_ns for t_ns, _, _ in arrived] == steps
    steady = [publish_ns for _, publish_ns, _ in arrived]
    assert steady == sorted(steady)
    assert steady[-1] - steady[0] < 60_000_000_000, "the steady time does not step"
    assert len(_messages(server, second)) == len(steps)
    for name, wall_ns in ((recording, while_recording), (second, while_uploading)):
        _check_told_clock(server, robot, name, off_ns=-wall_ns)


def _record(settings: EdgeSettings, clock: WallClock, *, step_ns: int) -> tuple[str, list[int]]:
    """Sixty messages with the wall clock's times, stepped half-way."""
    times = []
    with Recorder(settings=settings, clock=clock) as recorder:
        for n in range(60):
            if n == 30 and step_ns:
                clock.offset_ns = step_ns
            if n % 20 == 19:
                recorder.cut()
            times.append(clock())
            recorder.log("/n", times[-1], {"n": n})
    return recorder.recording_id, times


def _messages(server: Server, recording: str) -> list[tuple[int, int | None, bytes]]:
    store = RawStore(server.bucket)
    found = []
    for seq in store.list_after(ROBOT, recording, "telemetry", -1):
        body = store.get(SegmentId(ROBOT, recording, "telemetry", seq))
        found += [(one.t_ns, one.publish_ns, one.data) for one in read_messages(io.BytesIO(body))]
    return found


def _check_told_clock(server: Server, robot: Robot, recording: str, *, off_ns: int) -> None:
    """What the robot said of its clock stands with the recording's objects, and holds the truth."""
    store = RawStore(server.bucket)
    names = [
        SegmentId(ROBOT, recording, "telemetry", seq) for seq in store.list_after(ROBOT, recording, "telemetry", -1)
    ]
    told = [RobotClock.parse_field(field) for name in names if (field := store.head(name).robot_clock)]
    assert told, "nothing was said of the clock"
    for one in told:
        assert abs(one.offset_ns - off_ns) <= one.uncertainty_ns + 5_000_000  # the clock was read once for both
        assert 0 < one.uncertainty_ns < 10_000_000_000
        assert one.drift_uncertainty_ppb > 0
