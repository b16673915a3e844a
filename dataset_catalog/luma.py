"""The luma of decoded frames, of which their quality and their likeness are measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUARTER = 4
_PLANAR_8_BIT = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "gray")

Luma = NDArray[np.uint8]


def luma_of(frame: Any) -> Luma:
    """The luma of an `av.VideoFrame`, (height, width) uint8; a view of the frame where that is possible."""
    if frame.format.name not in _PLANAR_8_BIT:
        frame = frame.reformat(format="gray", threads=1)
    plane = frame.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return lines[: frame.height, : frame.width]


def quarter_luma(frame: Any) -> Luma:
    """Every fourth luma sample of every fourth line."""
    return luma_of(frame)[::QUARTER, ::QUARTER]
