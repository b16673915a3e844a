"""Every video segment keeps one small picture: of its middle, sharp, and of a few kB whatever is in it."""

from __future__ import annotations

from typing import Any

import av
import cv2
import numpy as np
import pytest

from ray_jobs.thumbnail import MAX_BYTES, MAX_SIDE, Chooser, to_jpeg


def frame(picture: np.ndarray[Any, Any]) -> Any:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture, np.uint8), format="rgb24")


def gray(value: int, *, width: int = 64, height: int = 48) -> Any:
    return frame(np.full((height, width, 3), value))


def picture_of(jpeg: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize(("count", "chosen"), [(1, 0), (2, 1), (3, 1), (9, 4), (10, 4)])
def test_the_sharpest_of_the_middle_third_is_chosen(count: int, chosen: int) -> None:
    chooser = Chooser(count)
    for number in range(count):
        sharpness = 9.0 if number == chosen else 1.0 if count // 3 <= number < count - count // 3 else 99.0
        chooser.add(gray(20 * number), sharpness=sharpness)
    assert picture_of(chooser.jpeg()).mean() == pytest.approx(20 * chosen, abs=2)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(640, 480, (160, 120)), (480, 1280, (60, 160)), (64, 48, (64, 48)), (4000, 8, (160, 1))],
)
def test_it_is_scaled_down_and_never_up(width: int, height: int, size: tuple[int, int]) -> None:
    picture = picture_of(to_jpeg(gray(90, width=width, height=height)))
    assert (picture.shape[1], picture.shape[0]) == size
    assert max(size) <= MAX_SIDE


def test_noise_is_small_too_and_colours_keep_their_order() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert len(to_jpeg(frame(noise))) <= MAX_BYTES
    sharp = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    assert len(to_jpeg(frame(sharp))) <= MAX_BYTES
    red = picture_of(to_jpeg(frame(np.broadcast_to(np.array([200, 30, 60], np.uint8), (48, 64, 3)))))
    assert [round(value, -1) for value in red.mean(axis=(0, 1))] == [60, 30, 200]  # OpenCV's order
