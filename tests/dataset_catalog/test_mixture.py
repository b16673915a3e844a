"""A mix of datasets: the weights, each dataset's own values, padding where they differ, and resuming."""

from __future__ import annotations

import pickle
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from dataset_catalog import mix
from dataset_catalog.errors import ResumeError, WindowError
from dataset_catalog.mixture import Mix
from dataset_catalog.order import sample_seeds
from dataset_catalog.spec import horizon
from dataset_catalog.storage import Storage
from dataset_catalog.windows import Windows
from tests.dataset_catalog import conftest

WEIGHTS = (0.7, 0.3)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A dataset whose actions have four elements, and whose states two."""
    storage = Storage.open(str(tmp_path_factory.mktemp("wide")))
    own = {
        "action": conftest.COLUMNS["action"] | {"size": 4},
        "state": conftest.COLUMNS["state"] | {"size": 2, "names": None},
    }
    with mock.patch.dict(conftest.COLUMNS, own):
        episodes = [conftest.make_episode(f"w{n}", "h7", "fold", True, frames=20, skip=0, seed=5 + n) for n in range(2)]
        rng = np.random.default_rng(1)
        for one in episodes:
            for name, size in {"action": 4, "state": 2}.items():
                one.series[name] = conftest.walk(rng, one.start_ns, one.end_ns, 20 * conftest.MS, size)
        conftest.write_dataset(storage, "fold", [episodes])
    return conftest.Lake(storage, {one.episode_id: one for one in episodes}).catalog.dataset("fold")


@pytest.fixture(scope="module")
def sources(lake: Any, wide: Any) -> tuple[Windows, Windows]:
    """The second has no `torso`, and no camera."""
    actions = {"action": horizon(0.3, hz=10)}
    pick = lake.catalog.dataset("pick")
    return (
        pick.windows({"state": [-0.1, 0.0], "torso": [0.0], "head": [0.0]}, actions, image_size=(24, 32)),
        wide.windows({"state": [-0.1, 0.0]}, actions, normalize={"action": "mean_std"}),
    )


@pytest.fixture(scope="module")
def mixed(sources: tuple[Windows, Windows]) -> Mix:
    return mix(dict(zip(sources, WEIGHTS, strict=True)), seed=3)


def test_an_epoch_has_as_many_samples_as_the_datasets_windows_in_these_shares(
    mixed: Mix, sources: tuple[Windows, Windows]
) -> None:
    loader = mixed.loader(10, remainder="uneven")
    source = torch.cat([batch["source"] for batch in loader])
    assert len(source) == len(sources[0]) + len(sources[1]) == len(mixed)
    assert source.float().mean().item() == pytest.approx(WEIGHTS[1], abs=0.1)


def test_each_row_is_what_its_own_dataset_gives_and_the_rest_is_padding(
    mixed: Mix, sources: tuple[Windows, Windows]
) -> None:
    batch = next(iter(mixed.loader(24, seed=1)))
    assert set(batch["source"].tolist()) == {0, 1}
    assert batch["action"].shape == (24, 3, 4)
    for row, (which, sample_id) in enumerate(zip(batch["source"].tolist(), batch["sample_id"], strict=True)):
        own, name, step = sources[which], *sample_id.split(":")
        alone = own.at([(name, int(step))])
        for column in ("state", "action"):
            size = alone[column].shape[2]
            assert np.array_equal(batch[column][row, :, :size], alone[column][0])
            assert not batch[column][row, :, size:].any()
            assert batch[f"{column}_dim_mask"][row].tolist() == [k < size for k in range(batch[column].shape[2])]
        assert np.array_equal(batch["action_is_pad"][row], alone["action_is_pad"][0])
        if which == 0:
            assert np.array_equal(batch["head"][row], alone["head"][0])
            assert np.array_equal(batch["torso"][row], alone["torso"][0])
        else:
            assert not batch["head"][row].any()
            assert not batch["head_mask"][row].any()
            assert not batch["torso_mask"][row].any()
        assert batch["task"][row] == alone["task"][0]


def test_a_task_has_one_number_in_all_datasets(mixed: Mix) -> None:
    tasks = mixed.sources[0].tasks
    for batch in mixed.loader(16):
        assert [tasks[index] for index in batch["task_index"].tolist()] == batch["task"]


def test_it_is_the_same_in_another_process_and_goes_on_where_it_was(mixed: Mix) -> None:
    def seen(batches: Any) -> list[tuple[int, str]]:
        return [pair for b in batches for pair in zip(b["source"].tolist(), b["sample_id"], strict=True)]

    loader = mixed.loader(20, seed=4, remainder="uneven")
    whole = [seen(loader), seen(loader)]
    again = pickle.loads(pickle.dumps(mixed)).loader(20, seed=4, remainder="uneven")  # noqa: S301  our own
    iterator = iter(again)
    first = seen([next(iterator), next(iterator)])
    other = mixed.loader(20, seed=4, remainder="uneven")
    other.load_state_dict(again.state_dict())
    assert first + seen(other) == whole[0]
    assert seen(other) == whole[1]


def test_without_shuffling_every_window_comes_once(mixed: Mix, sources: tuple[Windows, Windows]) -> None:
    batches = list(mixed.loader(32, shuffle=False, remainder="uneven"))
    assert torch.cat([batch["source"] for batch in batches]).tolist() == [0] * len(sources[0]) + [1] * len(sources[1])
    places = [place for own in sources for place in own.dataset.selection.locate(np.arange(len(own)))]
    assert [name for b in batches for name in b["sample_id"]] == [f"{episode}:{step}" for episode, step in places]


def draw(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return sample | {"drawn": rng.integers(2**62)}


def test_a_samples_randomness_is_its_positions_whatever_its_dataset(sources: tuple[Windows, Windows]) -> None:
    drawing = [Windows(own.dataset, own.spec, frame_bytes=0, transform=draw) for own in sources]
    batch = next(iter(mix(dict.fromkeys(drawing, 1.0)).loader(24, seed=5)))
    assert set(batch["source"].tolist()) == {0, 1}
    seeds = sample_seeds(np.arange(24), seed=5, epoch=0).tolist()
    assert batch["drawn"].tolist() == [np.random.default_rng(seed).integers(2**62) for seed in seeds]


def test_a_state_of_other_weights_or_another_dataset_is_refused(mixed: Mix, sources: tuple[Windows, Windows]) -> None:
    state = mixed.loader(8).state_dict()
    with pytest.raises(ResumeError, match="another feed: mix is 5000,5000 of seed 3"):
        mix(dict.fromkeys(sources, 0.5), seed=3).loader(8).load_state_dict(state)
    fewer = Windows(sources[0].dataset.select(robots=["h1"]), sources[0].spec, frame_bytes=0)
    with pytest.raises(ResumeError, match="another feed: selection of 0 is"):
        mix({fewer: 0.7, sources[1]: 0.3}, seed=3).loader(8).load_state_dict(state)


def test_what_does_not_go_together_is_refused(sources: tuple[Windows, Windows], wide: Any) -> None:
    with pytest.raises(WindowError, match="weights of a mix must be positive"):
        mix({sources[0]: 0.0})
    with pytest.raises(WindowError, match="a mix takes datasets with windows"):
        mix({wide.select(where="false").windows({"state": [0.0]}): 1.0})
    with pytest.raises(WindowError, match="name their keys alike"):
        mix({sources[1]: 0.5, wide.windows({"state": [-0.1, 0.0]}, names="lerobot"): 0.5})
    with pytest.raises(WindowError, match="epoch_samples must be >= 1, got 0"):
        mix({sources[0]: 1.0}, epoch_samples=0)
