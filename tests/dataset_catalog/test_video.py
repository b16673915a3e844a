"""GOPs decode from their packets alone, in presentation order, and say so when they do not."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from dataset_catalog.errors import DecodeError
from dataset_catalog.video import decode_gop, each_frame, split_planes, to_rgb

GRAYS = list(range(20, 200, 12))


def encode(
    codec: str = "libx264", *, bframes: int = 0, extradata_apart: bool = False, noise: bool = False
) -> tuple[list[bytes], bytes]:
    """One GOP of flat gray pictures, each brighter than the one before: packets in decoding order, extradata."""
    rng = np.random.default_rng(0)
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    if codec == "libx264":
        context.options = {"crf": "10", "x264-params": f"keyint=100:bframes={bframes}:b-adapt=0:scenecut=0:log-level=0"}
    if extradata_apart:
        context.flags |= 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER
    packets = []
    for i, gray in enumerate(GRAYS):
        picture = rng.integers(0, 256, (48, 64, 3), np.uint8) if noise else np.full((48, 64, 3), gray, np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = i
        packets += [bytes(packet) for packet in context.encode(frame)]
    packets += [bytes(packet) for packet in context.encode(None)]
    return packets, bytes(context.extradata or b"")


def grays(frames: list[av.VideoFrame]) -> list[int]:
    return [round(float(to_rgb(frame).mean())) for frame in frames]


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("upto", [None, 1, 4, len(GRAYS)])
def test_frames_come_in_presentation_order_whole_or_as_a_prefix(bframes: int, upto: int | None) -> None:
    packets, _ = encode(bframes=bframes)
    assert grays(decode_gop("h264", None, packets, upto=upto)) == pytest.approx(GRAYS[:upto], abs=3)


def test_frames_come_one_by_one_and_what_is_wrong_is_told_behind_them() -> None:
    packets, _ = encode()
    assert grays(list(each_frame("h264", None, packets))) == pytest.approx(GRAYS, abs=3)

    frames = each_frame("h264", None, [*packets[:5], b"\0" * 40])
    assert grays([next(frames)]) == pytest.approx(GRAYS[:1], abs=3)
    with pytest.raises(DecodeError, match="cannot decode this GOP of 6 packets"):
        list(frames)


def test_a_prefix_needs_no_packet_after_it() -> None:
    packets, _ = encode()
    broken = packets[:3] + [b"\0" * 40] * (len(packets) - 3)
    assert grays(decode_gop("h264", b"", broken, upto=3)) == pytest.approx(GRAYS[:3], abs=3)


def test_codec_configuration_may_lie_outside_the_packets() -> None:
    packets, extradata = encode(extradata_apart=True)
    assert len(extradata) > 10
    assert len(decode_gop("h264", extradata, packets)) == len(GRAYS)
    with pytest.raises(DecodeError):
        decode_gop("h264", b"", packets)


def test_another_codec_decodes_by_its_short_name() -> None:
    packets, extradata = encode("mpeg4")
    assert len(decode_gop("mpeg4", extradata, packets)) == len(GRAYS)


def test_a_failure_names_what_is_wrong_and_the_next_gop_still_decodes() -> None:
    packets, _ = encode()
    with pytest.raises(DecodeError, match="h264"):
        decode_gop("h264", b"", [b"\0" * 50])
    with pytest.raises(DecodeError, match="gave 15 frames from 15 packets, expected 16"):
        decode_gop("h264", b"", packets, upto=16)
    with pytest.raises(DecodeError, match="no decoder named 'h999'"):
        decode_gop("h999", b"", packets)
    flipped = [packets[0], bytes(b ^ 0x55 for b in packets[1]), *packets[2:]]
    with pytest.raises(DecodeError):
        decode_gop("h264", b"", flipped)
    assert grays(decode_gop("h264", b"", packets)) == pytest.approx(GRAYS, abs=3)


def test_a_damaged_picture_that_libav_conceals_is_an_error() -> None:
    packets, _ = encode(noise=True)
    middle = len(packets[4]) // 2
    packets[4] = (
        packets[4][:middle] + bytes(b ^ 0xFF for b in packets[4][middle : middle + 20]) + packets[4][middle + 20 :]
    )
    with pytest.raises(DecodeError, match=r"h264 marks frames .*4.* of 15 as corrupt"):
        decode_gop("h264", b"", packets)


def test_rgb_is_height_width_channels_at_the_size_asked_for() -> None:
    packets, _ = encode()
    frame = decode_gop("h264", b"", packets, upto=1)[0]
    assert to_rgb(frame).shape == (48, 64, 3)
    small = to_rgb(frame, (24, 16))
    assert small.shape == (24, 16, 3)
    assert small.dtype == np.uint8
    assert small.flags.c_contiguous


def test_what_a_gpu_decodes_has_the_same_colours() -> None:
    """A GPU gives NV12, colour values in pairs; libswscale makes other colours of it than of yuv420p."""
    coloured = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(coloured, format="rgb24").reformat(format="yuv420p")
    assert (to_rgb(frame.reformat(format="nv12")) == to_rgb(frame)).all()


def test_planes_are_the_same_pixels_channel_first() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    planes = np.zeros((3, 6, 8), np.uint8)
    split_planes(rgb, planes)
    assert (planes == rgb.transpose(2, 0, 1)).all()


def test_what_lies_behind_a_packet_in_memory_decides_nothing() -> None:
    """MPEG-4 part 2 reads on behind a packet's end, and marks pictures as corrupt for what it finds there."""
    packets, extradata = encode("mpeg4", extradata_apart=True)
    for behind in (b"\0" * 64, b"\1" * 64, b"\0\0\1\xb6" * 16, b"\xff" * 64):
        memory, starts = b"", []
        for data in packets:
            starts.append(len(memory))
            memory += data + behind
        views: list[Any] = [memoryview(memory)[a : a + len(p)] for a, p in zip(starts, packets, strict=True)]
        assert len(decode_gop("mpeg4", extradata, views)) == len(packets)
