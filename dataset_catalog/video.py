"""From the packets of one GOP to frames, and from a frame to RGB. No container, no file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import av
import av.error
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from dataset_catalog.errors import DecodeError
from dataset_catalog.fit import Fit, place, scaled
from dataset_catalog.fit import Size as Size

_DECODERS = {"av1": "libdav1d"}  # libav's own decoder of that name works on a GPU only


class _ThreadLocal(threading.local):
    """A thread's scaler, kept between frames: setting one up costs a quarter of a conversion."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()


_own = _ThreadLocal()


def decode_gop(
    codec: str, extradata: bytes | None, packets: list[bytes], *, upto: int | None = None
) -> list[av.VideoFrame]:
    """The frames of a GOP in presentation order, decoded on the calling thread.

    codec      libav's name for it, such as `h264` or `av1`
    extradata  the codec configuration that lies outside the packets; empty or None for Annex B
    packets    one coded picture each, the keyframe first, in decoding order
    upto       how many frames, from the first, are wanted; None for all. Packets after them are not decoded.

    Raises `DecodeError` if a packet does not decode, a frame is marked corrupt, or the number of frames differs.
    """
    if upto is None:
        return list(each_frame(codec, extradata, packets))
    frames: list[av.VideoFrame] = []
    for frame in _decode(codec, extradata, packets):
        frames.append(frame)
        if len(frames) >= upto:
            break
    _check(codec, packets, len(frames), upto, [k for k, frame in enumerate(frames) if frame.is_corrupt])
    return frames


def each_frame(codec: str, extradata: bytes | None, packets: list[bytes]) -> Iterator[av.VideoFrame]:
    """What `decode_gop` gives of a whole GOP, frame by frame, raised behind the last one where it raises.

    Whoever looks at each frame once and lets it go saves a quarter of the time: libav then uses the same few pictures
    again, which the processor still has in its cache.
    """
    found, corrupt = 0, []
    for frame in _decode(codec, extradata, packets):
        if frame.is_corrupt:
            corrupt.append(found)
        found += 1
        yield frame
    _check(codec, packets, found, len(packets), corrupt)


def to_rgb(frame: av.VideoFrame, size: Size | None = None, fit: Fit = "stretch") -> NDArray[np.uint8]:
    """A frame as (height, width, 3) uint8 RGB, scaled by area in the same pass and made `size` (height, width)."""
    source = frame.height, frame.width
    height, width = scaled(source, size, fit) if size else source
    rgb = _own.reformatter.reformat(
        frame, width=width, height=height, format="rgb24", interpolation="AREA", threads=1
    )  # threads=0, the default, costs more CPU than the conversion
    return place(cast("NDArray[np.uint8]", rgb.to_ndarray()), size or source)


def split_planes(rgb: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Copy (height, width, 3) into (3, height, width), which is what PyTorch takes; a sixth of a transpose's time."""
    cv2.split(rgb, list(out))


def _open_codec(codec: str, extradata: bytes | None) -> Any:
    """A fresh decoder for each GOP. A kept one saves 60 to 100 µs, but it remembers parameter sets and reordering:
    what a GOP decodes to would depend on the one before."""
    try:
        context: Any = av.CodecContext.create(_DECODERS.get(codec, codec), "r")
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"no decoder named {codec!r} in this build of libav") from error
    if extradata:
        context.extradata = extradata
    context.thread_count = 1
    return context


def _decode(codec: str, extradata: bytes | None, packets: list[bytes]) -> Iterator[av.VideoFrame]:
    context = _open_codec(codec, extradata)
    for data in (*packets, None):  # at the end, a decoder that reorders still holds some
        try:
            frames = context.decode(None if data is None else _packet(data))
        except av.error.FFmpegError as error:
            raise DecodeError(f"{codec} cannot decode this GOP of {len(packets)} packets: {error.strerror}") from error
        while frames:
            yield frames.pop(0)


def _check(codec: str, packets: list[bytes], found: int, wanted: int, corrupt: list[int]) -> None:
    if found != wanted:
        raise DecodeError(f"{codec} gave {found} frames from {len(packets)} packets, expected {wanted}")
    if corrupt:
        raise DecodeError(f"{codec} marks frames {corrupt} of {len(packets)} as corrupt")


def _packet(data: bytes) -> Any:
    """A packet with memory of its own, which libav pads. `av.Packet(data)` takes that of `data` as it is, and some
    decoders read up to 64 bytes on: what follows there by chance would decide whether a picture is sound."""
    packet = av.Packet(len(data))
    if data:
        packet.update(data)
    return packet
