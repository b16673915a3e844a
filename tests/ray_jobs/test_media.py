"""Packets, times and GOPs of a video segment, and what makes it unfit."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.tracks import Packet, Track
from edge.wire import MCAP_TYPE, MP4_TYPE
from ray_jobs import h264
from ray_jobs.errors import MediaError
from ray_jobs.media import read_track, to_ns
from ray_jobs.picture_check import check_pictures

T0 = 1_760_000_000_000_000_000
MS = 1_000_000


def mp4(*, frames: int = 25, bframes: int = 0, gop: int = 10) -> bytes:
    """Gray pictures at 30 fps, each brighter than the last, by x264 in an mp4."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"x264-params": f"keyint={gop}:bframes={bframes}:b-adapt=0:scenecut=0:log-level=0"}
        for number in range(frames):
            gray = np.full((48, 64, 3), 40 + number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_an_mcap_segment_gives_its_own_times_and_gops(make_pictures: Any, make_video: Any) -> None:
    packets = make_pictures(T0, 25)
    track = read_track(make_video("head_camera", packets), content_type=MCAP_TYPE, start_ns=0)
    assert [packet.t_ns for packet in track.packets] == [T0 + n * 50 * MS for n in range(25)]
    assert [(gop.start_ns - T0, len(gop.packets)) for gop in track.gops] == [(0, 10), (500 * MS, 10), (1000 * MS, 5)]
    assert track.gops[1].bytes == sum(len(packet.data) for packet in packets[10:20])
    assert not track.gops[0].reorders
    assert check_pictures(track).frames == 25


@pytest.mark.parametrize("lost", [1, 5, 8, 10, 11, 18, 20, 23])
def test_a_lost_picture_that_others_need_is_noticed(make_pictures: Any, make_video: Any, lost: int) -> None:
    body = make_video("head_camera", make_pictures(T0, 25), drop=[lost])
    with pytest.raises(MediaError, match="a picture is missing before"):
        read_track(body, content_type=MCAP_TYPE, start_ns=0)


def test_the_last_picture_of_a_gop_can_be_lost_without_harm_to_others(make_pictures: Any, make_video: Any) -> None:
    body = make_video("head_camera", make_pictures(T0, 25), drop=[9, 24])
    assert check_pictures(read_track(body, content_type=MCAP_TYPE, start_ns=0)).frames == 23


def test_a_damaged_picture_is_noticed_when_it_is_decoded(make_pictures: Any, make_video: Any) -> None:
    packets = make_pictures(T0, 25)
    torn = packets[10]
    packets[10] = type(torn)(torn.t_ns, torn.data[: -len(torn.data) // 20], torn.keyframe)
    track = read_track(make_video("head_camera", packets), content_type=MCAP_TYPE, start_ns=0)
    with pytest.raises(MediaError, match=f"GOP at {T0 + 500 * MS} ns"):
        check_pictures(track)


def test_times_that_do_not_ascend_are_refused(make_pictures: Any, make_video: Any) -> None:
    packets = make_pictures(T0, 10)
    packets[5] = type(packets[5])(packets[4].t_ns, packets[5].data, False)
    with pytest.raises(MediaError, match="ascend"):
        read_track(make_video("head_camera", packets), content_type=MCAP_TYPE, start_ns=0)


@pytest.mark.parametrize("bframes", [0, 2])
def test_an_mp4_gives_times_from_its_pts_whatever_the_decoding_order(bframes: int) -> None:
    track = read_track(mp4(bframes=bframes), content_type=MP4_TYPE, start_ns=T0)
    times = sorted(packet.t_ns for packet in track.packets)
    assert times == [T0 + round(Fraction(n * 10**9, 30)) for n in range(25)]
    assert any(gop.reorders for gop in track.gops) == bool(bframes)
    assert sum(len(gop.packets) for gop in track.gops) == 25
    assert check_pictures(track).fps == pytest.approx(30)


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [(b"", MP4_TYPE, "mp4"), (b"\x89MCAP0\r\n", MCAP_TYPE, "MCAP"), (b"x", "text/plain", "text/plain")],
)
def test_what_is_no_video_is_refused_in_words(body: bytes, content_type: str, said: str) -> None:
    with pytest.raises(MediaError, match=said):
        read_track(body, content_type=content_type, start_ns=0)


@given(st.integers(0, 10**9), st.integers(1, 10**4), st.integers(1, 10**6))
def test_ticks_become_the_nearest_nanosecond(ticks: int, numerator: int, denominator: int) -> None:
    exact = Fraction(ticks * numerator * 10**9, denominator)
    assert abs(to_ns(ticks, numerator, denominator) - exact) <= Fraction(1, 2)


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=30, unique_by=lambda one: one[0]))
def test_gops_hold_every_packet_once_and_no_picture_of_another_time_span(found: list[tuple[int, bool]]) -> None:
    first = (min(t for t, _ in found) - 1, True)
    packets = tuple(Packet(t, b"", key) for t, key in [first, *found])
    gops = Track("h264", b"x", packets, "").gops
    assert tuple(packet for gop in gops for packet in gop.packets) == packets
    assert all(gop.packets[0].keyframe for gop in gops)
    spans = [(gop.frame_t_ns[0], gop.frame_t_ns[-1]) for gop in gops]
    assert spans == sorted(spans)
    assert all(a[1] < b[0] for a, b in pairwise(spans))


def test_the_real_g1_has_the_frames_its_description_says(real_data: Path) -> None:
    folder = real_data / "g1/videos/chunk-000/observation.images.cam_high"
    track = read_track((folder / "episode_000001.mp4").read_bytes(), content_type=MP4_TYPE, start_ns=T0)
    assert (track.codec, len(track.packets), len(track.gops[0].packets)) == ("av1", 393, 2)
    found = check_pictures(track)
    assert (found.frames, found.width, found.height) == (393, 640, 480)
    assert found.fps == pytest.approx(30)


def test_a_count_wraps_and_unreferenced_pictures_do_not_count() -> None:
    packets = _x264(frames=40, params="bframes=2:b-pyramid=0:b-adapt=0:keyint=100:scenecut=0:log-level=0")
    assert h264.missing_before(packets) is None
    assert h264.missing_before(packets[:1] + packets[2:]) is not None


def _x264(*, frames: int, params: str) -> list[bytes]:
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    context.options = {"x264-params": params}
    packets = []
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + number, np.uint8), format="rgb24")
        frame.pts = number
        packets += context.encode(frame)
    return [bytes(packet) for packet in [*packets, *context.encode(None)]]


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail(data: bytes) -> None:
    h264.missing_before([b"\0\0\1\x67" + data + b"\0\0\1\x65" + data, b"\0\0\1\x41" + data])
