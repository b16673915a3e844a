"""Windows over mixed rates, several cameras and holes are those of the slow reference, at the edges too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.relative import RelativeTo
from dataset_catalog.spec import horizon, steps
from dataset_catalog.storage import Storage
from dataset_catalog.windows import Windows
from tests.dataset_catalog import slow
from tests.dataset_catalog.bimanual import CAMERAS, COLUMNS, EPISODES, Recorded, record, write
from tests.dataset_catalog.conftest import readings


@pytest.fixture(scope="module")
def episodes() -> dict[str, Recorded]:
    return {name: record(name, **about) for name, about in EPISODES.items()}


@pytest.fixture(scope="module")
def duo(episodes: dict[str, Recorded], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    storage = Storage.open(str(tmp_path_factory.mktemp("duo")))
    write(storage, "duo", list(episodes.values()))
    return Catalog(storage).dataset("duo")


def picked(windows: Windows, every: int) -> np.ndarray:
    """The first and the last windows of each episode, and some between."""
    places = windows.dataset.selection.locate(np.arange(len(windows)))
    last = dict(places)  # the highest step of each comes last
    return np.array([i for i, (name, step) in enumerate(places) if step < 3 or step > last[name] - 3 or i % every == 0])


def check(
    windows: Windows,
    episodes: Mapping[str, Recorded],
    asked: slow.Asked,
    *,
    every: int = 9,
    key: Any = lambda name: name,
) -> dict[str, Any]:
    """The picked windows against the reference; returns the batch."""
    numbers = picked(windows, every)
    batch = windows.batch(numbers)
    for row, (name, step) in enumerate(windows.dataset.selection.locate(numbers)):
        wanted = slow.sample(episodes[name], step, asked, COLUMNS, CAMERAS)
        assert (batch["episode_id"][row], batch["sample_id"][row]) == (name, f"{name}:{step}")
        assert (batch["t_ns"][row], batch["task"][row]) == (wanted["t_ns"], wanted["task"])
        assert windows.tasks[batch["task_index"][row]] == wanted["task"]
        for column, offsets in {**asked.observations, **asked.actions}.items():
            check_one(batch, row, column, key(column), wanted, asked, is_single=isinstance(offsets, float))
    return batch


def check_one(
    batch: dict[str, Any], row: int, name: str, key: str, wanted: Any, asked: slow.Asked, *, is_single: bool
) -> None:
    where = (batch["sample_id"][row], name)
    got, age, valid = batch[key][row], batch[f"{key}_age_ns"][row], valid_of(batch, key)[row]
    if is_single:
        got, age, valid = got[None], age[None], valid[None]
    assert valid.tolist() == wanted[f"{name}_valid"], where
    assert age.tolist() == wanted[f"{name}_age_ns"], where
    assert got.shape == wanted[name].shape, where
    if name in CAMERAS:
        assert (got == wanted[name]).all(), where
    elif COLUMNS[name]["policy"] in ("nearest", "previous") and name not in asked.scaling:
        assert got.tobytes() == wanted[name].astype(np.float32).tobytes(), where
    else:
        np.testing.assert_allclose(got, wanted[name], rtol=2e-6, atol=2e-6, err_msg=str(where))


def valid_of(batch: dict[str, Any], key: str) -> Any:
    return batch[f"{key}_mask"] if f"{key}_mask" in batch else ~batch[f"{key}_is_pad"]


def test_every_rate_policy_and_kind_of_offset(duo: Dataset, episodes: dict[str, Recorded]) -> None:
    observations = {
        "state": [-0.1, -0.0137, 0.0],
        "force": steps(-2, 0, 1),
        "torso": 0.0,
        "head": [-0.2, 0.0],
        "left_wrist": steps(-1, 0),
        "right_wrist": 0.0,
    }
    actions = {"action": list(horizon(0.6, hz=50))}
    batch = check(duo.windows(observations, actions), episodes, slow.Asked(observations, actions))
    for key in ("state_mask", "force_mask", "head_mask", "left_wrist_mask", "right_wrist_mask", "action_is_pad"):
        assert 0 < batch[key].mean() < 1, f"{key} says the same everywhere: nothing was tested"
    assert batch["torso"].shape == (len(batch["task"]), 4)
    assert batch["right_wrist"].shape == (len(batch["task"]), 3, 48, 48)
    assert not batch["right_wrist"][[name in ("d1", "d3") for name in batch["episode_id"]]].any()


def test_a_tick_is_what_the_step_before_or_after_has_at_its_own_time(duo: Dataset) -> None:
    ticks = duo.windows({"state": steps(-1, 0, 1), "head": steps(1)})
    now = duo.windows({"state": 0.0, "head": 0.0})
    (run, *_) = duo.selection.runs
    middle = [(run.episode_id, step) for step in range(1, run.end - 1)]
    for away, k in ((-1, 0), (0, 1), (1, 2)):
        other = now.at([(name, step + away) for name, step in middle])
        assert (ticks.at(middle)["state"][:, k] == other["state"]).all()
        assert (ticks.at(middle)["state_mask"][:, k] == other["state_mask"]).all()
    after = now.at([(name, step + 1) for name, step in middle])
    assert (ticks.at(middle)["head"][:, 0] == after["head"]).all()


def test_pictures_of_one_size_cropped_letterboxed_and_stretched(duo: Dataset, episodes: dict[str, Recorded]) -> None:
    observations = {"head": [0.0], "left_wrist": [-0.1, 0.0], "right_wrist": [0.0]}
    fit = {"head": "crop", "left_wrist": "letterbox", "right_wrist": "stretch"}
    for size in ((24, 24), (30, 20), (60, 64)):
        windows = duo.windows(observations, image_size=size, fit=fit)  # type: ignore[arg-type]
        check(windows, episodes, slow.Asked(observations, fit=fit, image_size=size), every=25)


def test_one_camera_is_fitted_and_read_the_same_whoever_is_beside_it(duo: Dataset) -> None:
    both = duo.windows({"head": [0.0], "left_wrist": [0.0]}, image_size=(24, 24), fit={"head": "crop"})
    alone = duo.windows({"head": [0.0]}, image_size=(24, 24), fit="crop")
    some = np.arange(0, len(duo), 11)
    assert (both.batch(some)["head"] == alone.batch(some)["head"]).all()
    assert (both.batch(some)["head"] != duo.windows({"head": [0.0]}, image_size=(24, 24)).batch(some)["head"]).any()


SINGLE = {"state": 0.0, "head": 0.0, "left_wrist": 0.0, "right_wrist": 0.0}
POLICIES = {
    "ACT": slow.Asked(SINGLE, {"action": [k / 50 for k in range(100)]}),
    "Diffusion Policy": slow.Asked(
        {"state": steps(-1, 0), "head": steps(-1, 0)},
        {"action": steps(-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)},
        fit={"head": "crop"},
        image_size=(96, 96),
    ),
    "pi0": slow.Asked(
        SINGLE,
        {"action": [k / 50 for k in range(50)]},
        fit=dict.fromkeys(CAMERAS, "letterbox"),
        image_size=(224, 224),
        relative={"action": ("state", (2, 5))},
    ),
}
METHODS = {"ACT": "mean_std", "Diffusion Policy": "min_max", "pi0": "q01_q99"}


def code_below(heading: str) -> str:
    """The first code in docs/FEED.md below a heading."""
    text = (Path(__file__).parents[2] / "docs" / "FEED.md").read_text()
    return text.split(f"# {heading}\n")[1].split("```python\n")[1].split("```")[0]


def run(dataset: Dataset, *headings: str, **given: Any) -> dict[str, Any]:
    """What the page's code leaves behind."""
    names: dict[str, Any] = {"dataset": dataset, "horizon": horizon, "steps": steps, "RelativeTo": RelativeTo, "np": np}
    exec("\n".join(map(code_below, headings)), names | given, names)  # noqa: S102  our own documentation
    return names


def documented(policy: str, dataset: Dataset) -> Windows:
    """The windows of a policy as docs/FEED.md writes them."""
    windows: Windows = run(dataset, "Three policies", policy)["windows"]
    return windows


def test_the_first_windows_of_the_page(duo: Dataset) -> None:
    windows = run(duo, "Windows")["windows"]
    batch = windows.batch(np.array([3, 50]))
    assert batch["head"].shape == (2, 3, 3, 224, 224)
    assert batch["left_wrist"].shape == (2, 3, 224, 224)
    assert batch["action"].shape == (2, 16, 6)


def test_the_pages_normalizer_commands_a_robot(duo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    windows, state = documented("pi0", duo), np.arange(6, dtype=np.float32)
    middle = run(duo, "Normalized, and relative", windows=windows, state=state, policy=lambda _: np.zeros((50, 6)))
    still = np.array(windows.normalizer.changes["action"].scaling.middle)  # type: ignore[union-attr]
    wanted = still + state * [1, 1, 0, 1, 1, 0]
    np.testing.assert_allclose(middle["command"], np.tile(wanted, (50, 1)), rtol=1e-6)
    assert np.abs(middle["observed"] - state).max() > 0.1


def test_the_pages_transform_shifts_a_picture_the_same_way_each_time(duo: Dataset) -> None:
    shift = run(duo, "A transform of your own")["shift"]
    plain, shifted = duo.windows({"head": 0.0}), duo.windows({"head": 0.0}, transform=shift)
    one, other = (shifted.batch(np.array([9, 9, 9]), seeds=np.array([1, 2, 1], np.uint64))["head"] for _ in range(2))
    assert (one == other).all()
    assert (one[0] == one[2]).all()
    assert (one[0] != one[1]).any()
    assert (np.sort(one[0], axis=None) == np.sort(plain[9]["head"], axis=None)).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policys_windows_as_they_are_documented(duo: Dataset, episodes: dict[str, Recorded], policy: str) -> None:
    windows, asked = documented(policy, duo), POLICIES[policy]
    training = windows.dataset.selection.episode_ids
    assert 0 < len(training) < len(EPISODES)
    changes = windows.normalizer.changes
    assert set(changes) == {"state", "action"}
    scaling = {}
    for name, change in changes.items():
        assert change.scaling
        middle, width = scaling[name] = np.array(change.scaling.middle), np.array(change.scaling.width)
        values = [training_values(episodes[one], name, asked, METHODS[policy]) for one in training]
        check_scaling(METHODS[policy], np.concatenate(values), middle, width)
    key = (lambda name: LEROBOT[name]) if policy != "pi0" else str
    batch = check(windows, episodes, replace(asked, scaling=scaling), every=31, key=key)
    assert all(isinstance(task, str) for task in batch["task"])
    assert batch[key("action")].shape[1:] == (len(windows.spec.columns[1].offsets), 6)


LEROBOT = {"state": "observation.state", "action": "action"} | {name: f"observation.images.{name}" for name in CAMERAS}


def training_values(episode: Recorded, name: str, asked: slow.Asked, method: str) -> np.ndarray:
    """What statistics are of: an episode's readings; of relative columns and for quantiles what its windows hold."""
    if name not in asked.relative and method != "q01_q99":
        return readings(episode, name).astype(float)
    only = replace(asked, observations={}, actions={name: {**asked.observations, **asked.actions}[name]})
    found = [slow.sample(episode, step, only, COLUMNS, CAMERAS) for step in range(len(episode.steps))]
    return np.concatenate([one[name][one[f"{name}_valid"]] for one in found]).astype(float)


def check_scaling(method: str, values: np.ndarray, middle: np.ndarray, width: np.ndarray) -> None:
    if method == "mean_std":
        np.testing.assert_allclose(middle, values.mean(axis=0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(width, values.std(axis=0), rtol=1e-6)
        return
    shares = (0, 1) if method == "min_max" else (0.01, 0.99)
    low, high = (np.quantile(values, share, axis=0) for share in shares)
    np.testing.assert_allclose(middle - width, low, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(middle + width, high, rtol=1e-6, atol=1e-6)
