"""An MP4 file of one video track at a fixed rate, of packets as they are: what LeRobot keeps an episode's camera in."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from dataset_catalog import fmp4, nal
from dataset_catalog.errors import FormatError

_TICKS = 512  # of the time base, for a frame
_ENTRIES = {
    "h264": (b"avc1", b"avcC"),
    "hevc": (b"hvc1", b"hvcC"),
    "av1": (b"av01", b"av1C"),
    "libdav1d": (b"av01", b"av1C"),
}


def can_hold(codec: str, extradata: bytes) -> bool:
    """Whether packets of this codec can be copied into an MP4 by what is kept of them."""
    return codec in _ENTRIES and (bool(extradata) or codec in ("h264", "hevc"))


def write_mp4(
    path: Path,
    packets: Sequence[bytes],
    shown: Sequence[int],
    *,
    keyframes: Sequence[bool],
    codec: str,
    extradata: bytes,
    size: tuple[int, int],
    fps: float,
) -> None:
    """Packets in decoding order; `shown` is each one's place in presentation order, from 0; `size` (height, width).

    Frame n is shown n / fps after the beginning. Raises `FormatError` for a codec that `can_hold` does not know.
    """
    if not can_hold(codec, extradata):
        raise FormatError(f"packets of {codec} cannot be copied into an MP4")
    rate = Fraction(fps).limit_denominator(1001)
    base, late = 1 / (rate * _TICKS), max(place - n for n, place in enumerate(_latest(shown)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with describe(packets[0], codec, extradata, size) as described, av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream_from_template(described.streams.video[0], opaque=True)
        stream.time_base = base
        for n, (data, place, is_key) in enumerate(zip(packets, shown, keyframes, strict=True)):
            packet = _packet(data if extradata else nal.length_prefixed(data))
            packet.stream, packet.time_base, packet.is_keyframe = stream, base, is_key
            packet.pts, packet.dts, packet.duration = place * _TICKS, (n - late) * _TICKS, _TICKS
            container.mux(packet)


def describe(keyframe: bytes, codec: str, extradata: bytes, size: tuple[int, int]) -> Any:
    """A container, open for reading, whose one stream says how such packets are coded, and that holds none."""
    return av.open(io.BytesIO(_description(keyframe, codec, extradata, size)), format="mp4")


def _latest(shown: Sequence[int]) -> list[int]:
    """By how much decoding runs ahead: the place in decoding order that each picture, sorted by presentation, needs."""
    order = sorted(range(len(shown)), key=shown.__getitem__)
    return [max(n, at) for n, at in enumerate(order)]


def _description(keyframe: bytes, codec: str, extradata: bytes, size: tuple[int, int]) -> bytes:
    """The beginning of an MP4 that describes such a track, and holds nothing of it."""
    entry, name = _ENTRIES[codec]
    if not extradata:
        sets = nal.parameter_sets(codec, keyframe)
        if not sets:
            raise FormatError(f"a keyframe of {codec} has no parameter sets")
        extradata = nal.decoder_configuration(codec, sets)
    height, width = size
    stsd = fmp4.sample_description(entry, fmp4.configuration_box(name, extradata), width=width, height=height)
    return fmp4.initialization(stsd, width=width, height=height, duration=0, delay=0)


def _packet(data: bytes) -> Any:
    packet = av.Packet(len(data))
    packet.update(data)
    return packet
