"""From the bytes of a video segment to its packets with their capture times. Nothing is decoded here."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import av
import av.error
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from google.protobuf.message import DecodeError as ProtobufError

from dataset_catalog.tracks import Packet, Track
from edge.errors import SegmentError
from edge.segment import read_messages
from edge.wire import MCAP_TYPE, MP4_TYPE
from ray_jobs import h264
from ray_jobs.errors import MediaError

VIDEO_SCHEMA = "foxglove.CompressedVideo"
_HEVC_IDR = (19, 20)
_CODECS = {"h264": "h264", "h265": "hevc"}  # CompressedVideo.format → libav's name


def topics_of(track: Track) -> list[dict[str, Any]]:
    """What the index says of a track's topic; an mp4 has none."""
    if not track.topic:
        return []
    return [{"name": track.topic, "encoding": "protobuf", "schema_name": VIDEO_SCHEMA, "count": len(track.packets)}]


def read_track(body: bytes, *, content_type: str, start_ns: int, is_sound: bool = False) -> Track:
    """The one track of a video segment. `start_ns`: time of an mp4's first frame; MCAP has each frame's own.

    `is_sound`: these very bytes have been through here before, and are not looked at for missing pictures again.

    Raises `MediaError` if it cannot be read, does not begin with a keyframe, or misses pictures or time.
    """
    if content_type == MCAP_TYPE:
        track = _read_mcap(body, check_crcs=not is_sound)
    elif content_type == MP4_TYPE:
        track = _read_mp4(body, start_ns)
    else:
        raise MediaError(f"video must be {MCAP_TYPE} or {MP4_TYPE}, got {content_type!r}")
    if not is_sound:
        _check(track)
    return track


def _read_mcap(body: bytes, *, check_crcs: bool) -> Track:
    topics: set[tuple[str, str]] = set()
    packets = []
    try:
        for message in read_messages(io.BytesIO(body), check_crcs=check_crcs):
            if message.topic.schema_name != VIDEO_SCHEMA or message.topic.encoding != "protobuf":
                raise MediaError(f"{message.topic.name} holds {message.topic.schema_name!r}, expected {VIDEO_SCHEMA}")
            picture = CompressedVideo.FromString(message.data)
            topics.add((message.topic.name, picture.format))
            packets.append((message.t_ns, picture.data))
    except (SegmentError, ProtobufError) as error:
        raise MediaError(str(error)) from error
    if len(topics) != 1:
        raise MediaError(f"a video segment holds one topic in one format, got {sorted(topics)}")
    topic, format_ = topics.pop()
    if format_ not in _CODECS:
        raise MediaError(f"format must be one of {', '.join(_CODECS)}, got {format_!r}")
    times = [t_ns for t_ns, _ in packets]
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise MediaError("capture times do not ascend")  # CompressedVideo knows no B-frames
    codec = _CODECS[format_]
    return Track(codec, b"", tuple(Packet(t, data, _is_keyframe(codec, data)) for t, data in packets), topic)


def _is_keyframe(codec: str, data: bytes) -> bool:
    if codec == "h264":
        return h264.is_keyframe(data)
    return any(nal and nal[0] >> 1 & 63 in _HEVC_IDR for nal in h264.nal_units(data))


def _read_mp4(body: bytes, start_ns: int) -> Track:
    try:
        with av.open(io.BytesIO(body), format="mp4") as container:  # no other demuxer gets to see strangers' bytes
            if not container.streams.video:
                raise MediaError("the mp4 holds no video")
            stream: Any = container.streams.video[0]
            if stream.codec_context is None:
                raise MediaError("the mp4's video is of no codec that can be read")
            found = [packet for packet in container.demux(stream) if packet.size or packet.pts is not None]
            _check_count(stream.frames, len(found))
            packets = tuple(_mp4_packets([packet for packet in found if packet.size], start_ns))
            return Track(stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b"", packets, "")
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(f"not a readable mp4: {error}") from error


def _check_count(stated: int, found: int) -> None:
    """libav passes over what its tables place behind the end of the file or of an edit. Fragments state no number."""
    if stated not in (0, found):
        raise MediaError(f"the mp4 states {stated} pictures, {found} can be read")


def _mp4_packets(found: list[Any], start_ns: int) -> Iterator[Packet]:
    if any(packet.pts is None or packet.is_discard for packet in found):
        raise MediaError("the mp4 has pictures without a time, or hidden ones")
    first = min((packet.pts for packet in found), default=0)
    for packet in found:
        t_ns = start_ns + to_ns(packet.pts - first, packet.time_base.numerator, packet.time_base.denominator)
        yield Packet(t_ns, bytes(packet), packet.is_keyframe)


def to_ns(ticks: int, numerator: int, denominator: int) -> int:
    """`ticks` of numerator/denominator seconds in ns, exact, rounded to the nearest, halves up."""
    return (2 * ticks * numerator * 1_000_000_000 + denominator) // (2 * denominator)


def _check(track: Track) -> None:
    if not track.packets:
        raise MediaError("the segment holds no picture")
    if not track.packets[0].keyframe:
        raise MediaError("the segment begins in the middle of a GOP")
    if not track.gops or track.gops[0].packets[0] is not track.packets[0]:
        raise MediaError("the segment begins with pictures that need an earlier one")
    if track.codec == "h264" and not track.extradata:
        missing = h264.missing_before(packet.data for packet in track.packets)
        if missing is not None:
            raise MediaError(f"a picture is missing before picture {missing} (frame_num jumps)")
