"""A rendition to train from where the source is slow to read: H.264 in short closed GOPs, measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from dataset_catalog.luma import quarter_luma
from dataset_catalog.tracks import Gop, Packet, Track
from dataset_catalog.video import decode_gop, each_frame

ORIGINAL = "original"
H264_G10 = "h264-g10"
GOP_FRAMES = 10
CRF = 21
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


def encode(track: Track, gops: list[Gop], fidelity: Fidelity) -> list[Gop]:
    """These GOPs of a track, decoded and encoded anew; every new frame is decoded again and measured.

    Raises `DecodeError` where one does not decode to as many sound frames as it has packets.
    """
    times = [t_ns for gop in gops for t_ns in gop.frame_t_ns]
    lumas: list[Any] = []
    packets: list[Packet] = []
    encoder: Any = None
    for frame in (frame for gop in gops for frame in _frames(track, gop)):
        encoder = encoder or _encoder(frame)
        lumas.append(quarter_luma(frame).copy())
        frame = _as_420(frame, encoder)
        frame.pts = len(lumas) - 1
        frame.pict_type = PictureType.NONE  # the source's keyframes are not ours
        packets += [Packet(times[p.pts], bytes(p), p.is_keyframe) for p in encoder.encode(frame)]
    packets += [Packet(times[p.pts], bytes(p), p.is_keyframe) for p in encoder.encode(None)] if encoder else []
    made = list(Track("h264", b"", tuple(packets), "").gops)
    for luma, frame in zip(lumas, _decoded(made), strict=True):
        fidelity.add(luma, quarter_luma(frame))
    fidelity.source_bytes += sum(gop.bytes for gop in gops)
    fidelity.bytes += sum(gop.bytes for gop in made)
    return made


def _frames(track: Track, gop: Gop) -> Iterator[Any]:
    return each_frame(track.codec, track.extradata, [packet.data for packet in gop.packets])


def _decoded(gops: list[Gop]) -> Iterator[Any]:
    for gop in gops:
        yield from decode_gop("h264", None, [packet.data for packet in gop.packets])


def _encoder(frame: Any) -> Any:
    """One thread, so that the same frames give the same bytes."""
    codec: Any = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = frame.width & ~1, frame.height & ~1, "yuv420p"
    codec.time_base, codec.framerate = Fraction(1, 30), Fraction(30)
    codec.gop_size, codec.max_b_frames, codec.thread_count = GOP_FRAMES, 0, 1
    for property_ in ("color_range", "colorspace", "color_primaries", "color_trc"):
        setattr(codec, property_, getattr(frame, property_))
    codec.options = {
        "preset": "veryfast",
        "tune": "fastdecode",
        "crf": str(CRF),
        "x264-params": f"keyint={GOP_FRAMES}:min-keyint={GOP_FRAMES}:scenecut=0:open-gop=0",
    }
    codec.open()
    return codec


def _as_420(frame: Any, encoder: Any) -> Any:
    if (frame.format.name, frame.width, frame.height) == ("yuv420p", encoder.width, encoder.height):
        return frame
    return frame.reformat(width=encoder.width, height=encoder.height, format="yuv420p")
