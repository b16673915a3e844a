"""Batches made ahead of the training loop, in order: by threads of this process, or by PyTorch's worker processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from dataset_catalog.windows import Batch, Windows

Numbers = NDArray[np.int64]  # the windows of one batch


def feed_by_threads(windows: Windows, jobs: Iterable[Numbers], *, prefetch: int) -> Generator[Batch, None, None]:
    """Batches of tensors, `prefetch` of them in the making, their GOPs decoded on every CPU that we may use.

    libav and Lance work without the interpreter lock; what holds it is a few percent of a batch of pictures.
    """
    waiting = iter(jobs)
    with ThreadPoolExecutor(_cpus()) as decoders, ThreadPoolExecutor(prefetch) as makers:

        def start(numbers: Numbers) -> Future[Batch]:
            return makers.submit(lambda: to_tensors(windows.batch(numbers, pool=decoders)))

        ahead = deque(start(numbers) for numbers in islice(waiting, prefetch))
        try:
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(start(numbers) for numbers in islice(waiting, 1))
                yield batch
        finally:
            for future in ahead:
                future.cancel()


class WorkerFeed:
    """Batches of tensors from `workers` processes. They start at the first iteration and stay for the next ones.

    They are started by forkserver: Lance has threads, which a fork would not survive. As always with it, a script
    keeps what it does under `if __name__ == "__main__"`.
    """

    def __init__(self, windows: Windows, *, workers: int, prefetch: int) -> None:
        self._jobs = _Jobs()
        self._loader: DataLoader[Batch] = DataLoader(
            _Worker(windows),
            batch_size=None,
            sampler=self._jobs,
            num_workers=workers,
            prefetch_factor=prefetch,
            persistent_workers=True,
            multiprocessing_context="forkserver",
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else each epoch takes a number from the training run's own
        )

    def feed(self, jobs: Iterable[Numbers]) -> Generator[Batch, None, None]:
        self._jobs.now = jobs
        yield from self._loader


def to_tensors(batch: Batch) -> Batch:
    """Arrays as tensors of the same memory, lists as they are."""
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()}


class _Jobs(Sampler[Numbers]):
    """What DataLoader takes for a sampler: the batches to make, set before each iteration."""

    def __init__(self) -> None:
        self.now: Iterable[Numbers] = ()

    def __iter__(self) -> Iterator[Numbers]:
        return iter(self.now)


class _Worker(Dataset[Batch]):
    """A worker's own handle on the dataset; it pickles as the address, so each process opens the tables itself."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def __getitem__(self, numbers: Any) -> Batch:
        self._windows.warm()
        return to_tensors(self._windows.batch(numbers))


def _as_it_is(batch: Any) -> Any:
    return batch


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
