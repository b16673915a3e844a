"""Windows against a slow reference that has everything decoded and looks through lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dataset_catalog.contents import Camera
from dataset_catalog.errors import NotFound, WindowError
from dataset_catalog.spec import horizon, prefer
from dataset_catalog.windows import Windows
from tests.dataset_catalog.slow import arc

OBSERVATIONS = {"state": [-0.1, 0.0], "torso": [-0.033, 0.0], "head": [-0.2, 0.0]}
ACTIONS = {"action": horizon(0.4, hz=10)}
TOLERANCE_NS = {"state": 40_000_000, "action": 60_000_000, "torso": 40_000_000, "head": 30_000_000}


def slow_column(episode: Any, name: str, at: int) -> tuple[np.ndarray, bool]:
    """(value, valid) by looking at every value of the series."""
    series, tolerance = episode.series[name], TOLERANCE_NS[name]
    inside = episode.start_ns <= at < episode.end_ns
    at = min(max(at, episode.start_ns), episode.end_ns - 1)
    before = [item for item in series if item[0] <= at]
    after = [item for item in series if item[0] >= at]
    if not before:
        return series[0][1], False
    (t0, v0) = before[-1]
    if name == "action":
        return v0, inside and at - t0 <= tolerance
    if not after:
        return v0, False
    (t1, v1) = after[0]
    near = at - t0 <= tolerance and t1 - at <= tolerance
    w = 0 if t1 == t0 else (at - t0) / (t1 - t0)
    return (arc(v0, v1, w) if name == "torso" else v0 * (1 - w) + v1 * w), inside and near


def slow_frame(episode: Any, frames: list[Any], at: int) -> tuple[np.ndarray, bool]:
    inside = episode.start_ns <= at < episode.end_ns
    at = min(max(at, episode.start_ns), episode.end_ns - 1)
    t, rgb = min(frames, key=lambda item: (abs(item[0] - at), item[0]))
    return rgb, inside and abs(t - at) <= TOLERANCE_NS["head"]


def places(windows: Windows) -> list[tuple[str, int]]:
    return windows.dataset.selection.locate(np.arange(len(windows)))


def assert_like_the_slow_reference(windows: Windows, lake: Any, *, frames: str) -> None:
    batch = windows.batch(np.arange(len(windows)))
    for row, (name, step) in enumerate(places(windows)):
        episode = lake.episodes[name]
        t = episode.steps[step]
        assert batch["t_ns"][row] == t
        assert batch["sample_id"][row] == f"{name}:{step}"
        assert batch["task"][row] == (episode.task or "")
        for column, offsets in {"state": OBSERVATIONS["state"], "torso": OBSERVATIONS["torso"], **ACTIONS}.items():
            for k, offset in enumerate(offsets):
                value, valid = slow_column(episode, column, t + round(offset * 1e9))
                np.testing.assert_allclose(batch[column][row, k], value, rtol=1e-5, atol=1e-5)
                got = not batch["action_is_pad"][row, k] if column == "action" else batch[f"{column}_mask"][row, k]
                assert got == valid, (name, step, column, offset)
        for k, offset in enumerate(OBSERVATIONS["head"]):
            image, valid = slow_frame(episode, getattr(episode, frames), t + round(offset * 1e9))
            assert (batch["head"][row, k] == image.transpose(2, 0, 1)).all()
            assert batch["head_mask"][row, k] == valid


def test_every_window_is_what_the_slow_reference_says(lake: Any) -> None:
    windows = lake.catalog.dataset("pick").windows(OBSERVATIONS, ACTIONS)
    assert len(windows) == sum(len(e.steps) for e in lake.episodes.values())
    assert_like_the_slow_reference(windows, lake, frames="frames")


def test_at_offset_zero_a_window_is_what_the_step_says(lake: Any) -> None:
    dataset = lake.catalog.dataset("pick")
    windows = dataset.windows({name: [0.0] for name in ("state", "action", "torso", "head")}, rendition="original")
    batch = windows.batch(np.arange(len(windows)))
    for row, step in enumerate(dataset.steps().to_pylist()):
        for name in ("state", "action", "torso"):
            assert batch[f"{name}_mask"][row, 0] == (step[name] is not None)
            if step[name] is not None:
                assert batch[name][row, 0].tolist() == step[name]
                assert batch[f"{name}_age_ns"][row, 0] == step[f"{name}_age_ns"]
        assert batch["head_mask"][row, 0] == (step["head_k"] is not None)
        if step["head_k"] is not None:
            stored = 10 * step["head_gop"] + step["head_k"]
            assert (
                batch["head"][row, 0] == lake.episodes[step["episode_id"]].frames[stored][1].transpose(2, 0, 1)
            ).all()
    assert 0 < batch["head_mask"].sum() < len(windows)


def test_a_small_image_size_takes_the_small_rendition(lake: Any) -> None:
    windows = lake.catalog.dataset("pick").windows(OBSERVATIONS, ACTIONS, image_size=(24, 32))
    assert windows.spec.cameras[0].renditions == ("h264-small", "original")
    assert_like_the_slow_reference(windows, lake, frames="small")


def test_the_original_can_be_asked_for_at_any_size(lake: Any) -> None:
    windows = lake.catalog.dataset("pick").windows({"head": [0]}, image_size=(24, 32), rendition="original")
    assert windows.spec.cameras[0].renditions == ("original",)
    assert windows.batch(np.array([3]))["head"].shape == (1, 1, 3, 24, 32)


def test_of_the_renditions_the_smallest_that_is_large_enough_is_preferred() -> None:
    sizes = {"original": (480, 640), "x264-g10": (480, 640), "small": (224, 224), "tiny": (96, 96)}
    camera = Camera(0, sizes)
    assert prefer("head", camera, (200, 224), None) == ("small", "x264-g10", "original", "tiny")
    assert prefer("head", camera, (720, 1280), None) == ("x264-g10", "original", "small", "tiny")
    assert prefer("head", camera, None, None) == ("x264-g10", "original", "small", "tiny")
    assert prefer("head", camera, (200, 224), "original") == ("original",)


def test_what_is_large_enough_depends_on_how_pictures_are_fitted() -> None:
    camera = Camera(0, {"original": (960, 1280), "x264-g10": (480, 640)})
    assert prefer("head", camera, (500, 500), None, "letterbox")[0] == "x264-g10", "375x500 of it is needed"
    for fit in ("stretch", "crop"):
        assert prefer("head", camera, (500, 500), None, fit)[0] == "original"  # type: ignore[arg-type]
    assert prefer("head", camera, (400, 700), None, "crop")[0] == "original"
    assert prefer("head", camera, (480, 640), None, "crop")[0] == "x264-g10"


def test_shapes_and_dtypes_are_as_documented(lake: Any) -> None:
    batch = lake.catalog.dataset("pick").windows(OBSERVATIONS, ACTIONS).batch(np.array([5, 0, 77]))
    shapes = {name: (value.dtype.name, value.shape) for name, value in batch.items() if isinstance(value, np.ndarray)}
    assert shapes == {
        "state": ("float32", (3, 2, 3)),
        "state_mask": ("bool", (3, 2)),
        "state_age_ns": ("int64", (3, 2)),
        "torso": ("float32", (3, 2, 4)),
        "torso_mask": ("bool", (3, 2)),
        "torso_age_ns": ("int64", (3, 2)),
        "head": ("uint8", (3, 2, 3, 48, 64)),
        "head_mask": ("bool", (3, 2)),
        "head_age_ns": ("int64", (3, 2)),
        "action": ("float32", (3, 4, 2)),
        "action_is_pad": ("bool", (3, 4)),
        "action_age_ns": ("int64", (3, 4)),
        "t_ns": ("int64", (3,)),
        "task_index": ("int64", (3,)),
    }
    assert {type(batch[name]) for name in ("task", "episode_id", "sample_id")} == {list}


def test_one_sample_is_a_batch_without_its_first_axis(lake: Any) -> None:
    windows = lake.catalog.dataset("pick").windows(OBSERVATIONS, ACTIONS)
    sample = windows[-1]
    assert sample["head"].shape == (2, 3, 48, 64)
    assert sample["sample_id"] == "e4:13"
    with pytest.raises(IndexError, match=r"must be in \[0, "):
        windows[len(windows)]


def test_an_episode_without_a_series_gives_zeros_that_are_masked(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = lake.catalog.dataset("pick").windows({"state": [0.0]})
    monkeypatch.setattr(windows._episodes, "_series", lambda ids: {})
    batch = windows.batch(np.array([0, 1]))
    assert not batch["state"].any()
    assert not batch["state_mask"].any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"observations": {"heed": [0]}}, r"no column or camera \['heed'\].*cameras.*head"),
        ({"observations": {}, "actions": {"head": [0]}}, r"no column or camera \['head'\]"),
        ({"observations": {"state": [0]}, "actions": {"state": [0]}}, "cannot be observation and action"),
        ({"observations": {"state": []}}, "at least one finite offset"),
        ({"observations": {"state": [float("nan")]}}, "at least one finite offset"),
        ({"observations": {"head": [0]}, "rendition": "h265"}, "no video h265; its renditions: .*original"),
        ({"observations": {"head": [0]}, "image_size": (0, 9)}, r"\(height, width\) of at least 1"),
    ],
)
def test_a_spec_that_does_not_fit_says_why(lake: Any, arguments: Any, sentence: str) -> None:
    with pytest.raises(WindowError, match=sentence):
        lake.catalog.dataset("pick").windows(**arguments)


def test_a_step_that_does_not_exist_is_not_found(lake: Any) -> None:
    with pytest.raises(NotFound, match="has the steps 0 to 13, got"):
        lake.catalog.dataset("pick").windows({"state": [0]}).at([("e4", 14)])


def test_horizon_counts_from_now_and_ends_before_its_seconds() -> None:
    assert horizon(0.4, hz=10) == (0.0, 0.1, 0.2, 0.3)
    assert len(horizon(1.6, hz=30)) == 48
    with pytest.raises(WindowError, match="seconds > 0"):
        horizon(0, hz=10)
