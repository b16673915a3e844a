"""The loader gives the order's samples, each once, on any number of ranks, and goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from dataset_catalog.errors import DecodeError, ResumeError, WindowError
from dataset_catalog.loader import Loader
from dataset_catalog.options import LoaderOptions
from dataset_catalog.spec import horizon
from dataset_catalog.windows import Windows


@pytest.fixture(scope="module")
def windows(lake: Any) -> Windows:
    dataset = lake.catalog.dataset("pick").select(episodes=["e0", "e2", "e4"])
    return dataset.windows(  # type: ignore[no-any-return]
        {"state": [-0.1, 0.0], "head": [-0.1, 0.0]}, {"action": horizon(0.4, hz=10)}, image_size=(24, 32)
    )


@pytest.fixture(scope="module")
def numbers(lake: Any) -> Windows:
    """Without pictures, so that many loaders can be tried."""
    return lake.catalog.dataset("pick").windows({"state": [0.0]})  # type: ignore[no-any-return]


def ids(batches: Any) -> list[str]:
    return [name for batch in batches for name in batch["sample_id"]]


def expected(windows: Windows, loader: Loader, epoch: int) -> list[str]:
    order = loader.order.windows(epoch, np.arange(len(windows)))
    return [f"{name}:{step}" for name, step in windows.dataset.selection.locate(order)]


def test_a_batch_is_tensors_with_the_windows_values(windows: Windows) -> None:
    loader = windows.loader(8, seed=5)
    batch = next(iter(loader))
    assert batch["head"].shape == (8, 2, 3, 24, 32)
    assert batch["head"].dtype == torch.uint8
    assert batch["state"].dtype == torch.float32
    assert batch["action_is_pad"].dtype == torch.bool
    assert batch["t_ns"].dtype == torch.int64
    slow = windows.batch(loader.order.windows(0, np.arange(8)))
    for name, value in slow.items():
        got = batch[name].numpy() if isinstance(value, np.ndarray) else batch[name]
        assert np.array_equal(got, value), name


def test_an_epoch_is_the_order_and_the_next_one_another(numbers: Windows) -> None:
    loader = numbers.loader(10, remainder="uneven")
    first, second = ids(loader), ids(loader)
    assert first == expected(numbers, loader, 0)
    assert second == expected(numbers, loader, 1)
    assert first != second
    loader.set_epoch(0)
    assert ids(loader) == first


def test_its_length_is_the_number_of_batches(numbers: Windows) -> None:
    for remainder in ("drop", "pad", "uneven"):
        for world_size in (1, 3):
            for rank in range(world_size):
                loader = numbers.loader(21, rank=rank, world_size=world_size, remainder=remainder)
                assert len(loader) == len(list(loader))


def test_evaluation_sees_the_same_batches_in_order_on_any_number_of_ranks(numbers: Windows) -> None:
    def batches(world_size: int) -> list[list[str]]:
        ranks = [
            numbers.loader(12, shuffle=False, remainder="pad", rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        steps = zip(*ranks, strict=True)
        return [
            [name for part in step for name, w in zip(part["sample_id"], part["weight"], strict=True) if w]
            for step in steps
        ]

    alone = batches(1)
    assert alone == batches(2) == batches(4)
    assert alone[0][:3] == ["e0:0", "e0:1", "e0:2"]
    assert [name for batch in alone for name in batch] == expected(numbers, numbers.loader(1, shuffle=False), 0)


def test_ranks_share_an_epoch(numbers: Windows) -> None:
    ranks = [ids(numbers.loader(24, rank=rank, world_size=4, remainder="uneven")) for rank in range(4)]
    assert sorted(name for rank in ranks for name in rank) == sorted(expected(numbers, numbers.loader(1), 0))


@pytest.mark.parametrize("shuffle", ["windows", "blocks"])
def test_restored_after_every_step_it_gives_exactly_the_rest(numbers: Windows, shuffle: Any) -> None:
    options: Any = {"seed": 2, "remainder": "uneven", "shuffle": shuffle, "block": 6, "pool_bytes": 500}
    loader = numbers.loader(20, **options)
    for epoch in (0, 3):
        loader.set_epoch(epoch)
        whole, seen = expected(numbers, loader, epoch), []
        for batch in loader:
            seen += batch["sample_id"]
            state = json.loads(json.dumps(loader.state_dict()))
            other = numbers.loader(20, **options)
            other.load_state_dict(state)
            assert seen + ids(other) == whole


def test_two_ranks_go_on_where_three_were_stopped(numbers: Windows) -> None:
    before = [numbers.loader(12, seed=9, rank=rank, world_size=3, remainder="uneven") for rank in range(3)]
    iterators = [iter(loader) for loader in before]
    seen = [name for _ in range(5) for iterator in iterators for name in next(iterator)["sample_id"]]
    states = [loader.state_dict() for loader in before]
    assert states[0] == states[1] == states[2]
    after = [numbers.loader(12, seed=9, rank=rank, world_size=2, remainder="uneven") for rank in range(2)]
    for loader in after:
        loader.load_state_dict(states[0])
        loader.set_epoch(0)  # as a loop does that counts its own epochs
    rest = [name for loader in after for name in ids(loader)]
    assert sorted(seen + rest) == sorted(expected(numbers, before[0], 0))
    assert seen == expected(numbers, before[0], 0)[: len(seen)]


def test_a_state_is_json_of_what_the_loop_has_been_given(numbers: Windows) -> None:
    loader = numbers.loader(10, seed=3, prefetch=8)
    next(iter(loader))
    state = json.loads(json.dumps(loader.state_dict()))
    fingerprint = state.pop("fingerprint")
    assert state == {"format": 1, "seed": 3, "epoch": 0, "delivered": 10}, "what was made ahead does not count"
    assert set(fingerprint) >= {"dataset", "version", "label version", "selection", "windows", "shuffle", "order"}


def test_a_state_after_the_epoch_is_the_next_epochs_beginning(numbers: Windows) -> None:
    loader = numbers.loader(50)
    list(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["delivered"]) == (1, 0)


def test_a_broken_off_epoch_begins_again_unless_a_state_is_loaded(numbers: Windows) -> None:
    loader = numbers.loader(10)
    first = next(iter(loader))["sample_id"]
    assert next(iter(loader))["sample_id"] == first


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"shuffle": False}, "shuffle"),
        ({"shuffle": "blocks", "block": 7}, "shuffle"),
        ({"version": 1}, "version"),
        ({"where": "success"}, "selection"),
        ({"observations": {"state": [-0.1]}}, "windows"),
    ],
)
def test_the_state_of_another_feed_is_refused_by_the_field_that_differs(lake: Any, change: Any, field: str) -> None:
    def loader(**spec: Any) -> Loader:
        dataset = lake.catalog.dataset("pick", spec.pop("version", 2)).select(
            episodes=["e0", "e1"], where=spec.pop("where", None)
        )
        return dataset.windows(spec.pop("observations", {"state": [0.0]})).loader(4, **spec)  # type: ignore[no-any-return]

    state = loader().state_dict()
    loader(prefetch=5, remainder="pad", rank=1, world_size=2).load_state_dict(state)
    with pytest.raises(ResumeError, match=f"another feed: {field} is"):
        loader(**change).load_state_dict(state)


@pytest.mark.parametrize(("change", "field"), [({"block": 5}, "block"), ({"pool_bytes": 10_000}, "pool")])
def test_the_state_of_another_block_shuffle_is_refused(numbers: Windows, change: Any, field: str) -> None:
    asked = {"shuffle": "blocks", "block": 4, "pool_bytes": 500}
    state = numbers.loader(4, **asked).state_dict()  # type: ignore[arg-type]
    with pytest.raises(ResumeError, match=f"another feed: {field} is"):
        numbers.loader(4, **asked | change).load_state_dict(state)


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"epoch": -1}, {"delivered": "7"}, {"fingerprint": None}, {"seed": None}]
)
def test_what_is_no_state_is_refused(numbers: Windows, change: Any) -> None:
    loader = numbers.loader(4)
    with pytest.raises(ResumeError, match="no state of a loader"):
        loader.load_state_dict(loader.state_dict() | change)


def test_a_state_that_is_behind_the_epochs_end_is_refused(numbers: Windows) -> None:
    loader = numbers.loader(4)
    with pytest.raises(ResumeError, match="the state says that 9999 were delivered"):
        loader.load_state_dict(loader.state_dict() | {"delivered": 9999})


def test_a_clock_tells_how_long_the_loop_waited(numbers: Windows) -> None:
    ticks: Iterator[int] = iter(range(1000))
    loader = Loader(numbers, LoaderOptions(batch_size=50), clock=lambda: float(next(ticks)))
    batches = len(list(loader))
    assert loader.stats.windows == 50 * batches
    assert loader.stats.wait_s == batches
    assert loader.stats.elapsed_s == 2 * batches - 1
    assert loader.stats.wait_share == batches / (2 * batches - 1)
    assert loader.stats.windows_per_s == 50 * batches / (2 * batches - 1)


def test_an_error_while_making_a_batch_reaches_the_loop(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise DecodeError("h264 gave 3 frames from 10 packets, expected 4")

    monkeypatch.setattr("dataset_catalog.decoders.decode_with", broken)
    fresh = Windows(windows.dataset, windows.spec, frame_bytes=0)
    with pytest.raises(DecodeError, match="gave 3 frames"):
        list(fresh.loader(4))


def test_broken_off_it_leaves_no_thread_behind(numbers: Windows) -> None:
    import threading

    before = threading.active_count()
    for batch in numbers.loader(4, prefetch=4):
        assert len(batch["task"]) == 4
        break
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"batch_size": 1, "prefetch": 0}, "prefetch must be >= 1"),
        ({"batch_size": 1, "workers": -1}, "workers must be >= 0, got -1"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
        ({"batch_size": 3, "world_size": 2}, "world_size must divide it: got 3 for 2"),
        ({"batch_size": 1, "remainder": "keep"}, "remainder must be one of"),
        ({"batch_size": 1, "shuffle": "groups"}, "shuffle must be one of windows, blocks, none, got 'groups'"),
        ({"batch_size": 1, "block": 0}, "block must be >= 1, got 0"),
        ({"batch_size": 1, "seed": "x"}, "seed must be an integer, got 'x'"),
        ({"batch_size": 1, "seed": float("nan")}, "seed must be an integer, got nan"),
        ({"batch_size": 1, "workers": 1.5}, "workers must be an integer, got 1.5"),
        ({"batch_size": "4"}, "batch_size must be an integer, got '4'"),
        ({"batch_size": 1, "threads": 0}, "threads must be >= 1, got 0"),
        ({"batch_size": 1, "start_method": "fork"}, "start_method must be forkserver or spawn, got 'fork'"),
    ],
)
def test_options_are_checked_when_built(options: Any, sentence: str) -> None:
    with pytest.raises(WindowError, match=sentence):
        LoaderOptions(**options)


@pytest.mark.parametrize("shuffle", ["windows", "blocks", "none"])
def test_an_empty_selection_gives_no_batches(lake: Any, shuffle: Any) -> None:
    loader = (
        lake.catalog.dataset("pick")
        .select(where="false")
        .windows({"state": [0.0]})
        .loader(4, remainder="pad", shuffle=shuffle)
    )
    assert list(loader) == []
    assert len(loader) == 0
