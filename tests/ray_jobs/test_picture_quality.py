"""What is measured on pictures, against pictures of which it is known."""

from __future__ import annotations

from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dataset_catalog.luma import luma_of, quarter_luma
from ray_jobs.picture_quality import (
    BLURRED_BELOW,
    Luma,
    Quality,
    QualityMeter,
    is_black,
    mean_difference,
    sharpness,
)

RANDOM = np.random.default_rng(7)


def frame(luma: NDArray[Any], *, format_: str = "yuv420p") -> av.VideoFrame:
    """A picture of this luma, without colour."""
    height, width = luma.shape
    made = av.VideoFrame(width, height, format_)
    for plane, values in zip(made.planes, [luma, *[np.full((height // 2, width // 2), 128)] * 2], strict=False):
        lines = np.zeros((plane.height, plane.line_size), np.uint8)
        lines[:, : plane.width] = values
        plane.update(lines.tobytes())
    return made


def measured(*lumas: NDArray[Any], format_: str = "yuv420p") -> Quality:
    meter = QualityMeter()
    for luma in lumas:
        meter.add(frame(luma, format_=format_))
    return meter.result()


def textured(height: int = 96, width: int = 128) -> Luma:
    return RANDOM.integers(0, 256, (height, width)).astype(np.uint8)


def test_luma_is_that_of_the_picture_though_its_lines_are_padded() -> None:
    luma = textured(90, 122)
    assert np.array_equal(luma_of(frame(luma)), luma)
    assert np.array_equal(quarter_luma(frame(luma)), luma[::4, ::4])


def test_a_picture_that_is_not_planar_is_converted() -> None:
    gray = np.repeat(textured()[..., None], 3, axis=2)
    found = luma_of(av.VideoFrame.from_ndarray(gray, format="rgb24"))
    assert found.shape == gray.shape[:2]
    assert np.abs(found.astype(int) - gray[..., 0]).max() <= 255 - 235 + 16  # libav may give luma of either range


def test_means_are_those_of_all_frames() -> None:
    found = measured(np.full((96, 128), 40), np.full((96, 128), 50), np.full((96, 128), 60))
    assert (found.luma_mean, found.motion) == (pytest.approx(50), pytest.approx(10))
    assert (found.frozen_share, found.black_share) == (0, 0)


def test_a_single_frame_neither_moves_nor_freezes() -> None:
    found = measured(textured())
    assert (found.motion, found.frozen_share) == (0.0, 0.0)


def test_a_frame_that_repeats_the_last_one_is_frozen_and_noise_of_a_camera_is_not() -> None:
    still = textured()
    noisy = still ^ RANDOM.integers(0, 2, still.shape).astype(np.uint8)
    assert measured(still, still, still, noisy).frozen_share == pytest.approx(2 / 4)


def test_what_is_black_depends_on_the_range_of_luma() -> None:
    dark = np.full((96, 128), 30)
    assert measured(dark).black_share == 1  # a tenth of the limited range ends at 37.9
    assert measured(dark, format_="yuvj420p").black_share == 0  # of the full one at 25.5
    assert measured(dark - 10, format_="yuvj420p").black_share == 1


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 10_000), st.booleans())
def test_black_is_what_counting_every_sample_says(dark: int, light: int, lights: int, is_full: bool) -> None:
    luma = np.full((100, 100), dark, np.uint8)
    luma.ravel()[:lights] = light
    limit = 25.5 if is_full else 37.9
    expected = np.mean(luma <= limit) >= 0.98
    assert is_black(luma, is_full=is_full) == expected


def test_sharpness_falls_as_a_picture_is_blurred() -> None:
    picture = cv2.resize(textured(24, 32), (640, 480), interpolation=cv2.INTER_NEAREST)
    series = [sharpness(cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture) for sigma in (0, 1, 2, 4, 8)]
    assert series == sorted(series, reverse=True)
    assert series[0] > BLURRED_BELOW > series[-1]


def test_sharpness_is_the_variance_of_the_laplacian_in_the_middle() -> None:
    luma = textured(40, 60)
    middle = luma[10:30, 15:45].astype(np.float64)
    padded = np.pad(middle, 1, mode="reflect")  # without the edge itself, as OpenCV does
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * middle
    assert sharpness(luma) == pytest.approx(laplacian.var())


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (4, 4), (5, 640)])
def test_a_tiny_picture_has_no_sharpness_and_harms_nothing(shape: tuple[int, int]) -> None:
    assert sharpness(textured(*shape)) >= 0


def test_the_difference_is_the_mean_over_all_samples() -> None:
    one, other = textured(), textured()
    assert mean_difference(one, other) == pytest.approx(np.abs(one.astype(int) - other).mean())


def test_nothing_measured_is_nothing_said() -> None:
    with pytest.raises(ValueError, match="no frame"):
        QualityMeter().result()
