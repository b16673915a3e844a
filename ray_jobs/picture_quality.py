"""How good a segment's pictures are, measured on their luma as they are decoded. Pure array code.

Everything is measured on every fourth sample of every fourth line but sharpness, which needs neighbouring samples: it
is taken in the middle of the picture at full resolution, half as wide and half as high.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataset_catalog.luma import QUARTER, Luma, luma_of

LIMITED_BLACK, LIMITED_RANGE = 16, 219  # ITU-R BT.601: luma of black, and from black to white
BLACK_LUMA, BLACK_AREA = 0.10, 0.98  # a picture is black where so much of it is that dark: FFmpeg's `blackdetect`
FROZEN_NOISE = 0.001  # a picture repeats the last one where the mean difference is less: FFmpeg's `freezedetect`
BLURRED_BELOW = 20.0  # of `sharpness`
_JPEG_RANGE = 2  # libav's AVCOL_RANGE_JPEG: luma from 0 to 255


@dataclass(frozen=True, slots=True)
class Quality:
    """Means and shares over a segment's frames.

    luma_mean      mean luma, 0..255
    black_share    of frames of which 98 % are darker than a tenth of the range, 0..1
    frozen_share   of frames that repeat the one before, 0..1
    blurred_share  of frames less sharp than 20, 0..1; so is a wall without texture, and a black frame
    sharpness      mean variance of the Laplacian (Pech-Pacheco et al., ICPR 2000), in squared steps of luma
    motion         mean absolute difference of luma to the frame before, 0..255; 0 for a single frame
    """

    luma_mean: float
    black_share: float
    frozen_share: float
    blurred_share: float
    sharpness: float
    motion: float


class QualityMeter:
    """Takes the frames of one segment in presentation order."""

    def __init__(self) -> None:
        self._last: Luma | None = None
        self._rows: list[tuple[float, bool, bool, float, float]] = []

    def add(self, frame: Any) -> float:
        """Measure one `av.VideoFrame`; all must have the same size. Returns its sharpness."""
        luma = luma_of(frame)
        quarter = np.ascontiguousarray(luma[::QUARTER, ::QUARTER])
        is_full = frame.color_range == _JPEG_RANGE or frame.format.name.startswith("yuvj")
        motion = 0.0 if self._last is None else mean_difference(quarter, self._last)
        is_frozen = self._last is not None and motion < FROZEN_NOISE * 255
        sharp = sharpness(luma)
        self._rows.append((cv2.mean(quarter)[0], is_black(quarter, is_full=is_full), is_frozen, sharp, motion))
        self._last = quarter
        return sharp

    def result(self) -> Quality:
        """Of all frames that were added; `ValueError` if there was none."""
        if not self._rows:
            raise ValueError("no frame was measured")
        luma, black, frozen, sharp, motion = (np.array(column, np.float64) for column in zip(*self._rows, strict=True))
        moved = motion[1:].mean() if len(motion) > 1 else 0.0
        blurred = (sharp < BLURRED_BELOW).mean()
        means = (luma.mean(), black.mean(), frozen.mean(), blurred, sharp.mean(), moved)
        return Quality(*(float(mean) for mean in means))


def is_black(luma: Luma, *, is_full: bool) -> bool:
    """`is_full`: luma goes from 0 to 255; else from 16 to 235."""
    dark = 255 * BLACK_LUMA if is_full else LIMITED_BLACK + LIMITED_RANGE * BLACK_LUMA
    if cv2.mean(luma)[0] > dark + (1 - BLACK_AREA) * 255:  # too bright for that, whatever it looks like
        return False
    return bool(np.count_nonzero(luma <= dark) >= BLACK_AREA * luma.size)


def mean_difference(luma: Luma, other: Luma) -> float:
    """Mean absolute difference, 0..255."""
    return float(cv2.norm(luma, other, cv2.NORM_L1)) / luma.size


def sharpness(luma: Luma) -> float:
    """Variance of the Laplacian in the middle of a picture; 0 where it is too small to have any."""
    height, width = luma.shape
    middle = luma[height // 4 : height - height // 4, width // 4 : width - width // 4]
    if min(middle.shape) < 3:
        return 0.0
    laplacian: NDArray[np.int16] = cv2.Laplacian(middle, cv2.CV_16S)
    mean_square = float(cv2.norm(laplacian, cv2.NORM_L2SQR)) / laplacian.size  # in half of meanStdDev's time
    mean = float(cv2.mean(laplacian)[0])
    return max(mean_square - mean**2, 0.0)
