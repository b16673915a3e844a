"""The loader's batches under other people's data loaders: PyTorch's, and torchdata's that saves its state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch.utils.data import DataLoader

from dataset_catalog.errors import ResumeError
from dataset_catalog.loader import Loader
from dataset_catalog.windows import Windows

OPTIONS: Any = {"seed": 6, "remainder": "pad"}


@pytest.fixture(scope="module")
def windows(lake: Any) -> Windows:
    return lake.catalog.dataset("pick").windows({"state": [0.0]})  # type: ignore[no-any-return]


@pytest.fixture
def loader(windows: Windows) -> Loader:
    return windows.loader(24, **OPTIONS)


def ids(batches: Any) -> list[list[str]]:
    return [batch["sample_id"] for batch in batches]


def test_pytorchs_loader_gives_the_same_batches_in_the_same_order(loader: Loader) -> None:
    batches = loader.as_dataset()
    plain: DataLoader[Any] = DataLoader(batches, batch_size=None)
    assert len(plain) == len(loader)
    for epoch in range(2):
        batches.set_epoch(epoch)
        assert ids(plain) == ids(loader)


def test_torchdata_goes_on_after_every_step(loader: Loader, windows: Windows) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    whole = ids(loader)
    for step in range(len(whole)):
        first = stateful(loader.as_dataset(), batch_size=None)
        iterator = iter(first)
        seen = ids(next(iterator) for _ in range(step))
        state = json.loads(json.dumps(first.state_dict()))
        rest = stateful(windows.loader(24, **OPTIONS).as_dataset(), batch_size=None)
        rest.load_state_dict(state)
        assert seen + ids(rest) == whole


def test_torchdatas_workers_take_turns_and_as_many_go_on_but_no_other_number(loader: Loader) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    options: Any = {"batch_size": None, "multiprocessing_context": "forkserver", "persistent_workers": True}
    whole, next_epoch = ids(loader), ids(loader)
    batches = loader.as_dataset()
    first = stateful(batches, num_workers=2, **options)
    iterator = iter(first)
    seen = ids(next(iterator) for _ in range(3))
    state = first.state_dict()
    assert seen + ids(iterator) == whole
    batches.set_epoch(1)
    assert ids(first) == next_epoch, "workers that stay see the epoch change"
    again = stateful(loader.as_dataset(), num_workers=2, **options)
    again.load_state_dict(state)
    assert seen + ids(again) == whole
    fewer = stateful(loader.as_dataset(), num_workers=1, **options)
    fewer.load_state_dict(state)
    with pytest.raises(AssertionError):
        next(iter(fewer))


def test_a_state_of_other_batches_is_refused(loader: Loader, windows: Windows) -> None:
    state = loader.as_dataset().state_dict()
    with pytest.raises(ResumeError, match="another feed: batches of is 12, the state has 24"):
        windows.loader(12, **OPTIONS).as_dataset().load_state_dict(state)
    with pytest.raises(ResumeError, match="another feed: batches of is 24, the state has None"):
        loader.as_dataset().load_state_dict(loader.state_dict())
