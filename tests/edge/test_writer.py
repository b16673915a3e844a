"""The thread behind a stream: its callers never wait, what it lets go is counted, and nothing ends it but `close`."""

from __future__ import annotations

import errno
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from numpy.typing import NDArray

from edge import writer as module
from edge.errors import EncodeError, SpoolError
from edge.records import Topic
from edge.segment import Message, read_messages
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.stream_log import LONGEST_RETRY_S, StreamLog
from edge.writer import Append, CameraAppender, Dropped, Picture, StreamWriter, append_message
from tests.faults.failing_disk import FailingDisk

RECORDING = "01J00000000000000000000000"
START_NS = 1_760_000_000_000_000_000
TOPIC = Topic("/t", "json")
LIMIT_S = 20.0
Make = Callable[..., NDArray[np.uint8]]


class Rig:
    """A stream's log on a disk that may fail, and the writers in front of it."""

    def __init__(self, folder: Path, *, stream: str = "telemetry", **settings: Any) -> None:
        self.disk = FailingDisk()
        self.spool = Spool(folder, disk=self.disk)
        self.settings = EdgeSettings(folder=folder, **settings)
        self.alarms: list[str] = []
        self.now_s = 0.0
        self.log = StreamLog(
            self.spool,
            RECORDING,
            stream,
            kind="telemetry" if stream == "telemetry" else "video",
            settings=self.settings,
            alarm=self.alarms.append,
            monotonic_s=lambda: self.now_s,
        )

    def writer(self, append: Append = append_message, *, size: int = 10_000, waits: bool = False) -> StreamWriter:
        return StreamWriter(
            self.log, append, queue_size=size, poll_s=0.01, wait_for_room=waits, alarm=self.alarms.append
        )

    def sealed(self) -> list[Message]:
        items = sorted(self.spool.waiting(RECORDING, stream=self.log.stream), key=lambda one: one.seq)
        bodies = (self.spool.data_path(one).read_bytes() for one in items)
        return [message for body in bodies for message in read_messages(io.BytesIO(body))]


class Gate:
    """An `Append` that stands still until it is opened, and then calls another."""

    def __init__(self, append: Append = append_message) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self._append = append

    def __call__(self, log: StreamLog, reading: Any) -> bool:
        self.reached.set()
        assert self.open.wait(LIMIT_S)
        return self._append(log, reading)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def reading(n: int) -> tuple[int, Topic, int, bytes]:
    return START_NS + n, TOPIC, n, b'{"n":%d}' % n


def test_a_put_returns_while_the_disk_stands_still(rig: Rig) -> None:
    gate = Gate()
    writer = rig.writer(gate, size=5)
    assert writer.put(reading(0))
    assert gate.reached.wait(LIMIT_S)
    assert [writer.put(reading(n)) for n in range(1, 9)] == [True] * 5 + [False] * 3
    assert writer.dropped == 3
    gate.open.set()
    writer.close()
    assert [one.t_ns - START_NS for one in rig.sealed()] == list(range(6))


def test_what_was_dropped_is_told_once_as_a_stretch(rig: Rig) -> None:
    gate = Gate()
    writer = rig.writer(gate, size=2)
    writer.put(reading(100))
    assert gate.reached.wait(LIMIT_S)
    for n in (0, 1, 7, 5, 9):
        writer.put(reading(n))
    assert writer.take_drops() == [Dropped("telemetry", 3, START_NS + 5, START_NS + 9, "queue full")]
    assert writer.take_drops() == []
    gate.open.set()
    writer.close()


def test_readings_are_counted_to_the_last_whoever_drops_them_and_whoever_asks(rig: Rig) -> None:
    def refuse(log: StreamLog, reading: Any) -> bool:
        return False

    writer, told, done = rig.writer(refuse, size=3), list[Dropped](), threading.Event()

    def ask() -> None:
        while not done.is_set():
            told.extend(writer.take_drops())

    asking = threading.Thread(target=ask)
    asking.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: writer.put(reading(n)), range(4000)))
    writer.close()
    done.set()
    asking.join()
    told += writer.take_drops()
    assert writer.dropped == 4000
    assert sum(one.count for one in told) == 4000
    assert {one.reason for one in told} <= {"queue full", "disk or encoder failed"}


def test_a_replay_waits_for_room(rig: Rig) -> None:
    gate = Gate()
    writer = rig.writer(gate, size=2, waits=True)
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(lambda: [writer.put(reading(n)) for n in range(600)])
        assert gate.reached.wait(LIMIT_S)
        assert not putting.done()
        gate.open.set()
        assert all(putting.result(LIMIT_S))
    writer.close()
    assert [one.t_ns - START_NS for one in rig.sealed()] == list(range(600))
    assert writer.dropped == 0


def test_a_flush_returns_although_readings_come_as_fast_as_they_are_written(rig: Rig) -> None:
    again = threading.Event()

    def endless(log: StreamLog, one: Any) -> bool:
        if not again.is_set():
            writer.put(one)
        return append_message(log, one)

    writer = rig.writer(endless)
    for n in range(1000):
        writer.put(reading(n))
    writer.flush()
    assert rig.log.counts["/t"] >= 1000
    again.set()
    writer.close()


def test_a_flush_covers_what_was_put_before_it_and_nothing_is_sealed(rig: Rig) -> None:
    writer = rig.writer()
    for n in range(2000):
        writer.put(reading(n))
    writer.flush()
    assert rig.log.counts == {"/t": 2000}
    assert rig.log.is_durable
    assert rig.sealed() == []
    writer.close()
    assert len(rig.sealed()) == 2000


def test_flush_and_cut_and_close_fail_in_a_sentence_while_the_disk_takes_nothing(rig: Rig) -> None:
    writer = rig.writer()
    writer.put(reading(0))
    writer.flush()
    rig.disk.fail(error=errno.EIO)
    writer.put(reading(1))
    for order in (writer.flush, writer.cut, writer.flush):
        with pytest.raises(SpoolError, match="stream telemetry is not on the disk: see its alarm"):
            order()
    rig.disk.heal()
    writer.put(reading(2))
    writer.flush()
    rig.disk.fail(error=errno.EIO)
    writer.put(reading(3))
    with pytest.raises(SpoolError, match="telemetry is not on the disk"):
        writer.close()
    assert writer.has_ended
    assert [one.t_ns - START_NS for one in rig.sealed()] == [0, 1, 2]
    assert rig.alarms == [
        "stream telemetry cannot be written: Input/output error",
        "stream telemetry can be written again",
        "stream telemetry cannot be written: Input/output error",
    ]


def test_a_segment_that_cannot_be_sealed_is_no_success(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = rig.writer()
    writer.put(reading(0))
    writer.flush()

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(rig.log, "cut", fail)
    for order in (writer.cut, writer.close):
        with pytest.raises(SpoolError, match="telemetry is not on the disk"):
            order()
    assert rig.alarms == ["stream telemetry: MemoryError: "] * 2


def test_one_reading_that_cannot_be_written_costs_no_other(rig: Rig) -> None:
    def picky(log: StreamLog, one: Any) -> bool:
        if one[2] == 3:
            raise EncodeError("a bad picture")
        return append_message(log, one)

    writer = rig.writer(picky)
    for n in range(6):
        writer.put(reading(n))
    writer.close()
    assert [one.t_ns - START_NS for one in rig.sealed()] == [0, 1, 2, 4, 5]
    assert rig.alarms == ["stream telemetry: EncodeError: a bad picture"]
    assert writer.take_drops() == [Dropped("telemetry", 1, START_NS + 3, START_NS + 3, "disk or encoder failed")]


def test_what_comes_after_the_end_is_counted_as_dropped(rig: Rig) -> None:
    gate = Gate()
    writer = rig.writer(gate)
    writer.put(reading(0))
    assert gate.reached.wait(LIMIT_S)
    carry_out = writer._carry_out

    def late(order: Any) -> None:
        writer.put(reading(1))  # another thread's, between the last look into the queue and the end
        carry_out(order)

    writer._carry_out = late  # type: ignore[method-assign]
    gate.open.set()
    writer.close()
    assert [one.t_ns - START_NS for one in rig.sealed()] == [0]
    assert writer.take_drops() == [Dropped("telemetry", 1, START_NS + 1, START_NS + 1, "recorder closed")]


def test_an_order_that_is_not_carried_out_in_time_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.05)
    gate = Gate()
    writer = rig.writer(gate)
    writer.put(reading(0))
    with pytest.raises(SpoolError, match=r"stream telemetry did not flush within 0 s"):
        writer.flush()
    gate.open.set()


def test_a_segment_is_cut_by_its_age_without_a_new_reading(rig: Rig, until: Callable[..., None]) -> None:
    writer = rig.writer()
    writer.put(reading(0))
    writer.flush()
    rig.now_s += rig.settings.segment_s
    until(rig.sealed)
    writer.put(reading(1))
    writer.close()
    assert [one.seq for one in sorted(rig.spool.waiting(), key=lambda one: one.seq)] == [0, 1]


# -- cameras ---------------------------------------------------------------------------------------------------


def pictures(picture: Make, numbers: Iterator[int] | range, **size: int) -> list[Picture]:
    return [Picture(START_NS + n * 50_000_000, n, picture(n, **size), "rgb") for n in numbers]


def keyframes(messages: list[Message], units_of: Callable[[bytes], list[int]]) -> list[bool]:
    return [5 in units_of(CompressedVideo.FromString(one.data).data) for one in messages]


def test_video_begins_again_with_a_keyframe_after_something_was_let_go(
    tmp_path: Path, picture: Make, units_of: Callable[[bytes], list[int]], frames_of: Callable[..., list[Any]]
) -> None:
    rig = Rig(tmp_path, stream="head", hold_bytes=3000, gop_frames=30)
    append = CameraAppender("head", rig.settings)
    taken = [append(rig.log, one) for one in pictures(picture, range(5))]
    rig.disk.fail()
    taken += [append(rig.log, one) for one in pictures(picture, range(5, 40))]
    assert taken[:5] == [True] * 5
    assert False in taken[5:]
    assert taken[5:] == sorted(taken[5:], reverse=True), "once something was let go, nothing is taken"
    rig.disk.heal()
    rig.now_s += LONGEST_RETRY_S
    rig.log.sync()
    later = [append(rig.log, one) for one in pictures(picture, range(40, 50))]
    assert later == [True] * 10
    rig.log.cut()
    found = rig.sealed()
    numbers = [(one.t_ns - START_NS) // 50_000_000 for one in found]
    assert numbers == [n for n, was_taken in enumerate(taken + later) if was_taken]
    assert keyframes(found, units_of)[numbers.index(40)]
    frames = frames_of(found)
    assert len(frames) == len(found)
    for number, frame in zip(numbers, frames, strict=True):
        assert np.abs(frame.astype(int) - picture(number)).mean() < 12, f"picture {number} builds on one that is gone"


def test_an_encoder_that_fails_is_followed_by_a_keyframe(
    tmp_path: Path, picture: Make, units_of: Callable[[bytes], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, stream="head", gop_frames=30)
    writer = rig.writer(CameraAppender("head", rig.settings))
    append = StreamLog.append

    def picky(log: StreamLog, topic: Topic, t_ns: int, *args: Any, **kwargs: Any) -> bool:
        if t_ns == START_NS + 3 * 50_000_000:
            raise MemoryError
        return append(log, topic, t_ns, *args, **kwargs)

    monkeypatch.setattr(StreamLog, "append", picky)
    for one in pictures(picture, range(6)):
        writer.put(one)
    writer.close()
    assert keyframes(rig.sealed(), units_of) == [True, False, False, True, False]
    assert writer.dropped == 1


@pytest.mark.parametrize(
    ("source", "width", "expected"),
    [((640, 480), 320, (320, 240)), ((64, 48), 320, (64, 48)), ((642, 362), 320, (320, 180)), ((640, 2), 16, (16, 2))],
)
def test_a_preview_is_as_wide_as_asked_and_keeps_its_shape(
    tmp_path: Path,
    picture: Make,
    frames_of: Callable[..., list[NDArray[np.uint8]]],
    source: tuple[int, int],
    width: int,
    expected: tuple[int, int],
) -> None:
    rig = Rig(tmp_path, stream="head_preview", preview_width=width, preview_fps=5)
    append = CameraAppender("head_preview", rig.settings, preview_of=CameraAppender("head", rig.settings))
    (one,) = pictures(picture, range(1), width=source[0], height=source[1])
    assert append(rig.log, one)
    rig.log.cut()
    (frame,) = frames_of(rig.sealed())
    assert (frame.shape[1], frame.shape[0]) == expected


def share_of(camera: CameraAppender, preview: CameraAppender) -> float:
    return preview.made.bytes / camera.made.bytes


@pytest.mark.parametrize("noise", [0, 8, 40])
def test_a_preview_takes_up_its_share_but_no_more(tmp_path: Path, noise: int) -> None:
    logs = [Rig(tmp_path / name, stream=name) for name in ("head", "head_preview")]
    settings = EdgeSettings(folder=tmp_path, preview_fps=5, preview_width=80)
    camera = CameraAppender("head", settings)
    preview = CameraAppender("head_preview", settings, preview_of=camera)
    dice = np.random.default_rng(1)
    texture = dice.integers(60, 200, (120, 400, 1), np.uint8).repeat(3, axis=2)
    for n in range(800):
        image = texture[:, n // 4 % 200 :][:, :160] + dice.integers(0, noise + 1, (120, 160, 3), np.uint8)
        one = Picture(START_NS + n * 50_000_000, n, image, "rgb")
        assert camera(logs[0].log, one)
        if n % 4 == 0:
            assert preview(logs[1].log, one)
    assert 0.035 < share_of(camera, preview) <= 0.05


def test_a_preview_that_cannot_be_small_enough_leaves_pictures_out(tmp_path: Path, picture: Make) -> None:
    logs = [Rig(tmp_path / name, stream=name) for name in ("head", "head_preview")]
    settings = EdgeSettings(folder=tmp_path, preview_fps=20)
    camera = CameraAppender("head", settings)
    preview = CameraAppender("head_preview", settings, preview_of=camera)
    for one in pictures(picture, range(2000)):
        assert camera(logs[0].log, one)
        assert preview(logs[1].log, one)
    assert 0.03 < share_of(camera, preview) <= 0.06
    assert 50 < logs[1].log.counts["/head_preview"] < 1500


def test_alarms_come_from_the_thread_while_the_caller_goes_on(rig: Rig, until: Callable[..., None]) -> None:
    writer = rig.writer()
    rig.disk.fail()
    began_s = time.monotonic()
    for n in range(100):
        writer.put(reading(n))
    assert time.monotonic() - began_s < LIMIT_S
    until(lambda: rig.alarms)
    rig.disk.heal()
    writer.flush()
    writer.close()
    assert [one.t_ns - START_NS for one in rig.sealed()] == list(range(100))
