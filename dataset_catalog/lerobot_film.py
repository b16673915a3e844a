"""One episode's pictures of a LeRobot dataset as a track: packets as they were encoded, at the times of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import av.error
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataset_catalog.errors import FormatError
from dataset_catalog.lerobot_files import Film
from dataset_catalog.tracks import Packet, Track
from dataset_catalog.video import each_frame

SNAP_NS = 1_000_000  # a picture this near to its row's time has that time: containers count in ticks of their own
_MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg"}

Times = NDArray[np.int64]


def read_film(film: Film, times: Times) -> Track:
    """The GOPs of the film that hold the episode's pictures; `times` are its rows', in ns.

    Raises `FormatError` for what is no video, and for one that begins in the middle of a GOP.
    """
    try:
        with av.open(str(film.path)) as container:
            stream: Any = container.streams.video[0]
            found = list(_packets(container, stream, film))
            codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise FormatError(f"{film.path} is not a video that can be read: {error}") from error
    if not found or not found[0][2]:
        raise FormatError(f"{film.path} has no keyframe at {film.start_s} s")
    return Track(codec, extradata, tuple(Packet(_snap(s, times), data, key) for s, data, key in found), "")


def _packets(container: Any, stream: Any, film: Film) -> Iterator[tuple[float, bytes, bool]]:
    """Seconds since the episode's beginning, bytes, and whether it is a keyframe; of whole GOPs."""
    end_s = np.inf if film.end_s is None else film.end_s
    slack_s = 0.25 / float(stream.average_rate or 30)  # a time that was rounded elsewhere
    if film.start_s:
        container.seek(int((film.start_s + slack_s) / stream.time_base), stream=stream)
    for packet in container.demux(stream):
        if not packet.size:
            continue
        at_s = float(packet.pts * packet.time_base)
        if packet.is_keyframe and at_s >= end_s - slack_s:
            return
        yield at_s - film.start_s, bytes(packet), packet.is_keyframe


def read_pictures(column: Any, times: Times) -> Track:
    """Pictures that lie in the rows themselves: each is a GOP of its own."""
    packets = [row["bytes"] for row in column.to_pylist()]
    if any(not data for data in packets):
        raise FormatError("pictures beside the rows, in files of their own, are not read")
    codecs = {_MAGIC.get(data[:4], _MAGIC.get(data[:3], "")) for data in packets}
    if len(codecs) != 1 or "" in codecs:
        raise FormatError(f"pictures in rows are PNG or JPEG, got {sorted(codecs)}")
    return Track(
        codecs.pop(), b"", tuple(Packet(t, data, True) for t, data in zip(times.tolist(), packets, strict=True)), ""
    )


def size_of(track: Track) -> tuple[int, int]:
    """(height, width) of its pictures, by decoding the first GOP."""
    gop = track.gops[0]
    frame = next(each_frame(track.codec, track.extradata, [packet.data for packet in gop.packets]))
    return frame.height, frame.width


def is_picture(column: Any) -> bool:
    """Whether a column of rows holds pictures."""
    return bool(pa.types.is_struct(column.type))


def _snap(at_s: float, times: Times) -> int:
    """Capture time of a picture `at_s` after the first row."""
    t_ns = int(times[0]) + round(at_s * 1e9)
    nearest = int(times[min(int(np.searchsorted(times, t_ns - SNAP_NS)), len(times) - 1)])
    return nearest if abs(nearest - t_ns) <= SNAP_NS else t_ns
