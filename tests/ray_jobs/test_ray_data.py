"""A dataset as Ray Data: its steps and its samples, each once, read by Ray's workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dataset_catalog import Dataset, horizon, ray_data
from dataset_catalog.storage import Storage
from ray_jobs.settings import JobsSettings
from tests.dataset_catalog import conftest


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    storage = Storage.open(str(tmp_path_factory.mktemp("lake")))
    about: dict[str, Any] = {"task": "pour", "success": True, "skip": 0}
    episodes = [conftest.make_episode(f"e{n}", "h1", frames=20 + n, seed=n, **about) for n in range(4)]
    conftest.write_dataset(storage, "pick", [episodes])
    return conftest.Lake(storage, {}).catalog.dataset("pick").select(episodes=["e0", "e2", "e3"])


def test_its_steps_are_those_of_the_selection(jobs: JobsSettings, dataset: Dataset, monkeypatch: Any) -> None:
    monkeypatch.setattr(ray_data, "EPISODES_A_TASK", 2)
    rows = {(row["episode_id"], row["step"]): row for row in dataset.to_ray().take_all()}
    expected = dataset.steps().to_pylist()
    assert len(rows) == len(expected)
    for row in expected:
        found = rows[row["episode_id"], row["step"]]
        assert found.keys() == row.keys()
        assert found["t_ns"] == row["t_ns"]
        assert (found["state"] is None) == (row["state"] is None)
        assert row["state"] is None or np.array_equal(found["state"], row["state"])


def test_its_samples_are_those_of_the_windows(jobs: JobsSettings, dataset: Dataset, monkeypatch: Any) -> None:
    monkeypatch.setattr(ray_data, "SAMPLES_A_TASK", 32)
    windows = dataset.windows({"head": [0.0], "state": 0.0}, {"action": horizon(0.2, hz=10)}, image_size=(24, 32))
    rows = {row["sample_id"]: row for row in windows.to_ray().take_all()}
    whole = windows.batch(np.arange(len(windows)))
    assert sorted(rows) == sorted(whole["sample_id"])
    for number, sample_id in enumerate(whole["sample_id"]):
        for name in ("head", "state", "action", "action_is_pad", "task"):
            assert np.array_equal(rows[sample_id][name], whole[name][number]), name


def test_an_empty_selection_has_no_rows(jobs: JobsSettings, dataset: Dataset) -> None:
    assert dataset.select(where="false").to_ray().count() == 0
