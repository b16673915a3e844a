"""From the packets of one GOP to frames, and from a frame to RGB. No container, no file."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast

import av
import av.error
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from dataset_catalog.errors import DecodeError
from dataset_catalog.fit import Fit, Planes, place, scaled
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
    for frame in _decode(open_codec(codec, extradata), codec, packets):
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
    for frame in _decode(open_codec(codec, extradata), codec, packets):
        if frame.is_corrupt:
            corrupt.append(found)
        found += 1
        yield frame
    _check(codec, packets, found, len(packets), corrupt)


def decode_with(context: Any, codec: str, packets: Sequence[bytes], *, upto: int) -> Iterator[av.VideoFrame]:
    """The first `upto` frames of a GOP, one by one, by a decoder that knows nothing or was flushed.

    Raises `DecodeError` for a packet that does not decode, instead of a corrupt frame, and for frames that lack.
    """
    found = 0
    for frame in _decode(context, codec, packets):
        if frame.is_corrupt:
            raise DecodeError(f"{codec} marks frame {found} of {len(packets)} packets as corrupt")
        yield frame
        found += 1
        if found == upto:
            return
    _check(codec, packets, found, upto, [])


def to_planes(frame: av.VideoFrame, size: Size | None = None, fit: Fit = "stretch") -> Planes:
    """A frame's red, green and blue, scaled as `fit` says for `size` (height, width); colour and scale in one pass.

    Planes cost half of what interleaved pixels do, which then had to be parted again. Where nothing is scaled both are
    the same to the bit; where it is, planes keep the colour's full resolution.
    """
    height, width = scaled((frame.height, frame.width), size, fit) if size else (frame.height, frame.width)
    if frame.format.name == "nv12":  # a GPU's order of the same values, of which libswscale makes other colours
        frame = _own.reformatter.reformat(frame, format="yuv420p", threads=1)
    planar = _own.reformatter.reformat(
        frame, width=width, height=height, format="gbrp", interpolation="AREA", threads=1
    )  # threads=0, the default, costs more CPU than the conversion
    green, blue, red = (_pixels(plane) for plane in planar.planes)
    return red, green, blue


def to_rgb(frame: av.VideoFrame, size: Size | None = None, fit: Fit = "stretch") -> NDArray[np.uint8]:
    """A frame as (height, width, 3) uint8 RGB, scaled by area in the same pass and made `size` (height, width)."""
    image = cast("NDArray[np.uint8]", cv2.merge(to_planes(frame, size, fit)))
    return place(image, size or image.shape[:2])


def _pixels(plane: Any) -> NDArray[np.uint8]:
    """A plane's bytes in place; a line may be longer than the picture is wide."""
    lines = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return lines[:, : plane.width]


def split_planes(rgb: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Copy (height, width, 3) into (3, height, width), which is what PyTorch takes; a sixth of a transpose's time."""
    cv2.split(rgb, list(out))


def open_codec(codec: str, extradata: bytes | None) -> Any:
    """A fresh decoder, for one GOP. A kept one saves 60 to 100 µs, but it remembers parameter sets and reordering: what
    a GOP decodes to could depend on the one before. `decoders.PyAV` says which may be kept."""
    try:
        context: Any = av.CodecContext.create(_DECODERS.get(codec, codec), "r")
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"no decoder named {codec!r} in this build of libav") from error
    if extradata:
        context.extradata = extradata
    context.thread_count = 1
    return context


def _decode(context: Any, codec: str, packets: Sequence[bytes]) -> Iterator[av.VideoFrame]:
    for data in (*packets, None):  # at the end, a decoder that reorders still holds some
        try:
            frames = context.decode(None if data is None else _packet(data))
        except av.error.FFmpegError as error:
            raise DecodeError(f"{codec} cannot decode this GOP of {len(packets)} packets: {error.strerror}") from error
        while frames:
            yield frames.pop(0)


def _check(codec: str, packets: Sequence[bytes], found: int, wanted: int, corrupt: list[int]) -> None:
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
