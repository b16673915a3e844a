"""Memory that comes again, and never while somebody still looks at it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dataset_catalog.batch_memory import FREE, BatchMemory


def at(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_comes_again_when_nobody_holds_it() -> None:
    memory = BatchMemory()
    array = memory.empty((2, 3, 5))
    assert (array.shape, array.dtype, array.flags.c_contiguous, array.flags.writeable) == (
        (2, 3, 5),
        np.uint8,
        True,
        True,
    )
    where = at(array)
    assert at(memory.empty((2, 3, 5))) != where
    del array
    assert at(memory.empty((5, 6))) == where


def test_whoever_holds_a_part_of_it_keeps_it() -> None:
    holders: list[Any] = [
        lambda array: array[1],
        lambda array: array[1, 2, 0:3],
        lambda array: array.reshape(-1)[4:],
        lambda array: array.transpose(2, 0, 1),
        torch.from_numpy,
        lambda array: torch.from_numpy(array)[0, 1],
        lambda array: torch.from_numpy(array[1]).permute(1, 0),
        lambda array: memoryview(array)[1:],
    ]
    for hold in holders:
        memory = BatchMemory()
        array = memory.empty((2, 3, 5))
        array[:] = 7
        where, held = at(array), hold(array)
        del array
        other = memory.empty((2, 3, 5))
        other[:] = 9
        assert at(other) != where
        assert (np.asarray(held) == 7).all()
        del held
        assert at(memory.empty((2, 3, 5))) == where


def test_only_a_few_blocks_wait_to_come_again() -> None:
    memory = BatchMemory()
    held = [memory.empty((10, 10)) for _ in range(20)]
    held.clear()
    assert sum(map(len, memory._free.values())) == FREE


def test_batches_that_are_held_stay_as_they_are(lake: Any) -> None:
    windows = lake.catalog.dataset("pick").windows({"head": [-0.05, 0.0]})
    loader = windows.loader(8, seed=1)
    held = list(loader)
    copies = [batch["head"].clone() for batch in held]
    for batch, again in zip(list(windows.loader(8, seed=1)), copies, strict=True):
        assert (batch["head"] == again).all()
    assert all((batch["head"] == copy).all() for batch, copy in zip(held, copies, strict=True))
