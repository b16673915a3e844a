"""What a robot's program hands over arrives in sealed segments, or is counted as dropped; the call never waits."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from foxglove_schemas_protobuf.Pose_pb2 import Pose
from numpy.typing import NDArray

from edge import segment
from edge.errors import BadName, EncodeError, RecorderClosed
from edge.recorder import Recorder
from edge.segment import Message
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.stream_log import StreamLog
from edge.writer import StreamWriter
from tests.edge.test_video import write_mp4

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

START_NS = 1_760_000_000_000_000_000
View = Callable[[Path], "SpoolView"]
Make = Callable[..., NDArray[np.uint8]]
Frames = Callable[[list[Message]], list[NDArray[np.uint8]]]


def _settings(folder: Path, **changed: Any) -> EdgeSettings:
    return EdgeSettings(folder=folder, **changed)


def _open_messages(folder: Path, recording: str, stream: str) -> list[Message]:
    """What could be read of the open journal if the power went now."""
    (journal,) = (folder / "open" / recording / stream).iterdir()
    sealed = segment.seal_journal(journal.read_bytes(), name=f"{recording}/{stream}/{journal.stem}")
    assert sealed.damages == ()
    return list(segment.read_messages(io.BytesIO(sealed.body)))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]) -> Callable[[Recorder], threading.Event]:
    """Make the disk stand still; returns when it does, with the event that lets it go on."""
    go, stuck = threading.Event(), threading.Event()
    append = StreamLog.append

    def slow(log: StreamLog, *args: Any, **kwargs: Any) -> bool:
        stuck.set()
        assert go.wait(20)
        return append(log, *args, **kwargs)

    monkeypatch.setattr(StreamLog, "append", slow)

    def hold(recorder: Recorder) -> threading.Event:
        recorder.log("/first", 0, {})
        until(stuck.is_set)
        return go

    return hold


def test_everything_logged_arrives_in_order_with_its_exact_time(tmp_path: Path, view: View) -> None:
    times = [START_NS + n * 50_000_001 for n in range(500)]
    with Recorder(settings=_settings(tmp_path, segment_bytes=1 << 16)) as recorder:
        for n, t_ns in enumerate(times):
            recorder.log("/joints", t_ns, {"n": n, "pad": "x" * 400})
            recorder.log("/battery", t_ns + 1, {"percent": n})
    found = view(tmp_path).messages("telemetry")
    joints = [one for one in found if one.topic.name == "/joints"]
    assert [one.t_ns for one in joints] == times
    assert [json.loads(one.data)["n"] for one in joints] == list(range(500))
    assert [one.sequence for one in joints] == list(range(500))
    assert recorder.counts == {"/joints": 500, "/battery": 500}
    seqs = [one.seq for one in view(tmp_path).segments("telemetry")]
    assert seqs == list(range(len(seqs)))
    assert len(seqs) > 2


def test_what_was_opened_and_closed_frames_the_recording(tmp_path: Path, view: View, picture: Make) -> None:
    with Recorder(tmp_path, software_version="v7", clock=lambda: START_NS) as recorder:
        recorder.log("/t", 1, {})
        recorder.image("head", 1, picture(0))
        recorder.cut()
        recorder.image("head", 2, picture(1))
    agent = view(tmp_path).messages("_agent")
    assert [(one.topic.name, one.t_ns) for one in agent] == [
        ("/recording/opened", START_NS),
        ("/recording/closed", START_NS),
    ]
    assert json.loads(agent[0].data)["software_version"] == "v7"
    assert json.loads(agent[1].data) == {
        "last_seq": {"_agent": 1, "telemetry": 0, "head": 1},
        "dropped": {},
        "recovered": False,
    }
    assert Spool(tmp_path).last_seqs(recorder.recording_id) == {"_agent": 1, "telemetry": 0, "head": 1}


def test_a_recorder_that_recorded_nothing_still_opens_and_closes(tmp_path: Path, view: View) -> None:
    with Recorder(tmp_path):
        pass
    assert view(tmp_path).closing() == [{"last_seq": {"_agent": 1}, "dropped": {}, "recovered": False}]
    assert not list((tmp_path / "open").iterdir())


def test_every_video_segment_begins_with_a_keyframe_and_decodes_alone(
    tmp_path: Path, view: View, picture: Make, frames_of: Frames, units_of: Callable[[bytes], list[int]]
) -> None:
    with Recorder(settings=_settings(tmp_path, gop_frames=30), wait_for_room=True) as recorder:
        for n in range(40):
            recorder.image("head", START_NS + n * 10_000_000, picture(n))
            if n in (3, 4, 20):
                recorder.cut()
    segments = view(tmp_path).segments("head")
    assert [one.counts for one in segments] == [{"/head": count} for count in (4, 1, 16, 19)]
    number = 0
    for one in segments:
        messages = [m for m in view(tmp_path).messages("head") if one.start_ns <= m.t_ns < one.end_ns]
        assert {7, 5} <= set(units_of(CompressedVideo.FromString(messages[0].data).data))
        frames = frames_of(messages)
        assert len(frames) == one.counts["/head"]
        for frame in frames:
            assert np.abs(frame.astype(int) - picture(number)).mean() < 12
            number += 1
    assert number == recorder.counts["/head"] == 40


def test_a_camera_that_changes_its_size_begins_a_segment(
    tmp_path: Path, view: View, picture: Make, frames_of: Frames
) -> None:
    with Recorder(tmp_path, wait_for_room=True) as recorder:
        for n in range(6):
            recorder.image("head", n, picture(n, width=64 if n < 3 else 32))
    assert [one.counts["/head"] for one in view(tmp_path).segments("head")] == [3, 3]
    assert frames_of(view(tmp_path).messages("head")[3:])[0].shape == (48, 32, 3)


def test_a_segment_is_cut_when_it_is_old(tmp_path: Path, view: View, until: Callable[..., None]) -> None:
    with Recorder(settings=_settings(tmp_path, segment_s=0.05, sync_s=0.02)) as recorder:
        recorder.log("/t", 1, {})
        until(lambda: view(tmp_path).segments("telemetry"))
        recorder.log("/t", 2, {})
    assert [one.start_ns for one in view(tmp_path).segments("telemetry")] == [1, 2]


def test_flush_makes_it_durable_before_anything_is_sealed(tmp_path: Path, picture: Make) -> None:
    with Recorder(settings=_settings(tmp_path, sync_s=1)) as recorder:
        for n in range(50):
            recorder.log("/t", n, {"n": n})
        recorder.image("head", 7, picture(0))
        recorder.flush()
        assert [one.t_ns for one in _open_messages(tmp_path, recorder.recording_id, "telemetry")] == list(range(50))
        assert [one.t_ns for one in _open_messages(tmp_path, recorder.recording_id, "head")] == [7]


def test_a_reading_is_on_disk_soon_without_a_flush(tmp_path: Path, until: Callable[..., None]) -> None:
    with Recorder(settings=_settings(tmp_path, sync_s=0.1)) as recorder:
        recorder.log("/t", 1, {})
        folder = tmp_path / "open" / recorder.recording_id / "telemetry"
        until(lambda: [path for path in folder.glob("*") if path.stat().st_size], limit_s=5)
        assert len(_open_messages(tmp_path, recorder.recording_id, "telemetry")) == 1


def test_an_episode_is_labelled_at_both_ends(tmp_path: Path, view: View) -> None:
    clock = iter(range(START_NS, START_NS + 100))
    with Recorder(tmp_path, clock=lambda: next(clock)) as recorder, recorder.episode(task="pour") as label:
        recorder.log("/t", 5, {})
        label.success, label.notes = True, "half full"
    labels = view(tmp_path).messages("_events")
    assert {one.topic.name for one in labels} == {"/episode"}
    start, end = (json.loads(one.data) for one in labels)
    common = {"episode_id": label.episode_id, "task": "pour"}
    assert start == {**common, "event": "start", "success": None, "notes": None}
    assert end == {**common, "event": "end", "success": True, "notes": "half full"}
    assert labels[0].t_ns < labels[1].t_ns
    assert [one.topic.name for one in view(tmp_path).messages("telemetry")] == ["/t"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_episode_that_ends_in_an_exception_failed(tmp_path: Path, view: View, error: type[BaseException]) -> None:
    def fail(recorder: Recorder) -> None:
        with recorder.episode(task="pour") as label:
            label.success = True
            raise error

    with Recorder(tmp_path) as recorder, pytest.raises(error):
        fail(recorder)
    labels = [json.loads(one.data) for one in view(tmp_path).messages("_events")]
    assert [(one["event"], one["success"]) for one in labels] == [("start", None), ("end", False)]


def test_a_log_line_has_its_level_and_time(tmp_path: Path, view: View) -> None:
    with Recorder(tmp_path, clock=lambda: START_NS) as recorder:
        recorder.text("warning", "hot")
        recorder.text("debug", "tick", t_ns=5)
        with pytest.raises(ValueError, match="level must be one of debug, info, warning, error, fatal, got 'loud'"):
            recorder.text("loud", "x")
    found = view(tmp_path).messages("_events")
    assert {one.topic.name for one in found} == {"/log"}
    assert [(one.t_ns, json.loads(one.data)["level"]) for one in found] == [(START_NS, 3), (5, 1)]
    assert view(tmp_path).segments("telemetry") == []


def test_a_protobuf_message_is_recorded_as_it_is(tmp_path: Path, view: View) -> None:
    pose = Pose()
    pose.position.x = 1.5
    with Recorder(tmp_path) as recorder:
        recorder.log("/pose", 1, pose)
    (found,) = view(tmp_path).messages("telemetry")
    assert (found.topic.schema_name, Pose.FromString(found.data)) == ("foxglove.Pose", pose)


def test_a_full_queue_drops_counts_and_tells(tmp_path: Path, view: View, held: Callable[[Recorder], Any]) -> None:
    recorder = Recorder(settings=_settings(tmp_path, queue_messages=5))
    go = held(recorder)
    began = time.monotonic()
    for n in range(12):
        recorder.log("/t", n, {})
    assert time.monotonic() - began < 5
    assert recorder.dropped == {"telemetry": 7}
    go.set()
    recorder.close()
    found = [one.t_ns for one in view(tmp_path).messages("telemetry") if one.topic.name == "/t"]
    assert found == [0, 1, 2, 3, 4]
    assert view(tmp_path).closing()[0]["dropped"] == {"telemetry": 7}
    assert recorder.counts == {"/first": 1, "/t": 5, "/recording/dropped": 1}
    (told,) = view(tmp_path).messages("_events")
    assert json.loads(told.data) == {
        "stream": "telemetry",
        "count": 7,
        "first_ns": 5,
        "last_ns": 11,
        "reason": "queue full",
    }


def test_a_replay_waits_for_room_and_drops_nothing(tmp_path: Path, held: Callable[[Recorder], Any]) -> None:
    recorder = Recorder(settings=_settings(tmp_path, queue_messages=2), wait_for_room=True)
    go = held(recorder)
    writing = threading.Thread(target=lambda: [recorder.log("/t", n, {}) for n in range(50)])
    writing.start()
    go.set()
    writing.join(20)
    recorder.close()
    assert (recorder.dropped, recorder.counts["/t"]) == ({}, 50)


def test_a_closed_recorder_takes_nothing_more(tmp_path: Path, picture: Make) -> None:
    recorder = Recorder(tmp_path)
    recorder.close()
    recorder.close()
    calls: list[Callable[[], object]] = [
        lambda: recorder.log("/t", 1, {}),
        lambda: recorder.image("head", 1, picture(0)),
        lambda: recorder.text("info", "x"),
        lambda: recorder.video_file("head", 1, tmp_path / "a.mp4"),
        lambda: recorder.episode(task="x").__enter__(),
        recorder.flush,
        recorder.cut,
    ]
    for call in calls:
        with pytest.raises(RecorderClosed, match="make a new Recorder"):
            call()


def test_two_recorders_on_one_folder_make_two_recordings(tmp_path: Path, view: View) -> None:
    with Recorder(tmp_path) as one, Recorder(tmp_path) as other:
        for n in range(20):
            one.log("/t", n, {})
            other.log("/t", 100 + n, {})
    assert one.recording_id != other.recording_id
    for recorder, first in ((one, 0), (other, 100)):
        found = view(tmp_path).messages("telemetry", recording=recorder.recording_id)
        assert [m.t_ns for m in found] == list(range(first, first + 20))
    assert len(view(tmp_path).closing()) == 2


def test_many_threads_may_record_at_once(tmp_path: Path, view: View, picture: Make) -> None:
    with Recorder(settings=_settings(tmp_path, queue_frames=500)) as recorder:

        def work(n: int) -> None:
            recorder.log(f"/t{n}", n, {})
            recorder.image("head", n, picture(n))
            recorder.counts  # noqa: B018 - read while others write

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(200)))
    assert recorder.dropped == {}
    assert sorted(one.t_ns for one in view(tmp_path).messages("telemetry")) == list(range(200))
    assert sorted(one.t_ns for one in view(tmp_path).messages("head")) == list(range(200))


def test_two_threads_that_bring_a_new_camera_share_one_stream(
    tmp_path: Path, view: View, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)
    make = StreamWriter.__init__

    def slow(*args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        make(*args, **kwargs)

    with Recorder(tmp_path) as recorder:
        monkeypatch.setattr(StreamWriter, "__init__", slow)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda n: recorder.image("head", n, picture(n)), range(2)))
    assert sorted(one.t_ns for one in view(tmp_path).messages("head")) == [0, 1]


# -- what the caller did wrong is told to the caller, and costs no other reading ---------------------------------


@pytest.mark.parametrize("t_ns", [1.5, 1e18, "now", None])
def test_a_time_that_is_not_whole_nanoseconds_is_refused_at_the_call(tmp_path: Path, view: View, t_ns: Any) -> None:
    with Recorder(tmp_path) as recorder:
        with pytest.raises(TypeError, match="whole nanoseconds"):
            recorder.log("/t", t_ns, {})
        recorder.log("/t", 2, {})
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [2]


@pytest.mark.parametrize("topic", ["", "/\udcff", None])
def test_a_topic_that_no_file_could_hold_is_refused_at_the_call_and_costs_no_other(
    tmp_path: Path, view: View, topic: Any
) -> None:
    with Recorder(tmp_path) as recorder:
        recorder.log("/t", 1, {})
        with pytest.raises(BadName, match="a topic's name must be text"):
            recorder.log(topic, 2, {})
        recorder.log("/t", 3, {})
        recorder.text("error", "cannot open \udcff.bag", t_ns=4)
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [1, 3]
    assert [json.loads(one.data)["message"] for one in view(tmp_path).messages("_events")] == ["cannot open ?.bag"]


@pytest.mark.parametrize("t_ns", [-1, 2**63 - 1, 2**64])
def test_a_time_outside_the_protocol_is_refused_at_the_call(
    tmp_path: Path, view: View, picture: Make, t_ns: int
) -> None:
    with Recorder(tmp_path) as recorder:
        with pytest.raises(ValueError, match="a time must be within"):
            recorder.log("/t", t_ns, {})
        with pytest.raises(ValueError, match="a time must be within"):
            recorder.image("head", t_ns, picture(0))
        recorder.log("/t", 2**63 - 2, {})
        recorder.log("/t", np.int64(3), {})  # type: ignore[arg-type]
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [2**63 - 2, 3]


@pytest.mark.parametrize("shape", [(47, 64, 3), (48, 63, 3), (48, 64), (48, 64, 4), (0, 0, 3), (0, 64, 3)])
def test_a_picture_of_a_wrong_shape_is_refused_at_the_call(
    tmp_path: Path, view: View, picture: Make, shape: tuple[int, ...]
) -> None:
    with Recorder(tmp_path) as recorder:
        with pytest.raises(ValueError, match="must be uint8 of shape"):
            recorder.image("head", 1, np.zeros(shape, np.uint8))
        with pytest.raises(ValueError, match="must be uint8 of shape"):
            recorder.image("head", 1, picture(0).astype(np.float32))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="color must be one of rgb, bgr, got 'gray'"):
            recorder.image("head", 1, picture(0), color="gray")  # type: ignore[arg-type]
        recorder.image("head", 2, picture(0))
    assert [one.t_ns for one in view(tmp_path).messages("head")] == [2]


@pytest.mark.parametrize("stream", ["../x", "Head", "", "a/b"])
def test_a_stream_that_leaves_the_folder_is_refused(tmp_path: Path, picture: Make, stream: str) -> None:
    with Recorder(tmp_path / "robot") as recorder, pytest.raises(BadName):
        recorder.image(stream, 1, picture(0))
    assert [path.name for path in tmp_path.iterdir()] == ["robot"]


@pytest.mark.parametrize("stream", ["telemetry", "_agent", "_events"])
def test_a_camera_cannot_take_a_stream_of_ours(tmp_path: Path, view: View, picture: Make, stream: str) -> None:
    write_mp4(tmp_path / "a.mp4", 3)
    with Recorder(tmp_path) as recorder:
        recorder.log("/t", 1, {})
        with pytest.raises(ValueError, match="takes no pictures"):
            recorder.image(stream, 1, picture(0))
        with pytest.raises(ValueError, match="takes no video files"):
            recorder.video_file(stream, 1, tmp_path / "a.mp4")
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [1]


# -- finished files --------------------------------------------------------------------------------------------


def test_a_video_file_is_kept_as_it_is(tmp_path: Path, view: View) -> None:
    for n in (5, 7):
        write_mp4(tmp_path / f"{n}.mp4", n)
    with Recorder(tmp_path) as recorder:
        recorder.video_file("head", START_NS, tmp_path / "5.mp4")
        recorder.video_file("head", START_NS + 10**9, tmp_path / "7.mp4")
    segments = view(tmp_path).segments("head")
    assert [(one.seq, one.counts, one.content_type, one.kind) for one in segments] == [
        (0, {"/head": 5}, "video/mp4", "video"),
        (1, {"/head": 7}, "video/mp4", "video"),
    ]
    assert [view(tmp_path).body(one) for one in segments] == [(tmp_path / f"{n}.mp4").read_bytes() for n in (5, 7)]
    assert recorder.counts == {"/head": 12}
    assert view(tmp_path).closing()[0]["last_seq"]["head"] == 1


def test_two_threads_that_bring_files_of_one_stream_lose_none(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, add = threading.Barrier(2), Spool.add

    def slow(spool: Spool, *args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return add(spool, *args, **kwargs)

    for n in (5, 7):
        write_mp4(tmp_path / f"{n}.mp4", n)
    with Recorder(tmp_path) as recorder:
        with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
            patch.setattr(Spool, "add", slow)
            list(pool.map(lambda n: recorder.video_file("head", n, tmp_path / f"{n}.mp4"), (5, 7)))
        assert recorder.recorded["head"] == 12
    segments = view(tmp_path).segments("head")
    assert [one.seq for one in segments] == [0, 1]
    assert sorted(one.messages for one in segments) == [5, 7]


def test_a_stream_takes_files_or_pictures_but_never_both(tmp_path: Path, view: View, picture: Make) -> None:
    write_mp4(tmp_path / "a.mp4", 3)
    with Recorder(tmp_path) as recorder:
        recorder.image("pictures", 1, picture(0))
        with pytest.raises(ValueError, match="takes no video files"):
            recorder.video_file("pictures", 1, tmp_path / "a.mp4")
        recorder.video_file("files", 1, tmp_path / "a.mp4")
        with pytest.raises(ValueError, match="takes no pictures"):
            recorder.image("files", 1, picture(0))
    assert [one.counts for one in view(tmp_path).segments("pictures")] == [{"/pictures": 1}]
    assert [one.counts for one in view(tmp_path).segments("files")] == [{"/files": 3}]


def test_what_is_no_video_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no film")
    with Recorder(tmp_path) as recorder, pytest.raises(EncodeError):
        recorder.video_file("head", 1, tmp_path / "a.mp4")


def test_a_robot_needs_neither_ray_nor_lance_nor_torch() -> None:
    blocked = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "lance", "torch", "duckdb", "pyarrow", "fastapi", "obstore", "mujoco"}:
            raise ImportError(f"{name} is not on a robot")
sys.meta_path.insert(0, Block())
import edge.recorder, edge.uploader, edge.agent, edge.adopt, edge.__main__
print("imported")
"""
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "imported\n", done.stderr
