"""A worker that is killed is an error that says how to go on, and nothing is lost."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from dataset_catalog.errors import WorkerError


def test_a_worker_that_is_killed_in_mid_epoch_is_told_as_such_and_the_state_goes_on(lake: Any) -> None:
    windows = lake.catalog.dataset("pick").windows({"state": [0.0]})
    loader = windows.loader(4, seed=3, workers=1, prefetch=1)
    batches = iter(loader)
    next(batches)
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(WorkerError, match=r"ended in mid-epoch.*make the loader anew, with its state"):
        for _ in batches:
            pass
    again = windows.loader(4, seed=3)
    again.load_state_dict(loader.state_dict())
    whole = [sample for batch in windows.loader(4, seed=3) for sample in batch["sample_id"]]
    rest = [sample for batch in again for sample in batch["sample_id"]]
    assert rest == whole[loader.state_dict()["delivered"] :]
