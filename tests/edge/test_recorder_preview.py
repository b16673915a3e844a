"""A camera's preview: some of its pictures, small, in a stream of their own, for a twentieth of its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from numpy.typing import NDArray

from benchmarks.camera import HEIGHT, WIDTH, read_pictures
from benchmarks.scene import PICTURES, write_pictures
from edge.errors import BadName
from edge.recorder import Recorder
from edge.segment import Message
from edge.settings import EdgeSettings
from tests.edge.test_video import write_mp4

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

START_NS = 1_760_000_000_000_000_000
FPS = 20
FRAME_NS = 1_000_000_000 // FPS
YEAR_NS = 365 * 86_400 * 1_000_000_000
View = Callable[[Path], "SpoolView"]
Make = Callable[..., NDArray[np.uint8]]
Frames = Callable[[list[Message]], list[NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a robot's head camera could see at 640x480."""
    path = tmp_path_factory.mktemp("scene") / "pictures"
    write_pictures(path)
    return path


def _record(folder: Path, pictures: Iterator[NDArray[np.uint8]], times: list[int], **settings: Any) -> None:
    known = EdgeSettings(folder=folder, **{"preview_fps": 5, **settings})
    with Recorder(settings=known, wait_for_room=True) as recorder:
        for t_ns, picture in zip(times, pictures, strict=False):
            recorder.image("head", t_ns, picture)


def _steady(count: int) -> list[int]:
    return [START_NS + n * FRAME_NS for n in range(count)]


def _bytes(messages: list[Message]) -> int:
    return sum(len(CompressedVideo.FromString(one.data).data) for one in messages)


def test_a_preview_has_its_rate_its_size_and_a_twentieth_of_the_bytes(
    tmp_path: Path, scene: Path, view: View, frames_of: Frames
) -> None:
    count = 4 * PICTURES
    _record(tmp_path, read_pictures(scene), _steady(count))
    full, preview = view(tmp_path).messages("head"), view(tmp_path).messages("head_preview")
    assert [one.t_ns for one in full] == _steady(count)
    assert [one.t_ns for one in preview] == _steady(count)[::4]
    frames = frames_of(preview)
    assert {frame.shape for frame in frames} == {(HEIGHT // 2, WIDTH // 2, 3)}
    share = _bytes(preview) / _bytes(full)
    print(f"preview {_bytes(preview)} bytes of {_bytes(full)}: {100 * share:.2f} %")
    assert share <= 0.05
    for frame, picture in zip(frames[:20], islice(read_pictures(scene), 0, 80, 4), strict=True):
        small = picture.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3))
        assert np.abs(frame - small).mean() < 12, "one would not recognise it"


def test_the_camera_itself_is_recorded_as_without_a_preview(tmp_path: Path, scene: Path, view: View) -> None:
    for name, fps in (("with", 5), ("without", 0)):
        _record(tmp_path / name, read_pictures(scene), _steady(20), preview_fps=fps)
    with_, without = (view(tmp_path / name).messages("head") for name in ("with", "without"))
    assert [one.data for one in with_] == [one.data for one in without]
    assert view(tmp_path / "without").segments("head_preview") == []


@pytest.mark.parametrize(
    ("times", "previewed"),
    [
        ([0, 50, 100, 150, 200, 250, 400, 450], [0, 200, 400]),
        ([0, 51, 101, 149, 199, 251, 399, 401], [0, 251, 401]),  # late once: the next is due when it would have been
        ([0, 500, 1000, 1100, 1200], [0, 500, 1000, 1200]),  # slower than the preview
        ([0, 50, 100, 50, 100, 150, 200], [0, 200]),  # a small step back
    ],
)
def test_previews_come_at_their_rate_and_no_faster(
    tmp_path: Path, view: View, picture: Make, times: list[int], previewed: list[int]
) -> None:
    pictures = (picture(n) for n in range(len(times)))
    _record(tmp_path, pictures, [START_NS + ms * 1_000_000 for ms in times], preview_share=1)
    found = view(tmp_path).messages("head_preview")
    assert [(one.t_ns - START_NS) // 1_000_000 for one in found] == previewed


@pytest.mark.parametrize("jump_ns", [-10 * YEAR_NS, 10 * YEAR_NS, -5_000_000_000, 5_000_000_000])
def test_previews_go_on_at_their_rate_when_the_clock_jumps(
    tmp_path: Path, view: View, picture: Make, jump_ns: int
) -> None:
    times = [*_steady(30), *(t_ns + jump_ns for t_ns in _steady(60)[30:])]
    _record(tmp_path, (picture(n) for n in range(60)), times, preview_share=1)
    found = [one.t_ns for one in view(tmp_path).messages("head_preview")]
    assert found == [*times[:30:4], *times[30::4]]


def test_a_preview_is_a_stream_like_any_other(tmp_path: Path, view: View, picture: Make) -> None:
    _record(tmp_path, (picture(n) for n in range(9)), _steady(9), preview_share=1)
    (one,) = view(tmp_path).segments("head_preview")
    assert (one.kind, one.counts) == ("video", {"/head_preview": 3})
    assert view(tmp_path).closing()[0]["last_seq"]["head_preview"] == 0
    published = {message.publish_ns for message in view(tmp_path).messages("head")}
    assert {message.publish_ns for message in view(tmp_path).messages("head_preview")} <= published


def test_the_name_of_a_preview_is_not_to_be_had(tmp_path: Path, view: View, picture: Make) -> None:
    write_mp4(tmp_path / "a.mp4", 3)
    settings = EdgeSettings(folder=tmp_path, preview_fps=5)
    with Recorder(settings=settings) as recorder:
        for _ in range(2):  # before the preview is there, and after
            with pytest.raises(ValueError, match="'head_preview' takes no pictures"):
                recorder.image("head_preview", START_NS, picture(0))
            with pytest.raises(ValueError, match="'head_preview' takes no video files"):
                recorder.video_file("head_preview", START_NS, tmp_path / "a.mp4")
            recorder.image("head", START_NS, picture(0))
        with pytest.raises(BadName):
            recorder.image("x" * 60, START_NS, picture(0))  # with "_preview" it would be too long
    assert [one.messages for one in view(tmp_path).segments("head_preview")] == [1]
    with Recorder(tmp_path / "without") as recorder:
        recorder.image("head_preview", START_NS, picture(0))
    assert len(view(tmp_path / "without").messages("head_preview")) == 1
