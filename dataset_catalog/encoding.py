"""How a rendition to train from is encoded, and its name in `gops`. Fidelity to the picture, not to the eye.

    h264-g10  closed GOPs of ten frames: a tenth of JPEG's bytes, a random frame costs about two of its decodes
    h264-g2   of two: a third of JPEG's bytes, a random frame costs about one
    jpeg      every picture by itself, quality 90, 4:2:0: the fastest where single frames are read, the largest

H.264 is by x264 without psychovisual tuning, which spends bits on what people see and networks need not, and without
what makes decoding slow (CABAC, deblocking, weighted prediction). At 224×224 all three are within half a dB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, cast, get_args

import av
import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dataset_catalog.errors import WindowError
from dataset_catalog.fit import FITS, Fit, Size, paste
from dataset_catalog.video import to_planes

Codec = Literal["h264-g10", "h264-g2", "jpeg"]
CODECS: tuple[Codec, ...] = get_args(Codec)
JPEG_QUALITY = 90
_GOP_FRAMES = {"h264-g10": 10, "h264-g2": 2, "jpeg": 10}  # of JPEG: pictures in a row of `gops`
# a block is predicted as a whole: a twelfth less to decode at the same fidelity, for twice the time to encode
_LARGE_PARTS = ":partitions=none:8x8dct=0:ref=1:trellis=2:subme=9:me=umh"
_FINE_KEYS = ":ipratio=1.6"  # all others are predicted of them: a fiftieth fewer bytes at the same fidelity
_CRF = {"h264-g10": 18.5, "h264-g2": 17.0}  # within half a dB of JPEG, at 224×224


@dataclass(frozen=True, slots=True)
class Encoding:
    """`size` (height, width), None for the source's; `fit` says how a frame of other proportions becomes one.

    crf  x264's rate factor, where less is finer; None takes what comes near JPEG
    """

    codec: Codec
    size: Size | None = None
    fit: Fit = "stretch"
    crf: float | None = None
    preset: str = "medium"
    tune: str = "psnr,fastdecode"
    x264: str = _LARGE_PARTS + _FINE_KEYS

    def __post_init__(self) -> None:
        if self.codec not in CODECS or self.fit not in FITS:
            raise WindowError(f"codec is one of {CODECS} and fit one of {FITS}, got {self.codec!r} and {self.fit!r}")
        if self.size is not None and min(self.size) < 16:
            raise WindowError(f"image_size is (height, width) of at least 16, got {self.size}")
        if self.size is not None and not self.is_jpeg and any(length % 2 for length in self.size):
            raise WindowError(f"H.264 has even heights and widths, got image_size {self.size}")

    @property
    def label(self) -> str:
        """Its rendition in `gops`: `h264-g10`, `h264-g10-224x224`, `jpeg-224x224-letterbox`."""
        return _label(self.codec, self.size, self.fit)

    @property
    def is_jpeg(self) -> bool:
        return self.codec == "jpeg"

    @property
    def gop_frames(self) -> int:
        return _GOP_FRAMES[self.codec]

    def fitted(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A frame as its encoder takes it, scaled by area in one pass: RGB for JPEG, else 4:2:0."""
        format_, even = ("rgb24", 0) if self.is_jpeg else ("yuv420p", 1)
        height, width = self.size or (frame.height & ~even, frame.width & ~even)
        if self.size and self.fit != "stretch":
            frame = av.VideoFrame.from_ndarray(self._placed(frame), format="rgb24")
        if (frame.format.name, frame.height, frame.width) == (format_, height, width):
            return frame
        return frame.reformat(width=width, height=height, format=format_, interpolation="AREA", threads=1)

    def _placed(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """A frame cut or bordered: (height, width, 3) RGB uint8."""
        planes = to_planes(frame, self.size, self.fit)
        canvas = np.empty((3, *(self.size or planes[0].shape)), np.uint8)
        paste(planes, canvas)
        return cast("NDArray[np.uint8]", cv2.merge(list(canvas)))

    def jpeg(self, frame: av.VideoFrame) -> bytes:
        """A fitted frame as JPEG."""
        pixels = frame.to_ndarray()
        return bytes(simplejpeg.encode_jpeg(pixels, JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"))

    def h264(self, frame: av.VideoFrame) -> Any:
        """An encoder for frames like this fitted one, of one thread.

        The same frames give the same bytes but for one GOP in hundreds: there x264's lookahead decides otherwise.
        """
        codec: Any = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "yuv420p"
        codec.time_base, codec.framerate = Fraction(1, 30), Fraction(30)
        codec.gop_size, codec.max_b_frames, codec.thread_count = self.gop_frames, 0, 1
        for property_ in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(codec, property_, getattr(frame, property_))
        keyint = self.gop_frames
        codec.options = {
            "preset": self.preset,
            "tune": self.tune,
            "crf": str(_CRF[self.codec] if self.crf is None else self.crf),
            "x264-params": f"keyint={keyint}:min-keyint={keyint}:scenecut=0:open-gop=0{self.x264}",
        }
        codec.open()
        return codec


def is_for(label: str, *, size: Size | None, fit: Fit) -> bool:
    """Whether a rendition's pictures may become what a window asks for: they have their source's proportions, or were
    made for this very size and fit."""
    made = _MADE.fullmatch(label)
    return made is None or (size is not None and label == _label(made["codec"], size, fit))


def _label(codec: str, size: Size | None, fit: Fit) -> str:
    dimensions = "" if size is None else f"-{size[0]}x{size[1]}"
    return codec + dimensions + ("" if fit == "stretch" else f"-{fit}")


_MADE = re.compile(rf"(?P<codec>{'|'.join(CODECS)})-\d+x\d+(-\w+)?")
