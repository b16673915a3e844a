"""Normalized by the training split alone, and back again from what was saved beside a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.dataset import Dataset
from dataset_catalog.errors import CatalogError, WindowError
from dataset_catalog.normalize import Change, Normalizer
from dataset_catalog.relative import Relative, RelativeTo
from dataset_catalog.scaling import METHODS, Scaling, Values
from dataset_catalog.spec import horizon
from dataset_catalog.statistics import Statistics
from dataset_catalog.windows import Windows

ACTIONS = {"action": horizon(0.4, hz=10)}


@pytest.fixture(scope="module")
def parts(lake: Any) -> dict[str, Dataset]:
    """A split whose parts both have episodes."""
    return lake.catalog.dataset("pick").split(train=0.6, val=0.4, seed=3)  # type: ignore[no-any-return]


def recorded(lake: Any, dataset: Dataset, column: str) -> np.ndarray:
    """Every reading of the dataset's episodes between their ends."""
    episodes = [lake.episodes[name] for name in dataset.selection.episode_ids]
    return np.array([v for e in episodes for t, v in e.series[column] if e.start_ns <= t < e.end_ns]).astype(float)


def whole(windows: Windows) -> dict[str, Any]:
    return windows.batch(np.arange(len(windows)))


def test_both_parts_are_normalized_by_what_the_training_part_recorded(lake: Any, parts: dict[str, Dataset]) -> None:
    values = recorded(lake, parts["train"], "state")
    assert 0 < len(values) < len(recorded(lake, lake.catalog.dataset("pick"), "state"))
    for part in (parts["train"], parts["val"], parts["val"].select(where="task IS NOT NULL OR true")):
        plain, scaled = part.windows({"state": [0.0]}), part.windows({"state": [0.0]}, normalize={"state": "mean_std"})
        wanted = (whole(plain)["state"] - values.mean(axis=0)) / values.std(axis=0)
        np.testing.assert_allclose(whole(scaled)["state"], wanted, rtol=1e-5, atol=1e-5)
        assert (whole(plain)["state_mask"] == whole(scaled)["state_mask"]).all()


def test_a_selection_that_was_not_split_is_normalized_by_itself_not_by_the_whole_dataset(lake: Any) -> None:
    chosen = lake.catalog.dataset("pick").select(robots=["h2"])
    values = recorded(lake, chosen, "action")
    scaling = chosen.windows({}, ACTIONS, normalize={"action": "min_max"}).normalizer.changes["action"].scaling
    assert scaling
    np.testing.assert_allclose(scaling.middle, (values.min(axis=0) + values.max(axis=0)) / 2, rtol=1e-6)
    np.testing.assert_allclose(scaling.width, (values.max(axis=0) - values.min(axis=0)) / 2, rtol=1e-6)


def test_quantiles_become_minus_one_and_one_and_nothing_is_clipped(parts: dict[str, Dataset]) -> None:
    plain = whole(parts["train"].windows({"state": [-0.1, 0.0]}))
    windows = parts["train"].windows({"state": [-0.1, 0.0]}, normalize={"state": "q01_q99"})
    batch = whole(windows)
    low, high = (np.quantile(batch["state"][batch["state_mask"]].astype(float), q, axis=0) for q in (0.01, 0.99))
    np.testing.assert_allclose(low, -1, rtol=1e-5)
    np.testing.assert_allclose(high, 1, rtol=1e-5)
    assert np.abs(batch["state"]).max() > 1
    np.testing.assert_allclose(windows.normalizer.undo("state", batch["state"]), plain["state"], rtol=1e-5, atol=1e-5)


def test_statistics_of_relative_actions_are_of_what_the_windows_hold(parts: dict[str, Dataset]) -> None:
    relative = {"action": RelativeTo("state", absolute=[1])}
    plain = parts["train"].windows({"state": [0.0]}, ACTIONS, relative=relative)
    batch = whole(plain)
    values = batch["action"][~batch["action_is_pad"]].astype(float)
    for part in parts.values():
        windows = part.windows({"state": [0.0]}, ACTIONS, relative=relative, normalize={"action": "mean_std"})
        scaling = windows.normalizer.changes["action"].scaling
        assert scaling
        np.testing.assert_allclose(scaling.middle, values.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(scaling.width, values.std(axis=0), rtol=1e-6)
    scaled = whole(parts["train"].windows({}, ACTIONS, relative=relative, normalize={"action": "mean_std"}))
    inside = scaled["action"][~scaled["action_is_pad"]]
    np.testing.assert_allclose(inside.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(inside.std(axis=0), 1, atol=1e-5)


def test_what_was_saved_beside_a_checkpoint_gives_commands_back(parts: dict[str, Dataset], tmp_path: Path) -> None:
    plain = whole(parts["val"].windows({"state": 0.0}, ACTIONS))
    windows = parts["val"].windows(
        {"state": 0.0},
        ACTIONS,
        relative={"action": RelativeTo("state", absolute=[1])},
        normalize={"state": "mean_std", "action": "q01_q99"},
    )
    batch = whole(windows)
    loaded = Normalizer.load(windows.normalizer.save(tmp_path / "normalizer.json"))
    assert loaded == windows.normalizer
    for of in (np.asarray, torch.as_tensor):
        state = loaded.undo("state", of(batch["state"]))  # type: ignore[operator]
        action = loaded.undo("action", of(batch["action"]), state=of(plain["state"]))  # type: ignore[operator]
        assert type(action) is type(of(plain["action"]))  # type: ignore[operator]
        assert action.dtype == of(plain["action"]).dtype  # type: ignore[operator]
        np.testing.assert_allclose(np.asarray(state), plain["state"], rtol=1e-5, atol=1e-5)
        known = ~batch["action_is_pad"]
        np.testing.assert_allclose(np.asarray(action)[known], plain["action"][known], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(loaded.apply("state", plain["state"]), batch["state"], rtol=1e-6)
    tensor = loaded.apply("state", torch.from_numpy(plain["state"]))
    np.testing.assert_allclose(tensor.numpy(), batch["state"], rtol=1e-5, atol=1e-6)
    assert loaded.undo("torso", plain["state"]) is plain["state"], "what was not changed stays"


def test_a_part_narrowed_until_its_training_part_is_empty_asks_for_a_normalizer(parts: dict[str, Dataset]) -> None:
    narrow = parts["val"].select(episodes=list(parts["val"].selection.episode_ids))
    with pytest.raises(WindowError, match="the training part of this selection is empty: give the normalizer"):
        narrow.windows({"state": 0.0}, normalize={"state": "mean_std"})
    train = parts["train"].windows({"state": 0.0}, normalize={"state": "mean_std"})
    assert narrow.windows({"state": 0.0}, normalize=train.normalizer).normalizer == train.normalizer


def test_other_windows_take_over_a_normalizer(parts: dict[str, Dataset]) -> None:
    first = parts["train"].windows({"state": [0.0]}, ACTIONS, normalize={"state": "mean_std", "action": "mean_std"})
    other = parts["val"].windows({"state": [0.0, -0.1]}, ACTIONS, normalize=first.normalizer)
    assert other.normalizer == first.normalizer
    with pytest.raises(WindowError, match=r"\['action'\] was normalized when it was relative to something else"):
        parts["val"].windows(
            {"state": 0.0}, ACTIONS, relative={"action": RelativeTo("state")}, normalize=first.normalizer
        )
    with pytest.raises(WindowError, match=r"\['action'\] cannot be normalized: no columns of these windows"):
        parts["val"].windows({"state": 0.0}, normalize=first.normalizer)


def test_a_seldom_measured_dataset_is_measured_at_evenly_spread_windows(
    parts: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataset_catalog.normalize.MEASURED", 7)
    monkeypatch.setattr("dataset_catalog.normalize._AT_ONCE", 3)
    dataset = parts["train"]
    relative = {"action": RelativeTo("state", absolute=[1])}
    windows = dataset.windows({}, ACTIONS, relative=relative, normalize={"action": "mean_std"})
    few = dataset.windows({}, ACTIONS, relative=relative).batch(np.linspace(0, len(dataset) - 1, 7).round().astype(int))
    scaling = windows.normalizer.changes["action"].scaling
    assert scaling
    np.testing.assert_allclose(scaling.middle, few["action"][~few["action_is_pad"]].mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"normalize": {"state": "zscore"}}, "one of mean_std, min_max, q01_q99, got 'zscore'"),
        ({"normalize": {"head": "mean_std"}}, r"\['head'\] cannot be normalized"),
        ({"relative": {"state": "speed"}}, "state cannot be relative to 'speed'"),
        ({"relative": {"torso": "state"}}, r"\['torso'\] cannot be relative: no column of these windows"),
        ({"relative": {"state": "action"}}, "state has 3 elements, action 2: name those that stay absolute"),
        ({"relative": {"state": "torso"}}, "the difference of quaternions is no rotation"),
        ({"relative": {"state": RelativeTo("action", absolute=["toe"])}}, r"no element 'toe': it has 3.*hip"),
        ({"relative": {"state": RelativeTo("action", absolute=[3])}}, "no element 3: it has 3"),
        (
            {"relative": {"state": RelativeTo("action", absolute=[0, 1, 2])}},
            "every element of state is to stay absolute",
        ),
    ],
)
def test_what_cannot_be_normalized_or_relative_says_why(lake: Any, arguments: Any, sentence: str) -> None:
    with pytest.raises(WindowError, match=sentence):
        lake.catalog.dataset("pick").windows({"state": [0.0], "head": [0.0]}, **arguments)


def test_an_absolute_element_is_told_by_its_name(lake: Any) -> None:
    windows = lake.catalog.dataset("pick").windows(
        {"state": [-0.1, 0.0]}, relative={"state": RelativeTo("action", absolute=["ankle"])}
    )
    assert windows.spec.columns[0].relative == Relative("action", (True, True, False))
    plain = whole(lake.catalog.dataset("pick").windows({"state": [-0.1, 0.0], "action": 0.0}))
    batch = whole(windows)
    assert (batch["state"][..., 2] == plain["state"][..., 2]).all()
    assert (batch["state"][..., :2] == plain["state"][..., :2] - plain["action"][:, None]).all()
    assert (batch["state_mask"] == plain["state_mask"] & plain["action_mask"][:, None]).all()


def test_relative_to_a_missing_state_is_padding(lake: Any) -> None:
    """`state` has a hole of 120 ms in every episode."""
    windows = lake.catalog.dataset("pick").windows(
        {"state": 0.0}, ACTIONS, relative={"action": RelativeTo("state", [])}
    )
    batch = whole(windows)
    assert not batch["state_mask"].all()
    assert batch["action_is_pad"][~batch["state_mask"]].all()


def test_undoing_a_relative_column_needs_what_it_is_relative_to() -> None:
    normalizer = Normalizer({"action": Change(None, Relative("state", (True, False)))})
    values, state = np.ones((1, 2, 2), np.float32), np.array([[3.0, 4.0]], np.float32)
    assert normalizer.undo("action", values, state=state).tolist() == [[[4.0, 1.0], [4.0, 1.0]]]
    for reference in ({}, {"torso": state}):
        with pytest.raises(WindowError, match="action is relative to state: undo takes it"):
            normalizer.undo("action", values, **reference)


def test_a_file_that_is_no_saved_normalizer_says_so(tmp_path: Path) -> None:
    for text, sentence in (
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"format": "x", "changes": {"a": 3}}', "TypeError"),
        (json.dumps({"format": "other/2", "changes": {}}), "has the format other/2, expected fleetfeed/normalizer/1"),
    ):
        (tmp_path / "n.json").write_text(text)
        with pytest.raises(WindowError, match=sentence):
            Normalizer.load(tmp_path / "n.json")
    with pytest.raises(WindowError, match="is no saved normalizer: FileNotFoundError"):
        Normalizer.load(tmp_path / "none.json")
    with pytest.raises(CatalogError, match=r"cannot write .*: No such file"):
        Normalizer({}).save(tmp_path / "none" / "n.json")


VALUES = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30)


@given(VALUES, st.sampled_from(METHODS), st.sampled_from([Statistics.of, Values]))
def test_undo_is_the_inverse_of_apply(values: list[float], method: str, measure: Any) -> None:
    recorded = np.array(values, np.float32)[:, None]
    scaling = Scaling.of(measure(recorded), method)
    scaled = scaling.apply(recorded)
    assert np.isfinite(scaled).all()
    room = 1e-6 * (np.abs(recorded).max() + 1)
    np.testing.assert_allclose(scaling.undo(scaled), recorded, rtol=1e-6, atol=room)


def test_values_measure_what_statistics_do_and_quantiles_to_the_bit() -> None:
    values = np.random.default_rng(0).normal(100, 0.1, (1000, 3)).astype(np.float32)  # far from 0, in a small range
    values[5:9, 1], values[7, 2] = np.nan, np.inf
    exact, joined = Values(values), Statistics.of(values)
    for name in ("count", "mean", "std", "min", "max"):
        np.testing.assert_allclose(getattr(exact, name), getattr(joined, name), rtol=1e-9)
    for column in range(3):
        finite = values[np.isfinite(values[:, column]), column].astype(float)
        assert exact.quantile(0.01)[column] == np.quantile(finite, 0.01)
    scaled = Scaling.of(exact, "q01_q99").apply(values)[:, 0]
    np.testing.assert_allclose(np.quantile(scaled.astype(float), [0.01, 0.99]), [-1, 1], rtol=1e-3)


def test_the_last_bits_of_a_sum_do_not_make_other_numbers() -> None:
    values = np.random.default_rng(1).normal(3, 2, (5000, 4)).astype(np.float32)
    for method in METHODS:
        assert Scaling.of(Values(values), method) == Scaling.of(Values(values[::-1]), method)
    parts = [Statistics.of(values[:1000]), Statistics.of(values[1000:3000]), Statistics.of(values[3000:])]
    assert not np.array_equal(Statistics.join(parts).m2, Statistics.join(parts[::-1]).m2)
    assert Scaling.of(Statistics.join(parts), "mean_std") == Scaling.of(Statistics.join(parts[::-1]), "mean_std")


def test_an_element_that_does_not_change_becomes_zero() -> None:
    still = np.array([[5.0, 1.0], [5.0, 3.0]], np.float32)
    for method in ("mean_std", "min_max"):
        for measured in (Statistics.of(still), Values(still)):
            assert Scaling.of(measured, method).apply(still).tolist() == [[0.0, -1.0], [0.0, 1.0]]


@pytest.mark.parametrize("measure", [Statistics.of, Values])
def test_an_element_without_a_finite_value_cannot_be_normalized(measure: Any) -> None:
    with pytest.raises(WindowError, match=r"no finite values of the elements \[1\]"):
        Scaling.of(measure(np.array([[1.0, np.nan]])), "mean_std")


def test_a_part_whose_windows_hold_nothing_valid_cannot_be_normalized_by_them(lake: Any) -> None:
    hole = lake.catalog.dataset("pick").select(where="state_age_ns IS NULL", episodes=["e0"])
    with pytest.raises(WindowError, match=r"no finite values of the elements \[0, 1, 2\]"):
        hole.windows({"state": 0.0}, normalize={"state": "q01_q99"})
