"""An NVIDIA GPU's video decoder through libav: the same packets in, pictures in the CPU's memory out."""

from __future__ import annotations

from functools import cache
from typing import Any

import av
import av.error
from av.codec.hwaccel import HWAccel

from dataset_catalog.errors import DecodeError


def open_codec(codec: str, extradata: bytes | None) -> Any:
    """A fresh decoder. Raises `DecodeError` where the GPU does not decode this codec."""
    try:
        context: Any = av.CodecContext.create(codec, "r", hwaccel=_device())
    except (av.error.FFmpegError, ValueError, RuntimeError, NotImplementedError) as error:
        raise DecodeError(f"no decoder for {codec!r} on this GPU: {error}") from error
    if extradata:
        context.extradata = extradata
    return context


@cache
def is_there() -> bool:
    """Whether a GPU answers. The driver is loaded to see that."""
    try:
        av.CodecContext.create("h264", "r", hwaccel=_device()).open()
    except (av.error.FFmpegError, ValueError, RuntimeError, NotImplementedError):
        return False
    return True


def _device() -> HWAccel:
    return HWAccel("cuda", allow_software_fallback=False)
