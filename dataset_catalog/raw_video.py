"""From the bytes of a raw video segment to its packets with their capture times.

Nothing is judged here: the index has read, decoded and timed every picture of a segment whose state is ok.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from mcap.exceptions import McapError
from mcap.records import Message
from mcap.stream_reader import StreamReader

from dataset_catalog import fmp4, nal
from dataset_catalog.errors import DecodeError

MCAP_TYPE, MP4_TYPE = "application/vnd.mcap", "video/mp4"
_ENTRIES = {"h264": (b"avc1", b"avcC"), "hevc": (b"hvc1", b"hvcC")}


@dataclass(frozen=True, slots=True)
class Packet:
    """One coded picture. `t_ns` is its capture time."""

    t_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RawVideo:
    """A segment's packets in decoding order. `stsd`: how an mp4 describes its track; None: H.264 or H.265 in Annex B.

    `extradata`: codec configuration outside the packets, as `decode_gop` takes it.
    """

    codec: str
    packets: tuple[Packet, ...]
    stsd: bytes | None
    extradata: bytes

    def description(self, keyframe: bytes, *, width: int, height: int) -> bytes | None:
        """The `stsd` box for what begins with this keyframe; None where it goes on with the one before."""
        if self.stsd is not None:
            return self.stsd
        sets = nal.parameter_sets(self.codec, keyframe)
        if not sets:
            return None
        entry, name = _ENTRIES[self.codec]
        configuration = fmp4.configuration_box(name, nal.decoder_configuration(self.codec, sets))
        return fmp4.sample_description(entry, configuration, width=width, height=height)

    def as_sample(self, data: bytes) -> bytes:
        """A packet as MP4 holds it."""
        return data if self.stsd is not None else nal.length_prefixed(data)


def read_raw(body: bytes, *, codec: str, content_type: str, start_ns: int) -> RawVideo:
    """`codec` and `start_ns` as the index has them; an mp4's times follow from its first, MCAP has each picture's own.

    Raises `DecodeError` if the bytes are not what the index says.
    """
    if content_type == MP4_TYPE:
        return _read_mp4(body, start_ns)
    if content_type != MCAP_TYPE or codec not in _ENTRIES:
        raise DecodeError(
            f"video is {MP4_TYPE}, or {MCAP_TYPE} of {', '.join(_ENTRIES)}, got {content_type} of {codec}"
        )
    try:
        return RawVideo(codec, tuple(_read_mcap(body)), None, b"")
    except (McapError, ValueError, KeyError, EOFError, RuntimeError) as error:
        raise DecodeError(f"not a readable MCAP file: {type(error).__name__}: {error}") from error


def _read_mcap(body: bytes) -> Iterator[Packet]:
    for record in StreamReader(io.BytesIO(body)).records:
        if isinstance(record, Message):
            yield Packet(record.log_time, CompressedVideo.FromString(record.data).data)


def _read_mp4(body: bytes, start_ns: int) -> RawVideo:
    stsd = fmp4.find_sample_description(body)
    try:
        with av.open(io.BytesIO(body), format="mp4") as container:
            stream: Any = container.streams.video[0]
            context = stream.codec_context
            found = [packet for packet in container.demux(stream) if packet.size]
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        raise DecodeError(f"not a readable mp4: {error}") from error
    extradata = context.extradata or b""
    if extradata not in stsd:
        raise DecodeError("the mp4 describes its track in a way that cannot be copied")
    return RawVideo(context.codec.canonical_name, tuple(_mp4_packets(found, start_ns)), stsd, extradata)


def _mp4_packets(found: list[Any], start_ns: int) -> Iterator[Packet]:
    first = min((packet.pts for packet in found), default=0)
    for packet in found:
        base = packet.time_base
        yield Packet(start_ns + _to_ns(packet.pts - first, base.numerator, base.denominator), bytes(packet))


def _to_ns(ticks: int, numerator: int, denominator: int) -> int:
    """`ticks` of numerator/denominator seconds in ns, exact, rounded to the nearest, halves up."""
    return (2 * ticks * numerator * 1_000_000_000 + denominator) // (2 * denominator)
