"""torchcodec as one of the decoders. It reads files, so an MP4 of the packets is made in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache

import cv2

from dataset_catalog import fmp4, nal
from dataset_catalog.decoders import Coded
from dataset_catalog.errors import DecodeError, WindowError
from dataset_catalog.fit import Fit, Picture, Size, scaled
from dataset_catalog.video import decode_with, open_codec

_ENTRIES = {"h264": (b"avc1", b"avcC"), "hevc": (b"hvc1", b"hvcC"), "av1": (b"av01", b"av1C")}
_TICKS = fmp4.TIMESCALE // 100  # of a picture; any will do, frames are asked for by number


class TorchCodec:
    """`device` is "cpu" or "cuda". Raises `WindowError` where torchcodec, FFmpeg's libraries or the GPU are missing."""

    def __init__(self, device: str) -> None:
        try:
            import torch
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:
            first = str(error).strip().splitlines()[0]
            raise WindowError(f"this decoder needs torchcodec and FFmpeg's libraries: {first}") from error
        if device == "cuda" and not torch.cuda.is_available():
            raise WindowError("decoder='nvdec-torch' needs an NVIDIA GPU that PyTorch can use, and there is none")
        self._open, self._device = VideoDecoder, device

    def pictures(
        self, coded: Coded, wanted: Collection[int], *, size: Size | None, fit: Fit
    ) -> Iterator[tuple[int, Picture]]:
        """As `Decoder.pictures` says; scaled by OpenCV's INTER_AREA, which differs from libswscale's by a little."""
        indices = sorted(wanted)
        try:
            decoder = self._open(as_mp4(coded), device=self._device, dimension_order="NHWC", num_ffmpeg_threads=1)
            images = decoder.get_frames_at(indices).data.cpu().numpy()
        except (RuntimeError, ValueError, IndexError) as error:
            raise DecodeError(f"torchcodec gave no frames {indices} of {coded.codec}: {error}") from error
        for k, image in zip(indices, images, strict=True):
            high, wide = scaled(image.shape[:2], size, fit) if size else image.shape[:2]
            if image.shape[:2] != (high, wide):
                image = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
            yield k, image


def as_mp4(coded: Coded) -> bytes:
    """The packets as an MP4 file. Raises `DecodeError` for a codec that has no place in one.

    Pictures get times in coding order: of a GOP that reorders them this is no film to look at.
    """
    if coded.codec not in _ENTRIES:
        raise DecodeError(f"torchcodec is given {', '.join(_ENTRIES)}, got {coded.codec}")
    entry, box = _ENTRIES[coded.codec]
    annex_b = not coded.extradata and coded.codec != "av1"
    sets = nal.parameter_sets(coded.codec, coded.packets[0]) if annex_b else ()
    configuration = nal.decoder_configuration(coded.codec, sets) if annex_b else coded.extradata
    height, width = _size(Coded(coded.codec, coded.extradata, tuple(coded.packets[:1])))
    stsd = fmp4.sample_description(entry, fmp4.configuration_box(box, configuration), width=width, height=height)
    samples = [
        fmp4.Sample(n * _TICKS, n * _TICKS, _TICKS, n == 0, nal.length_prefixed(data) if annex_b else data)
        for n, data in enumerate(coded.packets)
    ]
    begin = fmp4.initialization(stsd, width=width, height=height, duration=len(samples) * _TICKS, delay=0)
    return begin + b"".join(fmp4.fragment(1, samples, delay=0))


@lru_cache(64)
def _size(keyframe: Coded) -> Size:
    """(height, width) of what it decodes to."""
    context = open_codec(keyframe.codec, keyframe.extradata)
    frame = next(decode_with(context, keyframe.codec, keyframe.packets, upto=1))
    return frame.height, frame.width
