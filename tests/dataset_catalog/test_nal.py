"""H.264 and H.265 parameter sets become the very decoder configurations that libav writes."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest

from dataset_catalog.errors import DecodeError
from dataset_catalog.nal import decoder_configuration, length_prefixed, nal_units, parameter_sets


def configuration_of(encoder: str, **options: str) -> bytes:
    """What libav's muxer says of a stream outside its packets."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(encoder, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 70, 66, options.pop("pix_fmt", "yuv420p")
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(np.full((66, 70, 3), 90, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(io.BytesIO(file.getvalue())) as container:
        return bytes(container.streams.video[0].codec_context.extradata)


def sets_in_avcc(avcc: bytes) -> tuple[bytes, ...]:
    sps_end = 8 + int.from_bytes(avcc[6:8])
    return avcc[8:sps_end], avcc[sps_end + 3 : sps_end + 3 + int.from_bytes(avcc[sps_end + 1 : sps_end + 3])]


def sets_in_hvcc(hvcc: bytes) -> dict[int, list[bytes]]:
    at, found = 23, {}
    for _ in range(hvcc[22]):
        kind, count, at = hvcc[at] & 63, int.from_bytes(hvcc[at + 1 : at + 3]), at + 3
        for _ in range(count):
            size = int.from_bytes(hvcc[at : at + 2])
            found.setdefault(kind, []).append(hvcc[at + 2 : at + 2 + size])
            at += 2 + size
    return found


@pytest.mark.parametrize("profile", ["baseline", "main", "high"])
def test_avcc_is_what_libav_writes(profile: str) -> None:
    theirs = configuration_of("libx264", profile=profile)
    assert decoder_configuration("h264", sets_in_avcc(theirs)) == theirs


def test_hvcc_says_what_libav_s_says() -> None:
    theirs = configuration_of("libx265", **{"x265-params": "log-level=none:bframes=0"})
    sets = {kind: units for kind, units in sets_in_hvcc(theirs).items() if kind in (32, 33, 34)}
    ours = decoder_configuration("hevc", tuple(unit for units in sets.values() for unit in units))
    assert sets_in_hvcc(ours) == sets
    assert ours[:13] == theirs[:13]  # profile, tier, level
    assert ours[16:19] == theirs[16:19]  # chroma format, bit depths
    assert ours[21] & 0xC7 == theirs[21] & 0xC7


def test_nal_units_end_before_the_zeros_of_the_next_start_code() -> None:
    unit = b"\0\0\0\1\x67ab\0\0\0\1\x68cd\0\0\1\x65ef\0\0"
    assert nal_units(unit) == [b"\x67ab", b"\x68cd", b"\x65ef"]
    assert length_prefixed(unit) == b"\0\0\0\3\x67ab\0\0\0\3\x68cd\0\0\0\3\x65ef"
    assert parameter_sets("h264", unit) == (b"\x67ab", b"\x68cd")


@pytest.mark.parametrize("sets", [(), (b"\x67abc",), (b"\x67\x64\0\x1f", b"\x68cd"), (b"\x67", b"\x68")])
def test_parameter_sets_that_are_not_whole_are_refused(sets: tuple[bytes, ...]) -> None:
    with pytest.raises(DecodeError):
        decoder_configuration("h264", sets)
