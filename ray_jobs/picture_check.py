"""Decodes every picture of a video segment once, as a training run will decode it, and measures it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from dataset_catalog.errors import DecodeError
from dataset_catalog.tracks import Gop, Track
from dataset_catalog.video import each_frame
from ray_jobs.errors import MediaError
from ray_jobs.picture_quality import Quality, QualityMeter
from ray_jobs.thumbnail import Chooser

MAX_GOP_FRAMES = 300  # a GOP's frames are in memory together


@dataclass(frozen=True, slots=True)
class Pictures:
    """What decoding found; `fps` is None for a single frame, `thumbnail` a small JPEG."""

    frames: int
    width: int
    height: int
    fps: float | None
    quality: Quality
    thumbnail: bytes


def check_pictures(track: Track) -> Pictures:
    """Decode GOP by GOP. Raises `MediaError` if one does not decode to as many sound frames as it has packets."""
    sizes: set[tuple[int, int]] = set()
    frames, meter, chooser = 0, QualityMeter(), Chooser(len(track.packets))
    for frame in decode(track):
        sizes.add((frame.width, frame.height))
        if len(sizes) != 1:
            raise MediaError(f"the picture size changes within the segment: {sorted(sizes)}")
        chooser.add(frame, sharpness=meter.add(frame))
        frames += 1
    return Pictures(frames, *sizes.pop(), _fps(track), meter.result(), chooser.jpeg())


def decode(track: Track) -> Iterator[Any]:
    """Every frame (`av.VideoFrame`) of a track in presentation order, to be let go before the next is asked for."""
    for gop in track.gops:
        yield from decode_one(track, gop)


def decode_one(track: Track, gop: Gop) -> Iterator[av.VideoFrame]:
    """The frames of one GOP in presentation order; `MediaError` in the end if they are not all there and sound."""
    if len(gop.packets) > MAX_GOP_FRAMES:
        raise MediaError(f"a GOP has {len(gop.packets)} pictures, at most {MAX_GOP_FRAMES} are taken")
    try:
        yield from each_frame(track.codec, track.extradata, [packet.data for packet in gop.packets])
    except DecodeError as error:
        raise MediaError(f"the GOP at {gop.start_ns} ns: {error}") from error


def _fps(track: Track) -> float | None:
    times = [packet.t_ns for packet in track.packets]
    duration_ns = max(times) - min(times)
    return (len(times) - 1) * 1e9 / duration_ns if duration_ns else None
