"""How a picture of one shape becomes one of another: stretched, cropped or letterboxed. Pure arithmetic.

Scaling is one pass of libswscale with its filter AREA: the mean of the area that a pixel covers where pictures get
smaller, bilinear where they grow. Crop and letterbox keep the picture's proportions, to the nearest pixel:

    stretch    height and width each by their own factor: all of the picture, distorted
    crop       by the larger factor, then the middle is cut out: undistorted, two edges are lost
    letterbox  by the smaller factor, then black borders of equal width: undistorted, all of the picture
"""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]  # height, width
Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]  # red, green and blue, (height, width) each
Picture = Planes | NDArray[np.uint8]  # or pixels, (height, width, 3) RGB
Fit = Literal["stretch", "crop", "letterbox"]
FITS: tuple[Fit, ...] = get_args(Fit)


def scaled(source: Size, target: Size, fit: Fit) -> Size:
    """The size that a picture of `source` is scaled to; `place` then makes it `target`."""
    if fit == "stretch":
        return target
    (height, width), (high, wide) = source, target
    by_height = (high * width >= wide * height) == (fit == "crop")  # whether height decides the factor
    return (high, _share(width, high, height)) if by_height else (_share(height, wide, width), wide)


def place(image: NDArray[np.uint8], target: Size) -> NDArray[np.uint8]:
    """The middle of `image` (h, w, 3) as (*target, 3): cut where it is larger, black around where it is smaller."""
    if image.shape[:2] == target:
        return image
    middle = tuple(_middle(have, want) for have, want in zip(image.shape[:2], target, strict=True))
    cut = np.ascontiguousarray(image[middle])  # a view would keep all of it in memory
    if cut.shape[:2] == target:
        return cut
    out = np.zeros((*target, image.shape[2]), np.uint8)
    out[tuple(_middle(want, have) for have, want in zip(cut.shape[:2], target, strict=True))] = cut
    return out


def paste(picture: Picture, out: NDArray[np.uint8]) -> None:
    """The middle of a picture into `out` (3, H, W), as `place` does it; what is around it becomes black."""
    planes: tuple[NDArray[np.uint8], ...] = picture if isinstance(picture, tuple) else (picture,)
    source, target = planes[0].shape[:2], out.shape[1:]
    if source != target:
        inner = tuple(_middle(have, want) for have, want in zip(source, target, strict=True))
        outer = tuple(_middle(want, have) for have, want in zip(source, target, strict=True))
        if source[0] < target[0] or source[1] < target[1]:
            out[:] = 0
        planes, out = tuple(plane[inner] for plane in planes), out[(slice(None), *outer)]
    if len(planes) == 1:
        _part(planes[0], out)
        return
    for channel, plane in zip(out, planes, strict=True):
        channel[:] = plane


def _part(pixels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Interleaved pixels (h, w, 3) into planes (3, h, w): by OpenCV a sixth of what a transposed copy takes, which only
    writes to whole lines in place."""
    if out.flags.c_contiguous:
        cv2.split(pixels, list(out))
    else:
        out[:] = pixels.transpose(2, 0, 1)


def _share(length: int, part: int, whole: int) -> int:
    """`length × part / whole`, to the nearest integer (a half goes up), at least 1."""
    return max(1, (2 * length * part + whole) // (2 * whole))


def _middle(outer: int, inner: int) -> slice:
    """Where `inner` lies in the middle of `outer`; all of it if it is longer. An odd rest is larger behind."""
    before = max(0, outer - inner) // 2
    return slice(before, before + min(outer, inner))
