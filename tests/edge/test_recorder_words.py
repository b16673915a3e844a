"""What a recording says of itself: what made it, how it does, what it let go, where it ended, and on which clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.clock import boot_id
from edge.disk import DISK
from edge.recorder import Recorder
from edge.recovery import recover
from edge.segment import Message
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.state_file import read_state, write_state
from edge.stream_log import StreamLog

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

START_NS = 1_760_000_000_000_000_000
TEN_YEARS_NS = 10 * 365 * 86_400 * 1_000_000_000
View = Callable[[Path], "SpoolView"]
Make = Callable[..., NDArray[np.uint8]]


@pytest.fixture(autouse=True)
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.recorder_watch.LOOK_S", 0.02)


def _words(view: SpoolView, topic: str) -> list[dict[str, Any]]:
    return [json.loads(one.data) for one in view.messages("_agent") if one.topic.name == topic]


def _recorded(view: SpoolView, stream: str) -> int:
    """What the last status says of a stream."""
    statuses = _words(view, "/agent/status")
    return int(statuses[-1]["streams"].get(stream, {}).get("recorded", 0)) if statuses else 0


# -- the opening and the closing record --------------------------------------------------------------------------


def test_the_opening_record_says_what_made_the_recording(tmp_path: Path, view: View) -> None:
    calibration = {"head": {"fx": 615.25, "distortion": np.array([0.5, -0.25], np.float32)}, "note": None}
    with Recorder(tmp_path, software_version="1.4.2", calibration=calibration):
        pass
    (opened,) = _words(view(tmp_path), "/recording/opened")
    assert opened["software_version"] == "1.4.2"
    assert opened["calibration"] == {"head": {"fx": 615.25, "distortion": [0.5, -0.25]}, "note": None}
    assert opened["boot"] == boot_id()
    assert opened["host"]


def test_publish_times_run_on_the_monotonic_clock_that_the_opening_record_names(tmp_path: Path, view: View) -> None:
    around = []
    with Recorder(tmp_path) as recorder:
        for n in range(20):
            before_ns = time.monotonic_ns()
            recorder.log("/t", n, {})
            around.append((before_ns, time.monotonic_ns()))
    (opened,) = _words(view(tmp_path), "/recording/opened")
    shift_ns = opened["wall_ns"] - opened["monotonic_ns"]
    assert abs(shift_ns - (time.time_ns() - time.monotonic_ns())) < 60_000_000_000
    read_apart_ns = 1_000_000
    for message, (before_ns, after_ns) in zip(view(tmp_path).messages("telemetry"), around, strict=True):
        assert message.publish_ns is not None
        assert before_ns - read_apart_ns <= message.publish_ns - shift_ns <= after_ns + read_apart_ns


def test_a_clock_that_jumps_while_the_recorder_starts_does_not_part_the_two_clocks(tmp_path: Path, view: View) -> None:
    walls = chain([START_NS], repeat(START_NS + TEN_YEARS_NS))
    with Recorder(tmp_path, clock=lambda: next(walls)) as recorder:
        recorder.log("/t", 1, {})
    (opened,) = _words(view(tmp_path), "/recording/opened")
    (message,) = view(tmp_path).messages("telemetry")
    assert 0 <= (message.publish_ns or 0) - opened["wall_ns"] < 60_000_000_000


def test_what_was_dropped_is_in_the_events_and_in_the_closing_record(
    tmp_path: Path, view: View, picture: Make, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    append = StreamLog.append

    def picky(log: StreamLog, topic: Any, t_ns: int, *args: Any, **kwargs: Any) -> bool:
        return t_ns not in (3, 4, 7) and append(log, topic, t_ns, *args, **kwargs)

    monkeypatch.setattr(StreamLog, "append", picky)
    with Recorder(tmp_path, clock=lambda: START_NS, wait_for_room=True) as recorder:
        for n in range(6):
            recorder.log("/t", n, {})
            recorder.image("head", n, picture(n))
        until(lambda: recorder.counts.get("/recording/dropped") == 2)
        recorder.log("/t", 7, {})
    found = view(tmp_path).messages("_events")
    told = [json.loads(one.data) for one in found]
    common = {"reason": "disk or encoder failed"}
    assert sorted(told[:2], key=lambda one: one["stream"]) == [
        {"stream": "head", "count": 2, "first_ns": 3, "last_ns": 4, **common},
        {"stream": "telemetry", "count": 2, "first_ns": 3, "last_ns": 4, **common},
    ]
    assert told[2:] == [{"stream": "telemetry", "count": 1, "first_ns": 7, "last_ns": 7, **common}]
    assert [(one.topic.name, one.t_ns) for one in found] == [("/recording/dropped", START_NS)] * 3
    assert view(tmp_path).closing()[0]["dropped"] == {"telemetry": 3, "head": 2}


# -- the status --------------------------------------------------------------------------------------------------


def test_a_recorder_tells_its_state_now_and_then(
    tmp_path: Path, view: View, picture: Make, until: Callable[..., None]
) -> None:
    spool = Spool(tmp_path)
    agents = {"spool": {"bytes": 7}, "clock": {"offset_ns": -3}, "alarms": ["the server says no"]}
    write_state(DISK, spool.agent_state_path, agents)
    with Recorder(settings=EdgeSettings(folder=tmp_path, status_s=0.05), spool=spool) as recorder:
        recorder.log("/t", 1, {})
        recorder.log("/t", 2, {})
        recorder.image("head", 1, picture(0))
        recorder.cut()
        recorder.log("/t", 3, {})
        recorder.alarm("the disk is slow")
        until(lambda: _recorded(view(tmp_path), "telemetry") == 3)
    statuses = _words(view(tmp_path), "/agent/status")
    last = statuses[-1]
    assert last["streams"]["telemetry"] == {"recorded": 3, "dropped": 0, "last_seq": 0}
    assert last["streams"]["head"] == {"recorded": 1, "dropped": 0, "last_seq": 0}
    assert (last["spool"], last["clock"]) == ({"bytes": 7}, {"offset_ns": -3})
    assert last["alarms"] == ["the disk is slow", "the server says no"]
    seqs = [one.seq for one in view(tmp_path).segments("_agent")]
    assert seqs == list(range(len(seqs)))
    assert view(tmp_path).closing()[0]["last_seq"]["_agent"] == seqs[-1] == len(statuses) + 1


def test_a_status_is_told_as_often_as_asked(tmp_path: Path, view: View, until: Callable[..., None]) -> None:
    with Recorder(settings=EdgeSettings(folder=tmp_path, status_s=3600)) as recorder:
        state = recorder.spool.recorder_state_path(recorder.recording_id)
        until(state.exists)
        told_ns = read_state(state)["told_ns"]
        until(lambda: read_state(state)["told_ns"] > told_ns)
    assert _words(view(tmp_path), "/agent/status") == []


def test_a_live_recorder_tells_others_on_the_robot_what_it_has_recorded(
    tmp_path: Path, until: Callable[..., None]
) -> None:
    with Recorder(tmp_path, clock=lambda: START_NS) as recorder:
        recorder.log("/t", 1, {})
        recorder.text("info", "x")
        state = recorder.spool.recorder_state_path(recorder.recording_id)
        until(lambda: read_state(state).get("recorded") == {"telemetry": 1, "_events": 1})
        assert read_state(state) == {
            "recorded": {"telemetry": 1, "_events": 1},
            "dropped": {},
            "last_seq": {},
            "alarms": [],
            "told_ns": START_NS,
        }
    assert not state.exists()


# -- a clock that jumps ------------------------------------------------------------------------------------------


class SteppingClock:
    """The wall clock, with a step that somebody sets."""

    def __init__(self) -> None:
        self.step_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.step_ns


def test_a_clock_that_jumps_ten_years_either_way_changes_no_order_and_loses_nothing(
    tmp_path: Path, view: View, picture: Make
) -> None:
    clock = SteppingClock()
    settings = EdgeSettings(folder=tmp_path, status_s=0.05)
    began_ns = time.time_ns()
    with Recorder(settings=settings, clock=clock, wait_for_room=True) as recorder:
        for n in range(60):
            if n % 10 == 0:
                clock.step_ns = (0, TEN_YEARS_NS, -TEN_YEARS_NS)[n // 10 % 3]
            if n == 35:
                recorder.cut()
            recorder.log("/t", clock(), {"n": n})
            recorder.image("head", clock(), picture(n))
            recorder.text("info", str(n))
    ended_ns = time.time_ns()
    for stream, count in (("telemetry", 60), ("head", 60), ("_events", 60)):
        found = view(tmp_path).messages(stream)
        assert len(found) == count
        published = [one.publish_ns or 0 for one in found]
        assert published == sorted(published), "steady time goes on"
        assert began_ns - 10**9 <= published[0]
        assert published[-1] <= ended_ns + 10**9
        steps = [round((one.t_ns - t_ns) / TEN_YEARS_NS) for one, t_ns in zip(found, published, strict=True)]
        assert steps == [(0, 1, -1)[n // 10 % 3] for n in range(60)], "capture times are kept as they came"
    assert [json.loads(one.data)["n"] for one in view(tmp_path).messages("telemetry")] == list(range(60))
    assert [int(json.loads(one.data)["message"]) for one in view(tmp_path).messages("_events")] == list(range(60))
    for stream in ("telemetry", "head"):
        times, segments = [one.t_ns for one in view(tmp_path).messages(stream)], view(tmp_path).segments(stream)
        for one, part in zip(segments, (times[:35], times[35:]), strict=True):
            assert (one.start_ns, one.end_ns) == (min(part), max(part) + 1)
    assert recorder.dropped == {}
    assert [one["recovered"] for one in view(tmp_path).closing()] == [False]
    assert not list((tmp_path / "open").iterdir())


def test_a_recorder_killed_after_a_jump_is_recovered_whole(tmp_path: Path, view: View) -> None:
    clock = SteppingClock()
    recorder = Recorder(tmp_path, clock=clock)
    for n, step_ns in enumerate((0, -TEN_YEARS_NS, TEN_YEARS_NS)):
        clock.step_ns = step_ns
        recorder.log("/t", clock(), {"n": n})
    recorder.flush()
    copy = tmp_path / "as-it-was"
    _copy(tmp_path, copy)
    recorder.close()
    recover(Spool(copy))
    assert [json.loads(one.data)["n"] for one in view(copy).messages("telemetry")] == [0, 1, 2]
    assert view(copy).messages("telemetry") == view(tmp_path).messages("telemetry")
    assert [one["recovered"] for one in view(copy).closing()] == [True]


def _copy(folder: Path, target: Path) -> None:
    """What a killed process would leave: the files, and nobody who holds a lock."""
    for path in [one for one in folder.rglob("*") if one.is_file()]:
        (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (target / path.relative_to(folder)).write_bytes(path.read_bytes())


def test_words_are_messages_of_their_recording(tmp_path: Path, view: View) -> None:
    with Recorder(tmp_path, clock=lambda: START_NS):
        pass
    found: list[Message] = view(tmp_path).messages("_agent")
    assert [(one.sequence, one.t_ns) for one in found] == [(0, START_NS), (1, START_NS)]
