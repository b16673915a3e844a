"""Decoders behind one small interface: the packets of one GOP in, the wanted pictures in RGB out.

    pyav        libav on the CPU: the default, and what all others are compared with
    torchcodec  PyTorch's decoder on the CPU (needs `torchcodec` and FFmpeg's libraries)
    nvdec       an NVIDIA GPU's decoder, by libav; the pictures come back to the CPU
    nvdec-torch the same by torchcodec

JPEG is decoded by libjpeg-turbo, whichever of them is chosen. `benchmarks/check_decoders.py` compares them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import cv2
import simplejpeg

from dataset_catalog import nal, nvdec
from dataset_catalog.errors import DecodeError, WindowError
from dataset_catalog.fit import Fit, Picture, Size, scaled
from dataset_catalog.video import decode_with, open_codec, to_planes

JPEG = "mjpeg"  # libav's name
_KEPT_DECODERS = 4  # by each thread: one a camera, usually


class Coded(NamedTuple):
    """A GOP's packets from the keyframe on, as far as they are there, in decoding order."""

    codec: str
    extradata: bytes
    packets: Sequence[bytes]


class Decoder(Protocol):
    """Serves any number of threads; each decodes on its own."""

    def pictures(
        self, coded: Coded, wanted: Collection[int], *, size: Size | None, fit: Fit
    ) -> Iterator[tuple[int, Picture]]:
        """The wanted frames, by their number in presentation order, scaled as `fit` says; not yet cut or bordered.

        Pictures keep their memory for as long as they are held. Raises `DecodeError` where a frame up to the
        last wanted one is missing or corrupt.
        """
        ...


class PyAV:
    """libav on the CPU, one thread a GOP."""

    def __init__(self, open_codec: Callable[[str, bytes], Any] = open_codec) -> None:
        self._open, self._own = open_codec, _Own()

    def pictures(
        self, coded: Coded, wanted: Collection[int], *, size: Size | None, fit: Fit
    ) -> Iterator[tuple[int, Picture]]:
        kind = sequence(coded)
        context = self._own.kept.pop(kind, None) or self._open(coded.codec, coded.extradata)
        for k, frame in enumerate(decode_with(context, coded.codec, coded.packets, upto=max(wanted) + 1)):
            if k in wanted:
                yield k, to_planes(frame, size, fit)
        if kind:
            self._own.keep(kind, context)


class _Own(threading.local):
    """A thread's decoders, by what they have been told so far. Opening one costs as much as a picture at 224×224."""

    def __init__(self) -> None:
        self.kept: OrderedDict[Any, Any] = OrderedDict()

    def keep(self, kind: Any, context: Any) -> None:
        context.flush_buffers()
        self.kept[kind] = context
        if len(self.kept) > _KEPT_DECODERS:
            self.kept.popitem(last=False)


class Jpeg:
    """libjpeg-turbo. Every packet is a picture of its own."""

    def pictures(
        self, coded: Coded, wanted: Collection[int], *, size: Size | None, fit: Fit
    ) -> Iterator[tuple[int, Picture]]:
        for k in wanted:
            try:
                image = simplejpeg.decode_jpeg(coded.packets[k], colorspace="RGB")
            except ValueError as error:
                raise DecodeError(f"not a JPEG that can be decoded: {error}") from error
            high, wide = scaled(image.shape[:2], size, fit) if size else image.shape[:2]
            if image.shape[:2] != (high, wide):
                image = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
            yield k, image


def check_name(name: str) -> str:
    """The same name, of a decoder; `WindowError` for another."""
    if name not in _NAMED:
        raise WindowError(f"decoder must be one of {', '.join(_NAMED)}, got {name!r}")
    return name


def decoder(name: str) -> Decoder:
    """The decoder of that name. Raises `WindowError` for another name, and where it does not work on this machine."""
    return _NAMED[check_name(name)]()


def sequence(coded: Coded) -> tuple[bytes, ...] | None:
    """What a kept decoder must have been told: the parameter sets that begin the GOP, of H.264 that shows its pictures
    in the order in which they are coded. None where a decoder might remember more than them."""
    if coded.codec != "h264" or coded.extradata:
        return None
    sets = nal.leading_sets(coded.packets[0])
    return sets if _shows_as_coded(sets) else None


def is_ordered(coded: Coded) -> bool:
    """Whether frame k needs no packet behind packet k: its GOP's prefix is enough."""
    return coded.codec in _ORDERED or sequence(coded) is not None


def _torch(device: str) -> Decoder:
    from dataset_catalog.torch_video import TorchCodec

    return TorchCodec(device)


def _nvdec() -> PyAV:
    if not nvdec.is_there():
        raise WindowError("decoder='nvdec' needs an NVIDIA GPU with its driver, and there is none on this machine")
    return PyAV(nvdec.open_codec)


_ORDERED = {"av1", "vp8", "vp9", JPEG}  # each packet of theirs shows one picture
_shows_as_coded = lru_cache(64)(nal.shows_as_coded)
_NAMED: dict[str, Callable[[], Decoder]] = {
    "pyav": PyAV,
    "torchcodec": lambda: _torch("cpu"),
    "nvdec": _nvdec,
    "nvdec-torch": lambda: _torch("cuda"),
}
NAMES = tuple(_NAMED)
