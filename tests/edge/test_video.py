"""One packet for every picture, keyframes where a GOP must begin, nothing needed from before a keyframe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import EncodeError
from edge.segment import digest_file
from edge.video import MAX_GOP_NS, Packet, VideoEncoder, read_mp4

START_NS = 1_760_000_000_000_000_000
FRAME_NS = 33_333_333
Make = Callable[..., NDArray[np.uint8]]


def _encoder(*, gop_frames: int = 10, width: int = 64, height: int = 48) -> VideoEncoder:
    return VideoEncoder(width=width, height=height, gop_frames=gop_frames, crf=21, max_bit_rate=2_500_000)


def _encode(picture: Make, times: list[int], *, gop_frames: int = 10, forced: set[int] = frozenset()) -> list[Packet]:  # type: ignore[assignment]
    encoder = _encoder(gop_frames=gop_frames)
    return [encoder.encode(t_ns, picture(n), color="rgb", keyframe=n in forced) for n, t_ns in enumerate(times)]


def _keyframes(packets: list[Packet]) -> list[int]:
    return [n for n, packet in enumerate(packets) if packet.keyframe]


def _decode(packets: list[Packet]) -> list[NDArray[np.uint8]]:
    codec: Any = av.CodecContext.create("h264", "r")
    frames = [frame for data in [av.Packet(one.data) for one in packets] + [None] for frame in codec.decode(data)]
    return [frame.to_ndarray(format="rgb24") for frame in frames]


def _steady(count: int) -> list[int]:
    return [START_NS + n * FRAME_NS for n in range(count)]


def test_every_picture_gives_one_packet_with_its_time(picture: Make) -> None:
    packets = _encode(picture, _steady(35))
    assert [one.t_ns for one in packets] == _steady(35)
    assert all(one.data for one in packets)


@pytest.mark.parametrize("gop_frames", [1, 2, 10, 30])
def test_a_keyframe_comes_every_gop(picture: Make, gop_frames: int) -> None:
    assert _keyframes(_encode(picture, _steady(31), gop_frames=gop_frames)) == list(range(0, 31, gop_frames))


def test_a_keyframe_comes_every_second_at_a_low_rate(picture: Make) -> None:
    packets = _encode(picture, [START_NS + n * 300_000_000 for n in range(12)], gop_frames=30)
    assert _keyframes(packets) == [0, 4, 8]


def test_a_camera_slower_than_a_frame_a_second_gives_only_keyframes(picture: Make) -> None:
    assert _keyframes(_encode(picture, [START_NS + n * MAX_GOP_NS for n in range(5)])) == list(range(5))


def test_a_clock_that_jumps_back_begins_a_gop(picture: Make) -> None:
    times = [*_steady(5), *(START_NS - 3_600_000_000_000 + n * FRAME_NS for n in range(5))]
    assert _keyframes(_encode(picture, times, gop_frames=30)) == [0, 5]


@given(st.lists(st.integers(0, 3_000_000_000), min_size=1, max_size=40), st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_no_gop_is_longer_than_asked_in_frames_or_in_time(offsets: list[int], gop_frames: int) -> None:
    encoder = _encoder(gop_frames=gop_frames, width=16, height=16)
    blank = np.zeros((16, 16, 3), np.uint8)
    packets = [encoder.encode(START_NS + at, blank, color="rgb", keyframe=False) for at in offsets]
    assert packets[0].keyframe
    begin, length = packets[0].t_ns, 0
    for packet in packets:
        begin, length = (packet.t_ns, 1) if packet.keyframe else (begin, length + 1)
        assert length <= gop_frames
        assert 0 <= packet.t_ns - begin < MAX_GOP_NS


def test_a_keyframe_comes_where_it_is_asked_for_and_the_count_begins_again(picture: Make) -> None:
    assert _keyframes(_encode(picture, _steady(20), gop_frames=10, forced={3, 4})) == [0, 3, 4, 14]


def test_as_many_frames_are_decoded_as_were_encoded_and_look_alike(picture: Make) -> None:
    frames = _decode(_encode(picture, _steady(25)))
    assert len(frames) == 25
    for n in (0, 9, 24):
        assert np.abs(frames[n].astype(int) - picture(n)).mean() < 12


def test_every_gop_decodes_alone_and_begins_with_its_parameter_sets(
    picture: Make, units_of: Callable[[bytes], list[int]]
) -> None:
    packets = _encode(picture, _steady(30))
    for begin in _keyframes(packets):
        gop = packets[begin : begin + 10]
        types = units_of(gop[0].data)
        assert {7, 8, 5} <= set(types)
        assert types.index(7) < types.index(5)
        assert all(5 not in units_of(one.data) for one in gop[1:])
        assert len(_decode(gop)) == 10


def test_no_packet_holds_a_b_frame(picture: Make) -> None:
    codec: Any = av.CodecContext.create("h264", "r")
    packets = [av.Packet(one.data) for one in _encode(picture, _steady(20))]
    frames = [frame for packet in [*packets, None] for frame in codec.decode(packet)]
    assert {PictureType(frame.pict_type) for frame in frames} == {PictureType.I, PictureType.P}


def test_pictures_are_scaled_to_the_size_asked_for(picture: Make) -> None:
    encoder = VideoEncoder(
        width=32, height=24, source_size=(64, 48), gop_frames=10, crf=21, max_bit_rate=2_500_000, fps=5
    )
    assert (encoder.width, encoder.height, encoder.source_size) == (32, 24, (64, 48))
    packets = [encoder.encode(t_ns, picture(n), color="rgb", keyframe=False) for n, t_ns in enumerate(_steady(5))]
    for n, frame in enumerate(_decode(packets)):
        small = picture(n).reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(frame - small).mean() < 20
    with pytest.raises(EncodeError, match=r"shape \(48, 64, 3\)"):
        encoder.encode(START_NS, picture(0, width=32, height=24), color="rgb", keyframe=False)


@pytest.mark.parametrize("fps", [1, 5, 20, 30])
def test_the_bit_rate_stays_below_its_bound_at_the_rate_stated(fps: int) -> None:
    noise, seconds, bound = np.random.default_rng(1), 12, 100_000
    encoder = VideoEncoder(width=128, height=96, gop_frames=30, crf=21, max_bit_rate=bound, fps=fps)
    sizes = []
    for n in range(seconds * fps):
        image = noise.integers(0, 256, (96, 128, 3), np.uint8)
        sizes.append(len(encoder.encode(START_NS + n * 10**9 // fps, image, color="rgb", keyframe=False).data))
    later = 8 * sum(sizes[2 * fps :]) / (seconds - 2)
    assert bound * 0.5 < later < bound * 1.2


def test_bgr_pictures_keep_their_colors() -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[:, :, 2] = 255
    packet = _encoder().encode(START_NS, red, color="bgr", keyframe=True)
    mean = _decode([packet])[0].mean(axis=(0, 1))
    assert mean[0] > 200
    assert mean[2] < 60


def test_a_picture_that_is_a_view_with_strides_is_encoded_as_it_looks(picture: Make) -> None:
    image = picture(5)
    flipped = np.ascontiguousarray(image[:, ::-1])
    one = _encoder().encode(START_NS, image[:, ::-1], color="rgb", keyframe=True)
    assert one.data == _encoder().encode(START_NS, flipped, color="rgb", keyframe=True).data


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((64, 48, 3), np.uint8),
        np.zeros((48, 64, 3), np.float32),
        np.zeros((0, 0, 3), np.uint8),
    ],
)
def test_a_picture_of_another_shape_is_an_encode_error(image: Any) -> None:
    with pytest.raises(EncodeError, match="picture must be"):
        _encoder().encode(START_NS, image, color="rgb", keyframe=False)


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (0, 48), (64, 0), (-2, 48)])
def test_a_size_that_h264_cannot_hold_is_an_encode_error(width: int, height: int) -> None:
    with pytest.raises(EncodeError, match="even width and height"):
        _encoder(width=width, height=height)


def test_the_smallest_picture_is_encoded() -> None:
    packet = _encoder(width=2, height=2).encode(START_NS, np.zeros((2, 2, 3), np.uint8), color="rgb", keyframe=False)
    assert packet.keyframe


def write_mp4(path: Path, frames: int) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(frames):
            image = np.full((48, 64, 3), n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def test_an_mp4_files_facts_are_its_frames_and_its_length(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", 31)
    facts = read_mp4(tmp_path / "a.mp4", start_ns=START_NS, topic="/head")
    assert facts.counts == {"/head": 31}
    assert (facts.start_ns, facts.end_ns) == (START_NS, START_NS + 1_000_000_000 + 1)
    assert (facts.sha256, facts.bytes) == digest_file(tmp_path / "a.mp4")


@pytest.mark.parametrize("content", [b"", b"not a film", b"\0\0\0\x18ftypmp42" + b"\0" * 12])
def test_what_is_no_mp4_with_video_is_an_encode_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(EncodeError):
        read_mp4(tmp_path / "a.mp4", start_ns=START_NS, topic="/head")
    with pytest.raises(EncodeError):
        read_mp4(tmp_path / "missing.mp4", start_ns=START_NS, topic="/head")


def test_an_mp4_file_cut_short_is_an_encode_error(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", 10)
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:500])
    with pytest.raises(EncodeError):
        read_mp4(tmp_path / "b.mp4", start_ns=START_NS, topic="/head")
