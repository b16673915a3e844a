"""A recorder on a disk that fails: the robot's program hears of it, is not held up, and what is lost is told."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.errors import RecorderClosed, SpoolError
from edge.recorder import Recorder
from edge.recovery import recover
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.state_file import read_state
from tests.edge.test_video import write_mp4
from tests.faults.failing_disk import BLOCK_BYTES, FailingDisk, SmallDisk

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

View = Callable[[Path], "SpoolView"]
Make = Callable[..., NDArray[np.uint8]]
HEAD_CANNOT = "stream head cannot be written: Input/output error"


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def alarms() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.recorder_watch.LOOK_S", 0.02)


@pytest.fixture
def recorder(tmp_path: Path, disk: FailingDisk, alarms: list[str]) -> Recorder:
    settings = EdgeSettings(folder=tmp_path, sync_s=0.05, hold_bytes=20_000)
    return Recorder(settings=settings, spool=Spool(tmp_path, disk=disk), on_alarm=alarms.append)


def _in_stream(stream: str) -> Callable[[Path], bool]:
    return lambda path: stream in path.parts


def test_a_disk_that_fails_for_a_while_costs_the_robots_program_nothing(
    tmp_path: Path, view: View, disk: FailingDisk, recorder: Recorder, alarms: list[str], picture: Make
) -> None:
    recorder.log("/t", 1, {})
    recorder.image("head", 1, picture(0))
    recorder.flush()
    disk.fail(error=errno.EIO, where=_in_stream("head"))
    for n in range(2, 6):
        recorder.image("head", n, picture(n))
    recorder.log("/t", 2, {})
    with pytest.raises(SpoolError, match="stream head is not on the disk: see its alarm"):
        recorder.flush()
    disk.heal()
    recorder.flush()
    assert alarms == list(recorder.alarms) == [HEAD_CANNOT, "stream head can be written again"]
    recorder.close()
    assert recorder.dropped == {}
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [1, 2]
    assert [one.t_ns for one in view(tmp_path).messages("head")] == [1, 2, 3, 4, 5]
    assert [one["recovered"] for one in view(tmp_path).closing()] == [False]


def test_it_goes_on_by_itself_when_the_disk_is_well_again(
    tmp_path: Path, view: View, disk: FailingDisk, recorder: Recorder, alarms: list[str], until: Callable[..., None]
) -> None:
    disk.fail()
    recorder.log("/t", 1, {})
    until(lambda: alarms)
    disk.heal()
    until(lambda: len(alarms) == 2)
    recorder.log("/t", 2, {})
    journal = tmp_path / "open" / recorder.recording_id / "telemetry"
    until(lambda: [path for path in journal.glob("*") if path.stat().st_size])
    recorder.close()
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [1, 2]


def test_a_disk_that_fails_to_the_end_leaves_what_was_flushed_and_recovery_closes(
    tmp_path: Path, view: View, disk: FailingDisk, recorder: Recorder, picture: Make
) -> None:
    recorder.log("/t", 1, {})
    recorder.image("head", 1, picture(0))
    recorder.flush()
    disk.fail(error=errno.EIO, where=_in_stream("head"))
    recorder.image("head", 2, picture(1))
    with pytest.raises(SpoolError, match="stream head is not on the disk"):
        recorder.close()
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [1]
    assert view(tmp_path).closing() == []
    recover(Spool(tmp_path))
    assert [one.t_ns for one in view(tmp_path).messages("head")] == [1]
    (closing,) = view(tmp_path).closing()
    assert (closing["recovered"], closing["last_seq"]) == (True, {"_agent": 1, "telemetry": 0, "head": 0})


@pytest.mark.parametrize("which", ["0000000001.mcap", "0000000001.json"])
def test_a_last_word_that_is_half_written_is_said_once(
    tmp_path: Path, view: View, disk: FailingDisk, recorder: Recorder, which: str
) -> None:
    recorder.log("/t", 1, {})
    disk.fail("create", where=lambda path: "_agent" in path.parts and path.name.startswith(which))
    with pytest.raises(SpoolError, match="has no last word: the disk takes nothing"):
        recorder.close()
    recover(Spool(tmp_path))
    recover(Spool(tmp_path))
    assert [one.seq for one in view(tmp_path).segments("_agent")] == [0, 1]
    (closing,) = view(tmp_path).closing()
    assert closing["last_seq"] == {"_agent": 1, "telemetry": 0}


def test_what_memory_cannot_hold_is_dropped_counted_and_told(
    tmp_path: Path, view: View, disk: FailingDisk, recorder: Recorder, until: Callable[..., None]
) -> None:
    disk.fail(where=_in_stream("telemetry"))
    noise = np.random.default_rng(1)
    for n in range(100):
        recorder.log("/t", n, {"n": n, "noise": noise.bytes(500).hex()})
    until(lambda: recorder.dropped.get("telemetry"))
    disk.heal()
    until(lambda: recorder.last_seqs.get("telemetry") is not None)
    recorder.log("/t", 100, {"n": 100})
    recorder.close()
    told = [json.loads(one.data) for one in view(tmp_path).messages("_events")]
    kept = [one.t_ns for one in view(tmp_path).messages("telemetry")]
    dropped = recorder.dropped["telemetry"]
    assert 0 < dropped < 100
    assert kept == [*range(100 - dropped), 100]
    assert {(one["stream"], one["reason"]) for one in told} == {("telemetry", "disk or encoder failed")}
    assert sum(one["count"] for one in told) == dropped
    assert (min(one["first_ns"] for one in told), max(one["last_ns"] for one in told)) == (100 - dropped, 99)
    assert view(tmp_path).closing()[0]["dropped"] == {"telemetry": dropped}


def test_what_was_dropped_before_a_crash_is_in_the_closing_record(
    tmp_path: Path, view: View, disk: FailingDisk, recorder: Recorder, until: Callable[..., None]
) -> None:
    disk.fail("write", where=_in_stream("telemetry"))
    for n in range(100):
        recorder.log("/t", n, {"noise": "x" * 1000})
    until(lambda: read_state(recorder.spool.recorder_state_path(recorder.recording_id)).get("dropped"))
    dropped = recorder.dropped
    disk.fail()
    with pytest.raises(SpoolError):
        recorder.close()
    recover(Spool(tmp_path))
    (closing,) = view(tmp_path).closing()
    assert (closing["recovered"], closing["dropped"]) == (True, dropped)


# -- the start -------------------------------------------------------------------------------------------------


def test_a_recorder_that_cannot_begin_says_why_in_a_sentence(tmp_path: Path, disk: FailingDisk) -> None:
    disk.fail()
    with pytest.raises(SpoolError, match="cannot be used as a robot's folder: No space left on device"):
        Spool(tmp_path / "robot", disk=disk)
    disk.heal()
    spool = Spool(tmp_path / "robot", disk=disk)
    disk.fail()
    with pytest.raises(SpoolError, match="robot takes no recording: No space left on device"):
        Recorder(spool=spool)
    disk.heal()
    with Recorder(spool=spool):
        pass


def test_a_recorder_begins_on_a_disk_that_takes_names_but_no_bytes(
    tmp_path: Path, view: View, disk: FailingDisk, alarms: list[str], until: Callable[..., None]
) -> None:
    spool = Spool(tmp_path, disk=disk)
    disk.fail("write")
    with Recorder(settings=EdgeSettings(folder=tmp_path, sync_s=0.05), spool=spool, on_alarm=alarms.append) as recorder:
        recorder.log("/t", 1, {})
        recorder.text("info", "hello", t_ns=2)
        until(lambda: len(alarms) == 2)
        with pytest.raises(SpoolError):
            recorder.flush()
        disk.heal()
        recorder.flush()
        until(lambda: [one.seq for one in view(tmp_path).segments("_agent")] == [0])
    assert [one.topic.name for one in view(tmp_path).messages("_agent")] == ["/recording/opened", "/recording/closed"]
    assert [one.seq for one in view(tmp_path).segments("_agent")] == [0, 1]
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [1]
    assert [one.t_ns for one in view(tmp_path).messages("_events")] == [2]


def test_a_disk_of_a_few_blocks_is_filled_and_recording_goes_on_when_there_is_room(
    tmp_path: Path, view: View, alarms: list[str], until: Callable[..., None]
) -> None:
    ballast = tmp_path / "ballast"
    ballast.write_bytes(b"x" * 40 * BLOCK_BYTES)
    disk = SmallDisk(tmp_path, 60 * BLOCK_BYTES)
    settings = EdgeSettings(folder=tmp_path / "robot", sync_s=0.05)
    noise = np.random.default_rng(1)
    with Recorder(settings=settings, spool=Spool(tmp_path / "robot", disk=disk), on_alarm=alarms.append) as recorder:
        for n in range(300):
            recorder.log("/t", n, {"noise": noise.bytes(500).hex()})
        until(lambda: alarms)
        assert disk.free_bytes(tmp_path) < 8 * BLOCK_BYTES
        disk.unlink(ballast)
        disk.capacity_bytes = 1000 * BLOCK_BYTES
        recorder.flush()
    assert recorder.dropped == {}
    assert [one.t_ns for one in view(tmp_path / "robot").messages("telemetry")] == list(range(300))
    assert view(tmp_path / "robot").closing()[0]["recovered"] is False


def test_a_file_that_the_disk_does_not_take_is_told_to_the_caller_and_can_be_brought_again(
    tmp_path: Path, view: View, disk: FailingDisk, recorder: Recorder
) -> None:
    write_mp4(tmp_path / "a.mp4", 5)
    disk.fail("write", where=_in_stream("head"))
    with pytest.raises(SpoolError, match=r"a\.mp4 is not recorded: No space left on device"):
        recorder.video_file("head", 1, tmp_path / "a.mp4")
    disk.heal()
    recorder.video_file("head", 1, tmp_path / "a.mp4")
    recorder.close()
    assert [(one.seq, one.counts) for one in view(tmp_path).segments("head")] == [(0, {"/head": 5})]


# -- whatever else goes wrong ------------------------------------------------------------------------------------


def test_a_listener_that_fails_costs_nothing(
    tmp_path: Path, view: View, disk: FailingDisk, caplog: pytest.LogCaptureFixture
) -> None:
    def listen(text: str) -> None:
        raise RuntimeError("nobody is here")

    settings = EdgeSettings(folder=tmp_path, sync_s=0.05)
    with Recorder(settings=settings, spool=Spool(tmp_path, disk=disk), on_alarm=listen) as recorder:
        recorder.log("/t", 1, {})
        recorder.flush()
        disk.fail()
        recorder.log("/t", 2, {})
        with pytest.raises(SpoolError):
            recorder.flush()
        disk.heal()
        recorder.flush()
        recorder.log("/t", 3, {})
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [1, 2, 3]
    assert len(recorder.alarms) == 2
    assert "on_alarm failed: RuntimeError: nobody is here" in caplog.text


def test_a_watch_that_stumbles_goes_on(
    tmp_path: Path, recorder: Recorder, alarms: list[str], monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    def stumble(recorder: Recorder) -> dict[str, int]:
        raise RuntimeError("dictionary changed size during iteration")

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "recorded", property(stumble))
        until(lambda: alarms)
    state = recorder.spool.recorder_state_path(recorder.recording_id)
    state.unlink(missing_ok=True)
    until(state.exists)
    assert alarms[0] == "recorder's watch: RuntimeError: dictionary changed size during iteration"
    recorder.close()


def test_a_stream_cannot_begin_while_the_recorder_closes(tmp_path: Path, recorder: Recorder) -> None:
    refused: list[RecorderClosed] = []
    stop = recorder._watch.stop

    def late() -> None:
        """Another thread's picture, which had passed the first check when `close` began."""
        stop()
        with pytest.raises(RecorderClosed) as raised:
            recorder._add_camera("late")
        refused.append(raised.value)

    recorder._watch.stop = late  # type: ignore[method-assign]
    recorder.close()
    assert len(refused) == 1
    assert not list((tmp_path / "open").iterdir())
