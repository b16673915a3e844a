"""Frames out of GOP rows: every GOP of a batch fetched at once, each decoded once, as far as it is needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.batch_memory import BatchMemory
from dataset_catalog.decoders import JPEG, Coded, Decoder, Jpeg, PyAV, is_ordered
from dataset_catalog.episodes import Gop
from dataset_catalog.errors import DecodeError, WindowError
from dataset_catalog.fit import Fit, Picture, Size, paste
from dataset_catalog.gop_bytes import GopBytes, Range

Frame = tuple[Gop, int]  # the k-th of a GOP, in presentation order
Image = NDArray[np.uint8]  # (3, height, width), a part of a batch

_PAYS = 10
_AT_ONCE = 4  # visits that a thread is given: handing over each by itself costs as much as decoding a JPEG


class Places:
    """Where frames are to be written: GOP by GOP, each frame to one place or several."""

    def __init__(self, memory: BatchMemory | None = None) -> None:
        self._memory = memory or BatchMemory()
        self.gops: dict[int, tuple[Gop, dict[int, list[Image]]]] = {}

    def canvas(self, frames: Sequence[Sequence[Frame | None]], size: Size) -> NDArray[np.uint8]:
        """(B, K, 3, H, W) for frames by [window][offset], yet to be written; black where there is none."""
        out = self._memory.empty((len(frames), len(frames[0]), 3, *size))
        for images, row in zip(out, frames, strict=True):
            for image, frame in zip(images, row, strict=True):
                if frame is None:
                    image[:] = 0
                else:
                    self.add(frame, image)
        return out

    def add(self, frame: Frame, out: Image) -> None:
        gop, k = frame
        _, frames = self.gops.setdefault(gop.row, (gop, {}))
        frames.setdefault(k, []).append(out)


class FrameReader:
    """Decodes frames at one size and keeps the most recently used, up to `max_bytes`. Serves any number of threads.

    size  (height, width); None leaves frames as they are
    fit   how a frame of other proportions becomes one of that size
    """

    def __init__(
        self,
        packets: GopBytes,
        *,
        size: Size | None,
        max_bytes: int,
        fit: Fit = "stretch",
        decoder: Decoder | None = None,
    ) -> None:
        self._packets, self._size, self._fit = packets, size, fit
        self._decoder: Decoder = decoder or PyAV()
        self._jpeg = Jpeg()
        self._kept = _Kept(max_bytes)

    def fill(self, places: Places, *, pool: Executor | None = None) -> None:
        """Write each frame to its places; `pool` decodes several GOPs at a time.

        Raises `DecodeError` or `StorageError`, naming the row, and `WindowError` for a place of another size.
        """
        visits = [visit for gop, frames in self._missing(places) for visit in _visits(gop, frames)]
        while visits:  # a second time for GOPs whose prefix was not enough
            payloads = self._packets.read([visit.range for visit in visits])
            read = list(zip(visits, payloads, strict=True))
            pieces = [read[first : first + _AT_ONCE] for first in range(0, len(read), _AT_ONCE)]
            again = (pool.map if pool else map)(self._visits, pieces)
            visits = [visit for some in list(again) for visit in some]

    def _missing(self, places: Places) -> Iterator[tuple[Gop, dict[int, list[Image]]]]:
        """What is not kept; the rest is written."""
        for gop, frames in places.gops.values():
            kept = {k: self._kept.get((gop.row, k)) for k in frames}
            for k, picture in kept.items():
                if picture is not None:
                    _check_size(gop, picture.shape[1:], frames[k])
                    for out in frames[k]:
                        out[:] = picture
            if missing := {k: frames[k] for k, picture in kept.items() if picture is None}:
                yield gop, missing

    def _visits(self, read: list[tuple[_Visit, bytes]]) -> list[_Visit]:
        """Those that are to be read again."""
        again = [self._visit(visit, payload) for visit, payload in read]
        return [visit for visit in again if visit]

    def _visit(self, visit: _Visit, payload: bytes) -> _Visit | None:
        """Decode; or give back what is to be read instead."""
        gop = visit.gop
        coded = Coded(gop.codec, gop.extradata, visit.cut(payload))
        if visit.is_prefix and not is_ordered(coded):
            return visit._replace(last=len(gop.packet_bytes))
        decoder = self._jpeg if gop.codec == JPEG else self._decoder
        try:
            wanted = [k - visit.first for k in visit.frames]
            for index, picture in decoder.pictures(coded, wanted, size=self._size, fit=self._fit):
                k = index + visit.first
                self._write(gop, picture, visit.frames[k])
                self._kept.add((gop.row, k), visit.frames[k][0])
        except DecodeError as error:
            raise DecodeError(f"{gop}: {error}") from error
        return None

    def _write(self, gop: Gop, picture: Picture, outs: Sequence[Image]) -> None:
        if self._size is None:
            _check_size(gop, _size(picture), outs)
        first, *others = outs
        paste(picture, first)
        for out in others:
            out[:] = first


class _Visit(NamedTuple):
    """What is decoded in one go: the packets `[first, last)` of a GOP, and where its frames go, by number."""

    gop: Gop
    first: int
    last: int
    frames: dict[int, list[Image]]

    @property
    def is_prefix(self) -> bool:
        return self.last < len(self.gop.packet_bytes)

    @property
    def range(self) -> Range:
        sizes = self.gop.packet_bytes
        return Range(self.gop, sum(sizes[: self.first]), sum(sizes[self.first : self.last]))

    def cut(self, payload: bytes) -> list[bytes]:
        """The packets."""
        packets, at = [], 0
        for length in self.gop.packet_bytes[self.first : self.last]:
            packets.append(payload[at : at + length])
            at += length
        return packets


def _visits(gop: Gop, frames: dict[int, list[Image]]) -> list[_Visit]:
    """One, from the keyframe to the last frame that is wanted; of JPEGs one for each."""
    if gop.codec == JPEG:
        return [_Visit(gop, k, k + 1, {k: outs}) for k, outs in frames.items()]
    return [_Visit(gop, 0, max(frames) + 1, frames)]


class _Kept:
    """Pictures by (row of the GOP, k), the most recently used ones, for as long as that pays.

    Memory that nothing was in lately is slow: to keep a picture costs a fifth of decoding a JPEG, and at random over
    many frames hardly one is asked for again. So whenever as many were asked for as fit, one in `_PAYS` of them must
    have been among the last that fit, else only the keys of the next ones are remembered.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._pictures: OrderedDict[tuple[int, int], Image | None] = OrderedDict()
        self._sizes: dict[tuple[int, int], int] = {}
        self._does_pay, self._is_full = True, False
        self._asked = self._again = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int]) -> Image | None:
        with self._lock:
            self._asked += 1
            if key not in self._pictures:
                return None
            self._again += 1
            self._pictures.move_to_end(key)
            return self._pictures[key]

    def add(self, key: tuple[int, int], picture: Image) -> None:
        """Keep a copy of the picture; what it is a part of would stay with it."""
        if picture.nbytes > self._max_bytes:
            return
        kept = picture.copy() if self._does_pay else None
        with self._lock:
            if key not in self._pictures:
                self._bytes += picture.nbytes
            self._pictures[key], self._sizes[key] = kept, picture.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._sizes.pop(self._pictures.popitem(last=False)[0])
                self._is_full = True
            self._judge()

    def _judge(self) -> None:
        if not self._is_full or self._asked < len(self._pictures):
            return
        self._does_pay, self._asked, self._again = self._again * _PAYS >= self._asked, 0, 0
        if not self._does_pay:
            self._pictures = OrderedDict.fromkeys(self._pictures)


def _check_size(gop: Gop, size: tuple[int, ...], outs: Sequence[Image]) -> None:
    for out in outs:
        if size != out.shape[1:]:
            sizes = f"{out.shape[1:]} and {size}"
            raise WindowError(f"{gop} has frames of another size ({sizes}, high and wide): give an image_size")


def _size(picture: Picture) -> Size:
    """(height, width)"""
    high, wide = (picture[0] if isinstance(picture, tuple) else picture).shape[:2]
    return high, wide
