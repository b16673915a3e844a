"""One camera's pictures of a run of steps, for another format: the packets as they are where that can be, else anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import av
import av.error
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from dataset_catalog.encoding import Encoding
from dataset_catalog.errors import DecodeError, FormatError
from dataset_catalog.mp4_file import can_hold
from dataset_catalog.rendition import ORIGINAL
from dataset_catalog.tables import contains
from dataset_catalog.video import decode_gop, to_rgb

LEAST_DB = 38.0  # of what is encoded anew: PSNR over all frames, RGB
AS_EXPORTED = Encoding("h264-g10", preset="veryfast", tune="fastdecode", x264="")
_CRFS = (18, 14, 10, 6, 2, 0)
_IN_ORDER = ("av1", "libdav1d", "png", "mjpeg")  # a packet is one picture, shown in the order of decoding

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StoredGop:
    """`frame_t_ns` in presentation order, `packets` in decoding order."""

    codec: str
    extradata: bytes
    size: tuple[int, int]
    frame_t_ns: tuple[int, ...]
    packets: tuple[bytes, ...]

    @property
    def order(self) -> list[int]:
        """Each packet's place in presentation order."""
        if self.codec in _IN_ORDER:
            return list(range(len(self.packets)))
        shown = [packet for packet, _ in _decode_numbered(self)]
        return sorted(range(len(shown)), key=shown.__getitem__)


@dataclass(frozen=True, slots=True)
class OutFilm:
    """What to write: packets in decoding order, `shown` each one's place, `keyframes`, and how they are coded.

    `copied`: they are those that are stored; else `psnr_db` says how near they come. `repeated`: frames that stand in
    for one that the steps do not have.
    """

    codec: str
    extradata: bytes
    size: tuple[int, int]
    packets: list[bytes]
    shown: list[int]
    keyframes: list[bool]
    copied: bool
    psnr_db: float = math.inf
    repeated: int = 0


class StoredFilm:
    """All that a dataset stores of an episode's camera, in one rendition; its packets are in memory."""

    def __init__(self, gops: Any, episode_id: str, camera: str, *, rendition: str = ORIGINAL) -> None:
        """`gops`: the table. Raises `FormatError` where there is nothing."""
        where = " AND ".join(
            contains(name, [value])
            for name, value in (("episode_id", episode_id), ("camera", camera), ("rendition", rendition))
        )
        columns = ["gop", "codec", "extradata", "height", "width", "frame_t_ns", "packet_bytes", "payload"]
        rows = gops.to_table(columns=columns, filter=where, blob_handling="all_binary").sort_by("gop").to_pylist()
        if not rows:
            raise FormatError(f"nothing is stored of {camera} in episode {episode_id}")
        self.gops = [_stored(row) for row in rows]

    @cached_property
    def frame_t_ns(self) -> Times:
        return np.array([t_ns for gop in self.gops for t_ns in gop.frame_t_ns], np.int64)

    def out(self, wanted: Times) -> OutFilm:
        """The pictures of the capture times `wanted`, one a step; a negative time is a step without one."""
        copied = self._copied(wanted)
        return copied if copied is not None else self.encoded(wanted)

    def frames(self, wanted: Times) -> Iterator[av.VideoFrame]:
        """The same, decoded; where there is none, the one before it, or the first."""
        known = np.flatnonzero(wanted >= 0)
        if not len(known):
            raise FormatError("not one step has a picture")
        at = np.maximum(np.searchsorted(known, np.arange(len(wanted)), side="right") - 1, 0)
        places = np.searchsorted(self.frame_t_ns, wanted[known[at]])
        starts = np.cumsum([0, *(len(gop.frame_t_ns) for gop in self.gops)])
        number, decoded = -1, []
        for place in places.tolist():
            gop = int(np.searchsorted(starts, place, side="right")) - 1
            if gop != number:
                one = self.gops[gop]
                number, decoded = gop, decode_gop(one.codec, one.extradata, list(one.packets))
            yield decoded[place - int(starts[gop])]

    def _copied(self, wanted: Times) -> OutFilm | None:
        """None where the wanted pictures are not those of whole GOPs, one after the other, of one encoding."""
        places = np.searchsorted(self.frame_t_ns, wanted)
        if (wanted < 0).any() or (np.diff(places) != 1).any():
            return None
        first, count, at = int(places[0]), len(places), 0
        packets: list[bytes] = []
        shown: list[int] = []
        keys: list[bool] = []
        taken: list[StoredGop] = []
        for gop in self.gops:
            if first <= at < first + count:
                order = gop.order
                left = min(len(order), first + count - at)
                if sorted(order[:left]) != list(range(left)):
                    return None  # the last GOP is cut, and its pictures need later ones
                packets += gop.packets[:left]
                shown += [at - first + place for place in order[:left]]
                keys += [True] + [False] * (left - 1)
                taken.append(gop)
            at += len(gop.frame_t_ns)
        coded = {(gop.codec, gop.extradata, gop.size) for gop in taken}
        if len(packets) != count or len(coded) != 1 or not can_hold(taken[0].codec, taken[0].extradata):
            return None
        return OutFilm(*coded.pop(), packets, shown, keys, copied=True)

    def encoded(self, wanted: Times) -> OutFilm:
        """Encoded anew, the finer the longer it is not near enough."""
        for crf in _CRFS:
            packets, size = _encode(self.frames(wanted), replace(AS_EXPORTED, crf=crf))
            psnr_db = _psnr_db(self.frames(wanted), packets, size)
            if psnr_db >= LEAST_DB:
                break
        keys = [key for _, key in packets]
        repeated = int((wanted < 0).sum())
        places = list(range(len(packets)))
        return OutFilm("h264", b"", size, [data for data, _ in packets], places, keys, False, psnr_db, repeated)


def _stored(row: dict[str, Any]) -> StoredGop:
    cuts = np.cumsum([0, *row["packet_bytes"]]).tolist()
    packets = tuple(row["payload"][a:b] for a, b in pairwise(cuts))
    size = (row["height"], row["width"])
    return StoredGop(row["codec"], row["extradata"] or b"", size, tuple(row["frame_t_ns"]), packets)


def _encode(frames: Iterator[av.VideoFrame], encoding: Encoding) -> tuple[list[tuple[bytes, bool]], tuple[int, int]]:
    """Packets, each with whether it is a keyframe, and their (height, width)."""
    coder: Any = None
    found: list[tuple[bytes, bool]] = []
    size = (0, 0)
    for number, frame in enumerate(frames):
        fitted = encoding.fitted(frame)
        coder, size = coder or encoding.h264(fitted), (fitted.height, fitted.width)
        if fitted is frame:
            fitted = fitted.reformat(format="yuv420p")
        fitted.pts, fitted.pict_type = number, PictureType.NONE
        found += [(bytes(packet), packet.is_keyframe) for packet in coder.encode(fitted)]
    found += [(bytes(packet), packet.is_keyframe) for packet in coder.encode(None)]
    return found, size


def _psnr_db(frames: Iterator[av.VideoFrame], packets: Sequence[tuple[bytes, bool]], size: tuple[int, int]) -> float:
    """Of all pictures together, RGB."""
    gop = StoredGop("h264", b"", size, tuple(range(len(packets))), tuple(data for data, _ in packets))
    squares, samples = 0.0, 0
    for frame, (_, made) in zip(frames, _decode_numbered(gop), strict=True):
        error = to_rgb(frame, size).astype(np.float64) - to_rgb(made)
        squares, samples = squares + float((error * error).sum()), samples + error.size
    return 10 * math.log10(255**2 * samples / squares) if squares else math.inf


def _decode_numbered(gop: StoredGop) -> Iterator[tuple[int, av.VideoFrame]]:
    """Every frame in presentation order, and the number of the packet that it came in."""
    context: Any = av.CodecContext.create(gop.codec, "r")
    context.thread_count, context.extradata = 1, gop.extradata or None
    try:
        for number, data in enumerate(gop.packets):
            packet = av.Packet(len(data))
            packet.update(data)
            packet.pts = number
            yield from ((frame.pts, frame) for frame in context.decode(packet))
        yield from ((frame.pts, frame) for frame in context.decode(None))
    except av.error.FFmpegError as error:
        raise DecodeError(f"{gop.codec} cannot decode a GOP of {len(gop.packets)} packets: {error}") from error
