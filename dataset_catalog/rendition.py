"""A rendition to train from where the source is slow to read: H.264 in short closed GOPs, measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from av.video.frame import PictureType

from dataset_catalog.decoders import JPEG
from dataset_catalog.encoding import Encoding
from dataset_catalog.luma import quarter_luma
from dataset_catalog.tracks import Gop, Packet, Track
from dataset_catalog.video import each_frame

ORIGINAL = "original"
H264_G10 = "h264-g10"
AS_ALIGNED = Encoding("h264-g10", crf=21, preset="veryfast", tune="fastdecode", x264="")  # quick to make
MAX_COPIED_GOP = 30


@dataclass(slots=True)
class Fidelity:
    """How near a rendition comes to its source, over quarter-resolution luma, and what both weigh."""

    frames: int = 0
    samples: int = 0
    squared_error: float = 0.0
    source_bytes: int = 0
    bytes: int = 0

    @classmethod
    def join(cls, parts: Iterable[Fidelity]) -> Fidelity:
        parts = list(parts)
        return cls(*(sum(getattr(part, one.name) for part in parts) for one in fields(cls)))

    def add(self, source: Any, other: Any) -> None:
        error = source.astype(np.float64) - other
        self.frames += 1
        self.samples += error.size
        self.squared_error += float((error * error).sum())

    @property
    def psnr_db(self) -> float:
        """Infinite for equal pictures."""
        return 10 * math.log10(255**2 * self.samples / self.squared_error) if self.squared_error else math.inf


def can_copy(track: Track) -> bool:
    """Whether the original packets are good to train from: H.264, short closed GOPs, no B-frames."""
    return track.codec == "h264" and all(len(gop.packets) <= MAX_COPIED_GOP and not gop.reorders for gop in track.gops)


def encode(track: Track, gops: list[Gop], fidelity: Fidelity, encoding: Encoding = AS_ALIGNED) -> list[Gop]:
    """These GOPs of a track, decoded and encoded anew; every new frame is decoded again and measured.

    Raises `DecodeError` where one does not decode to as many sound frames as it has packets.
    """
    times = [t_ns for gop in gops for t_ns in gop.frame_t_ns]
    frames = (frame for gop in gops for frame in _frames(track, gop))
    lumas: list[Any] = []
    packets = tuple((_jpegs if encoding.is_jpeg else _h264)(frames, encoding, times, lumas))
    like = made_of(encoding)
    made = _in_rows(packets, encoding.gop_frames) if encoding.is_jpeg else list(replace(like, packets=packets).gops)
    decoded = (frame for gop in made for frame in _frames(like, gop))
    for luma, frame in zip(lumas, decoded, strict=True):
        fidelity.add(luma, quarter_luma(frame))
    fidelity.source_bytes += sum(gop.bytes for gop in gops)
    fidelity.bytes += sum(gop.bytes for gop in made)
    return made


def made_of(encoding: Encoding) -> Track:
    """What a rendition's GOPs are of: H.264 in Annex B, or JPEGs."""
    return Track(JPEG if encoding.is_jpeg else "h264", b"", (), "")


def _in_rows(packets: tuple[Packet, ...], count: int) -> list[Gop]:
    """Pictures that need no other, `count` to a row."""
    return [Gop(packets[first : first + count]) for first in range(0, len(packets), count)]


def _h264(frames: Iterable[Any], encoding: Encoding, times: list[int], lumas: list[Any]) -> Iterator[Packet]:
    encoder: Any = None
    for number, source in enumerate(frames):
        frame = encoding.fitted(source)
        lumas.append(quarter_luma(frame).copy())
        encoder = encoder or encoding.h264(frame)
        frame.pts = number
        frame.pict_type = PictureType.NONE  # the source's keyframes are not ours
        yield from (Packet(times[p.pts], bytes(p), p.is_keyframe) for p in encoder.encode(frame))
    yield from (Packet(times[p.pts], bytes(p), p.is_keyframe) for p in encoder.encode(None)) if encoder else ()


def _jpegs(frames: Iterable[Any], encoding: Encoding, times: list[int], lumas: list[Any]) -> Iterator[Packet]:
    for t_ns, source in zip(times, frames, strict=True):
        frame = encoding.fitted(source)
        lumas.append(quarter_luma(frame).copy())
        yield Packet(t_ns, encoding.jpeg(frame), keyframe=True)


def _frames(track: Track, gop: Gop) -> Iterator[Any]:
    return each_frame(track.codec, track.extradata, [packet.data for packet in gop.packets])
