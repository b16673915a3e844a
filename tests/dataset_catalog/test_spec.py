"""What is asked of windows and makes no sense is a sentence before anything is read, and takes no memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dataset_catalog.errors import WindowError
from dataset_catalog.spec import horizon, steps


@pytest.mark.parametrize("offsets", [None, "x", ["x"], [None], 1e300, [1e12], [[0.0]], object()])
def test_what_is_no_offset_is_named(lake: Any, offsets: object) -> None:
    with pytest.raises(WindowError, match="state needs at least one finite offset in seconds, got"):
        lake.catalog.dataset("pick").windows({"state": offsets})


def test_offsets_may_be_numpys(lake: Any) -> None:
    windows = lake.catalog.dataset("pick").windows({"state": np.float32(0), "action": np.linspace(-0.1, 0, 3)})
    sample = windows[0]
    assert (sample["state_mask"].shape, sample["action_mask"].shape) == ((), (3,))
    pictures = lake.catalog.dataset("pick").windows({"head": 0.0}, image_size=(np.int64(24), 32))
    assert pictures[0]["head"].shape == (3, 24, 32)


def test_a_horizon_that_no_memory_holds_is_refused() -> None:
    for seconds, hz in ((1e9, 1e9), (float("inf"), 10), (1, float("inf")), (float("nan"), 1)):
        with pytest.raises(WindowError, match="at most 10000 offsets"):
            horizon(seconds, hz)
    with pytest.raises(WindowError, match="steps takes at least one integer, none beyond"):
        steps(10**30)


@pytest.mark.parametrize("size", [96, "ab", (96.5, 96), (96, 96, 3), (True, True), (0, 4), (10**6, 10**6)])
def test_what_is_no_size_of_a_picture_is_named(lake: Any, size: object) -> None:
    with pytest.raises(WindowError, match=r"image_size is \(height, width\)"):
        lake.catalog.dataset("pick").windows({"head": 0.0}, image_size=size)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"observations": "state"}, "observations are given by name"),
        ({"observations": ["state"]}, "observations are given by name"),
        ({"observations": {1: 0.0}}, "observations are given by name"),
        ({"observations": {}, "actions": ["action"]}, "actions are given by name"),
        ({"observations": {"state": 0.0}, "relative": "state"}, "relative are given by name"),
        ({"observations": {"state": 0.0}, "transform": 3}, "a transform is a function"),
        ({"observations": {"state": 0.0}, "normalize": "mean_std"}, "normalize is a method for each column"),
        ({"observations": {"state": 0.0}, "normalize": ["state"]}, "normalize is a method for each column"),
        ({"observations": {"head": 0.0}, "fit": 3}, "fit is one of stretch, crop, letterbox"),
    ],
)
def test_a_kind_of_argument_that_was_not_meant_is_named(lake: Any, asked: Any, sentence: str) -> None:
    with pytest.raises(WindowError, match=sentence):
        lake.catalog.dataset("pick").windows(**asked)


def test_windows_are_asked_for_by_numbers_however_they_are_listed(lake: Any) -> None:
    windows = lake.catalog.dataset("pick").windows({"state": 0.0})
    ids = windows.batch(np.array([3, 0]))["sample_id"]
    assert windows.batch([3, 0])["sample_id"] == windows.batch((np.int32(3), 0))["sample_id"] == ids
    assert windows.batch([])["sample_id"] == []
    for numbers in ([len(windows)], [-1], [0.5], ["a"], 10**9):
        with pytest.raises(IndexError, match="windows are numbered from 0 to 203, got"):
            windows.batch(numbers)
