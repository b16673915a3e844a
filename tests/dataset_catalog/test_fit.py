"""Pictures of one shape made another: nothing is distorted that need not be, and the middle stays the middle."""

from __future__ import annotations

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.fit import FITS, place, scaled
from dataset_catalog.video import to_rgb

SIDE = st.integers(2, 700)
SIZE = st.tuples(SIDE, SIDE)


@given(SIZE, SIZE)
def test_crop_covers_and_letterbox_fits_and_both_keep_proportions_to_half_a_pixel(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    factors = [want / have for want, have in zip(target, source, strict=True)]
    for fit, factor in (("crop", max(factors)), ("letterbox", min(factors))):
        size = scaled(source, target, fit)  # type: ignore[arg-type]
        for have, got in zip(source, size, strict=True):
            assert abs(got - max(1, have * factor)) <= 0.5 + 1e-9
    assert all(got >= want for got, want in zip(scaled(source, target, "crop"), target, strict=True))
    assert all(got <= want for got, want in zip(scaled(source, target, "letterbox"), target, strict=True))
    assert scaled(source, target, "stretch") == target


@given(SIZE)
def test_of_equal_proportions_all_three_are_the_same(source: tuple[int, int]) -> None:
    double = (2 * source[0], 2 * source[1])
    assert {scaled(source, double, fit) for fit in FITS} == {double}


def test_known_sizes() -> None:
    assert scaled((480, 640), (224, 224), "crop") == (224, 299)
    assert scaled((480, 640), (224, 224), "letterbox") == (168, 224)
    assert scaled((640, 480), (224, 224), "crop") == (299, 224)
    assert scaled((1, 1000), (10, 10), "letterbox") == (1, 10)


def test_placing_cuts_the_middle_out_and_puts_black_around() -> None:
    image = np.arange(1, 1 + 4 * 7 * 3, dtype=np.uint8).reshape(4, 7, 3)
    assert (place(image, (4, 4)) == image[:, 1:5]).all()
    wide = place(image, (7, 7))
    assert (wide[1:5] == image).all()
    assert not wide[0].any()
    assert not wide[5:].any()
    both = place(image, (6, 2))
    assert (both[1:5] == image[:, 2:4]).all()
    assert both.sum() == image[:, 2:4].sum()
    assert place(image, (4, 7)) is image
    assert place(image, (2, 2)).base is None, "a cut must not keep the whole picture in memory"


@pytest.mark.parametrize(("fit", "inside"), [("crop", True), ("letterbox", True), ("stretch", False)])
def test_a_square_stays_a_square_unless_it_is_stretched(fit: str, inside: bool) -> None:
    picture = np.zeros((120, 160, 3), np.uint8)
    picture[40:80, 60:100] = 255  # in the very middle
    small = to_rgb(av.VideoFrame.from_ndarray(picture, format="rgb24"), (60, 60), fit)[..., 0] > 127  # type: ignore[arg-type]
    rows, cols = np.flatnonzero(small.any(axis=1)), np.flatnonzero(small.any(axis=0))
    assert (len(rows) == len(cols)) is inside
    assert abs(rows.mean() - 29.5) <= 0.5
    assert abs(cols.mean() - 29.5) <= 0.5
