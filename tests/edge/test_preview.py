"""A preview is as good as its share of the camera's bytes allows, and no better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.preview import ENOUGH, TOO_MUCH, WORST_CRF, Made, PreviewQuality, step

START_NS = 1_760_000_000_000_000_000
GOP_NS = 1_000_000_000
SHARE, CAMERA_CRF, CAMERA_BYTES = 0.05, 21, 100_000


@dataclass
class Outcome:
    crf: int
    used: float  # share over the later half
    left_out: int


def _after(
    gops: int, bytes_at: Callable[[int], float], *, ahead: int = 0, jumps_at: int = -1, camera_bytes: int = CAMERA_BYTES
) -> Outcome:
    """What comes of so many GOPs, one picture each. `bytes_at(crf)`: what the preview takes of one.

    `ahead`: so many GOPs the preview's thread is before the camera's; `jumps_at`: there the clock goes back ten years.
    """
    made, camera = Made(), Made()
    quality = PreviewQuality(made, camera, camera_crf=CAMERA_CRF, share=SHARE)
    half = left_out = 0
    times = [START_NS + n * GOP_NS - (n >= jumps_at >= 0) * 10**17 * 3 for n in range(gops)]
    for n, t_ns in enumerate(times):
        if n == gops // 2:
            half = made.bytes
        if n >= ahead:
            camera.count(times[n - ahead], camera_bytes)
        if quality.is_spent:
            left_out += 1
            made.count(t_ns, 0)
            continue
        quality.has_changed()
        made.count(t_ns, round(bytes_at(quality.crf)))
    return Outcome(quality.crf, (made.bytes - half) / (camera_bytes * (gops - gops // 2)), left_out)


@given(st.floats(0.002, 0.25), st.integers(0, 3), st.integers(-1, 150))
def test_it_comes_to_use_most_of_its_share_and_no_more(of_camera_at_best: float, ahead: int, jumps_at: int) -> None:
    def bytes_at(crf: int) -> float:
        return CAMERA_BYTES * of_camera_at_best * 2 ** ((CAMERA_CRF - crf) / 10)

    found = _after(200, bytes_at, ahead=ahead, jumps_at=jumps_at)
    assert found.used <= SHARE
    assert CAMERA_CRF <= found.crf <= WORST_CRF
    assert found.used >= 0.6 * SHARE or found.crf == CAMERA_CRF, "better pictures would have had room"
    assert found.left_out == 0, "worse pictures would have done"


def test_what_is_too_much_at_the_worst_quality_is_left_out() -> None:
    found = _after(400, lambda _: 0.2 * CAMERA_BYTES)
    assert found.crf == WORST_CRF
    assert 0.9 * SHARE < found.used <= 1.05 * SHARE
    assert found.left_out > 200


def test_a_camera_that_has_made_nothing_decides_nothing() -> None:
    made = Made()
    quality = PreviewQuality(made, Made(), camera_crf=CAMERA_CRF, share=SHARE)
    before = quality.crf
    for n in range(10):
        made.count(START_NS + n * GOP_NS, 5000)
        assert not quality.has_changed()
    assert quality.crf == before
    assert not quality.is_spent


@pytest.mark.parametrize("camera_crf", [0, 21, 40, 51])
def test_the_worst_quality_is_x264s_and_the_best_the_cameras(camera_crf: int) -> None:
    for size in (10**6, 1):
        made, camera = Made(), Made()
        quality = PreviewQuality(made, camera, camera_crf=camera_crf, share=SHARE)
        assert camera_crf <= quality.crf <= WORST_CRF
        for n in range(100):
            made.count(START_NS + n * GOP_NS, size)
            camera.count(START_NS + n * GOP_NS, CAMERA_BYTES)
            quality.has_changed()
        assert quality.crf == (WORST_CRF if size > 1 else camera_crf)


@given(st.floats(0, 1e9))
def test_a_step_is_quick_to_the_worse_and_slow_to_the_better(used: float) -> None:
    by = step(used)
    assert -1 <= by <= 3
    assert (by > 0) == (used > TOO_MUCH)
    assert (by < 0) == (used < ENOUGH)
