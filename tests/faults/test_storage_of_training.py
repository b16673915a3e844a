"""S3 fails while a network trains: the batches are the same, or the run ends with an error that names the row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_catalog import gop_bytes
from dataset_catalog.catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.errors import StorageError
from dataset_catalog.settings import FeedSettings
from dataset_catalog.storage import Storage
from tests.dataset_catalog.conftest import make_episode, write_dataset
from tests.faults.storage_proxy import (
    FORBIDDEN,
    INTERNAL_ERROR,
    SLOW_DOWN,
    Asked,
    Fault,
    LoseAnswer,
    StorageProxy,
)
from tests.ingest_serve.conftest import storage as storage

SPEC: Any = {"head": [-0.1, 0.0], "state": [0.0]}


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[StorageProxy]:
    with StorageProxy(s3_endpoint) as one:
        yield one


@pytest.fixture
def on_disk(tmp_path: Path) -> Dataset:
    local = Storage.open(str(tmp_path / "lake"))
    episodes = [make_episode(f"e{n}", "h1", "wave", True, frames=60, skip=0, seed=n) for n in range(3)]
    write_dataset(local, "pick", [episodes])
    return Catalog(local).dataset("pick")


@pytest.fixture
def far(on_disk: Dataset, storage: Storage, proxy: StorageProxy, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The same dataset in S3, read through the proxy, with nothing kept on the node's disk."""
    folder = on_disk.storage.path("datasets")
    storage.filesystem().put(folder, storage.path("datasets"), recursive=True)
    monkeypatch.setenv("FLEETFEED_FEED_CACHE_BYTES", "0")
    monkeypatch.setattr(gop_bytes, "FIRST_WAIT_S", 0.01)
    behind = replace(storage, settings=storage.settings.model_copy(update={"endpoint_url": proxy.url}))
    return Catalog(behind).dataset("pick")


def of_video(dataset: Dataset, fault: Fault, *, when: Callable[[int], bool]) -> Callable[[Asked], Fault | None]:
    """The fault, for reads of the table's data files; `when` takes how many of them came before."""
    count = iter(range(10**9))

    def draw(asked: Asked) -> Fault | None:
        is_meant = asked.method == "GET" and "/gops.lance/data/" in asked.key
        return fault if is_meant and when(next(count)) else None

    return draw


@pytest.mark.parametrize("fault", [SLOW_DOWN, LoseAnswer()], ids=["503", "cut"])
def test_a_store_that_fails_now_and_then_in_mid_epoch_changes_no_batch(
    far: Dataset, on_disk: Dataset, proxy: StorageProxy, fault: Fault
) -> None:
    options: Any = {"seed": 3, "prefetch": 1, "remainder": "uneven"}
    batches = iter(far.windows(SPEC, frame_bytes=0).loader(24, **options))
    truth = iter(on_disk.windows(SPEC, frame_bytes=0).loader(24, **options))
    first = next(batches)
    assert (first["head"] == next(truth)["head"]).all()
    proxy.schedule = of_video(far, fault, when=lambda nth: nth % 3 != 2)
    for found, expected in zip(batches, truth, strict=True):
        assert found["sample_id"] == expected["sample_id"]
        assert (found["head"] == expected["head"]).all()
        assert (found["state"] == expected["state"]).all()
    assert sum(1 for seen in proxy.seen if seen.fault) >= 3


def test_a_store_that_refuses_ends_the_run_with_the_row(far: Dataset, proxy: StorageProxy) -> None:
    windows = far.windows(SPEC, frame_bytes=0)
    windows.batch(np.arange(4))
    proxy.schedule = of_video(far, FORBIDDEN, when=lambda nth: True)
    with pytest.raises(StorageError, match=r"cannot read the video of GOP row \d+ \(head of episode e\d\)"):
        windows.batch(np.arange(8))
    proxy.schedule = lambda _: None
    assert windows.batch(np.arange(8))["head_mask"].any()


def test_what_the_node_keeps_needs_no_store(
    far: Dataset, on_disk: Dataset, proxy: StorageProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETFEED_FEED_CACHE_BYTES", str(1 << 20))
    monkeypatch.setenv("FLEETFEED_FEED_CACHE_DIR", str(tmp_path / "cache"))
    assert FeedSettings().cache_bytes == 1 << 20
    numbers = np.arange(0, len(far), 3)
    truth = on_disk.windows(SPEC, frame_bytes=0).batch(numbers)["head"]
    windows = far.windows(SPEC, frame_bytes=0)
    assert (windows.batch(numbers)["head"] == truth).all()
    proxy.schedule = of_video(far, INTERNAL_ERROR, when=lambda nth: True)
    assert (windows.batch(numbers)["head"] == truth).all()
    other = far.windows(SPEC, frame_bytes=0)
    proxy.schedule = lambda _: None
    other.warm()
    proxy.schedule = of_video(far, INTERNAL_ERROR, when=lambda nth: True)
    assert (other.batch(numbers)["head"] == truth).all()
