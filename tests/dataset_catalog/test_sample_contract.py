"""What is in a sample and under which name: LeRobot's names, tasks, the user's transform, and padding for a mix."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dataset_catalog.dataset import Dataset
from dataset_catalog.errors import WindowError
from dataset_catalog.layout import Entry, entries, together
from dataset_catalog.names import check_keys, lerobot_name
from dataset_catalog.spec import WindowSpec, horizon, steps
from dataset_catalog.windows import Windows

OBSERVATIONS = {"state": [-0.1, 0.0], "head": 0.0}
ACTIONS = {"action": horizon(0.4, hz=10)}
SOME = np.array([0, 41, 7, 80, 41])


@pytest.fixture(scope="module")
def pick(lake: Any) -> Dataset:
    return lake.catalog.dataset("pick")  # type: ignore[no-any-return]


def test_lerobots_names_are_those_its_policies_read(pick: Dataset) -> None:
    ours = pick.windows(OBSERVATIONS, ACTIONS).batch(SOME)
    batch = pick.windows(OBSERVATIONS, ACTIONS, names="lerobot").batch(SOME)
    assert set(batch) == {
        *("observation.state", "observation.state_is_pad", "observation.state_age_ns"),
        *("observation.images.head", "observation.images.head_is_pad", "observation.images.head_age_ns"),
        *("action", "action_is_pad", "action_age_ns"),
        *("task", "task_index", "episode_id", "t_ns", "sample_id"),
    }
    assert (batch["observation.state"] == ours["state"]).all()
    assert (batch["observation.state_is_pad"] == ~ours["state_mask"]).all()
    assert (batch["observation.images.head"] == ours["head"]).all()
    assert (batch["observation.images.head_is_pad"] == ~ours["head_mask"]).all()
    assert (batch["action_is_pad"] == ours["action_is_pad"]).all()
    assert batch["task"] == ours["task"]


def test_a_name_that_is_lerobots_already_is_kept() -> None:
    for name, kind, key in (
        ("state", "observation", "observation.state"),
        ("observation.state", "observation", "observation.state"),
        ("observation.images.head", "camera", "observation.images.head"),
        ("action", "action", "action"),
        ("gripper", "action", "action.gripper"),
        ("action.gripper", "action", "action.gripper"),
    ):
        assert lerobot_name(Entry(name, kind, 1, (1,))) == key  # type: ignore[arg-type]


def test_two_things_never_share_a_key(pick: Dataset) -> None:
    def spec(*names: str, naming: Any = "fleetfeed") -> WindowSpec:
        column = pick.windows({"state": [0.0]}).spec.columns[0]
        return WindowSpec(tuple(replace(column, name=name) for name in names), (), naming=naming)

    check_keys(spec("x", "y_mask", "observation.x"))
    for names, twice in ((("x", "x_mask"), "x_mask"), (("x", "x_age_ns"), "x_age_ns"), (("task",), "task")):
        with pytest.raises(WindowError, match=rf"keys \[.*'{twice}'.*\] twice"):
            check_keys(spec(*names))
    with pytest.raises(WindowError, match=r"'observation\.x'"):
        check_keys(spec("x", "observation.x", naming="lerobot"))


def test_a_single_offset_has_no_axis(pick: Dataset) -> None:
    one, several = pick.windows({"state": 0.0, "head": 0}), pick.windows({"state": [0.0], "head": [0]})
    for key in ("state", "state_mask", "state_age_ns", "head", "head_mask", "head_age_ns"):
        assert (one.batch(SOME)[key] == several.batch(SOME)[key][:, 0]).all()


def test_a_task_has_the_same_index_in_every_selection(pick: Dataset, lake: Any) -> None:
    windows = pick.windows({"state": 0.0})
    assert windows.tasks == ("", "pour water", "wave")
    for part in (pick, pick.select(tasks=["wave"]), *pick.split(train=0.5, val=0.5).values()):
        windows = part.windows({"state": 0.0})
        batch = windows.batch(np.arange(len(windows)))
        assert [windows.tasks[index] for index in batch["task_index"]] == batch["task"]
        assert batch["task"] == [lake.episodes[name].task or "" for name in batch["episode_id"]]


def jitter(sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Module level, so that it can be pickled."""
    sample["head"] = sample["head"][:, ::2, ::2]
    noise = np.float32(generator.normal(size=sample["state"].shape))
    return {**sample, "state": sample["state"] + noise, "drawn": generator.random(), "words": sample["task"].split()}


def test_a_transform_sees_the_whole_sample_and_draws_by_the_samples_seed(pick: Dataset) -> None:
    plain, windows = pick.windows(OBSERVATIONS, ACTIONS), pick.windows(OBSERVATIONS, ACTIONS, transform=jitter)
    seeds = np.array([5, 6, 7, 8, 2**63 + 5], np.uint64)
    batch, before = windows.batch(SOME, seeds=seeds), plain.batch(SOME)
    for row, seed in enumerate(seeds):
        wanted = jitter({name: value[row] for name, value in before.items()}, np.random.default_rng(int(seed)))
        assert wanted.keys() == batch.keys()
        for name, value in wanted.items():
            assert np.array_equal(batch[name][row], value), name
    assert batch["head"].shape == (5, 3, 24, 32)
    assert batch["words"][0] == ["pour", "water"]
    assert len({*batch["drawn"].tolist()}) == 5
    assert windows.spec.transform == f"{__name__}.jitter"
    copied = pickle.loads(pickle.dumps(windows))  # noqa: S301  as a worker process gets it
    again = copied.batch(SOME[3:], seeds=seeds[3:])
    assert (again["state"] == batch["state"][3:]).all()
    with ThreadPoolExecutor(2) as pool:
        assert (windows.batch(SOME, seeds=seeds, pool=pool)["state"] == batch["state"]).all()


def test_without_a_loader_a_windows_number_is_its_seed(pick: Dataset) -> None:
    windows = pick.windows(OBSERVATIONS, transform=jitter)
    batch = windows.batch(SOME)
    assert (batch["state"][1] == batch["state"][4]).all(), "41 comes twice"
    assert (windows[41]["state"] == batch["state"][1]).all()
    assert (windows.batch(SOME, seeds=np.array([41, 41, 41, 41, 41], np.uint64))["drawn"] == batch["drawn"][1]).all()


def test_a_transforms_mistakes_are_told_with_the_sample(pick: Dataset) -> None:
    def grows(sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        return {"x": np.zeros(len(sample["sample_id"].split(":")[1]))}

    def forgets(sample: dict[str, Any], generator: np.random.Generator) -> Any:
        return sample if sample["sample_id"] == "e0:0" else {"task": sample["task"]}

    def nothing(sample: dict[str, Any], generator: np.random.Generator) -> Any:
        del sample["task"]

    def fails(sample: dict[str, Any], generator: np.random.Generator) -> Any:
        raise RuntimeError("out of paint")

    for transform, sentence in (
        (grows, r"x is float64 \(1,\), float64 \(2,\) after the transform"),
        (forgets, "same keys for every sample, got .*'state'.*, \\['task'\\]"),
        (nothing, "same keys for every sample, got NoneType"),
    ):
        with pytest.raises(WindowError, match=sentence):
            pick.windows({"state": 0.0}, transform=transform).batch(np.array([0, 12]))
    with pytest.raises(RuntimeError, match="out of paint") as caught:
        pick.windows({"state": 0.0}, transform=fails).batch(np.array([12]))
    assert caught.value.__notes__ == ["in the transform of sample e0:12"]


def test_what_a_transform_makes_of_tensors_comes_as_arrays(pick: Dataset) -> None:
    import torch

    def tensors(sample: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        return {"state": torch.from_numpy(sample["state"]) * 2, "n": 3}

    batch = pick.windows({"state": 0.0}, transform=tensors).batch(SOME)
    assert isinstance(batch["state"], np.ndarray)
    assert (batch["state"] == 2 * pick.windows({"state": 0.0}).batch(SOME)["state"]).all()
    assert batch["n"].tolist() == [3] * 5


def test_padding_adds_masked_keys_and_elements_of_zero(pick: Dataset) -> None:
    full = pick.windows({"state": [-0.1, 0.0], "head": 0.0, "torso": 0.0}, ACTIONS, names="lerobot")
    bare = pick.windows({"state": [-0.1, 0.0]}, {}, names="lerobot")
    wide = tuple(replace(entry, shape=(5,)) if entry.name == "state" else entry for entry in entries(full.spec))
    padded = Windows(pick, replace(bare.spec, padded=wide), frame_bytes=0)
    batch, own = padded.batch(SOME), bare.batch(SOME)
    assert set(full.batch(SOME)) | {
        f"{name}_dim_mask" for name in ("observation.state", "observation.torso", "action")
    } == set(batch)
    assert (batch["observation.state"][..., :3] == own["observation.state"]).all()
    assert not batch["observation.state"][..., 3:].any()
    assert batch["observation.state_dim_mask"].tolist() == [[True] * 3 + [False] * 2] * 5
    assert (batch["observation.state_is_pad"] == own["observation.state_is_pad"]).all()
    assert (batch["action"].shape, batch["observation.images.head"].shape) == ((5, 4, 2), (5, 3, 48, 64))
    for name in ("action", "observation.images.head", "observation.torso"):
        assert not batch[name].any()
        assert batch[f"{name}_is_pad"].all()
        assert f"{name}_dim_mask" not in batch or not batch[f"{name}_dim_mask"].any()


def test_what_cannot_be_padded_is_refused_by_name(pick: Dataset) -> None:
    state = pick.windows({"state": [0.0]})
    with pytest.raises(WindowError, match=r"state is .* in one dataset and .* in another"):
        together([state.spec, pick.windows({"state": [-0.1, 0.0]}).spec])
    with pytest.raises(WindowError, match="state is "):
        together([state.spec, pick.windows({"state": 0.0}).spec])
    with pytest.raises(WindowError, match="state is "):
        together([state.spec, pick.windows({}, {"state": [0.0]}).spec])
    with pytest.raises(WindowError, match="head is "):
        together([pick.windows({"head": 0.0}, image_size=size).spec for size in ((24, 24), (24, 32))])
    with pytest.raises(WindowError, match="have the same names"):
        together([state.spec, pick.windows({"state": [0.0]}, names="lerobot").spec])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"fit": "zoom"}, "fit is one of stretch, crop, letterbox"),
        ({"fit": {"heed": "crop"}}, r"for all cameras or each of \['head'\]"),
        ({"names": "hf"}, "names is one of fleetfeed, lerobot, got 'hf'"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(pick: Dataset, arguments: Any, sentence: str) -> None:
    with pytest.raises(WindowError, match=sentence):
        pick.windows({"head": 0.0}, **arguments)


def test_steps_are_integers() -> None:
    assert steps(-1, 0).ticks == (-1, 0)
    for wrong in ((), (0.5,), (True,)):
        with pytest.raises(WindowError, match="at least one integer"):
            steps(*wrong)  # type: ignore[arg-type]
