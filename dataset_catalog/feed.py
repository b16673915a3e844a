"""Batches made ahead of the training loop, in order: by threads of this process, or by PyTorch's worker processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from dataset_catalog.errors import WorkerError
from dataset_catalog.order import Ints
from dataset_catalog.samples import Samples
from dataset_catalog.worker_checks import check_can_travel, check_guard

Batch = dict[str, Any]


class Job(NamedTuple):
    """A batch to make: the windows' numbers (m,), what each one's randomness starts from (m,), and where there is
    padding, what each counts (m,)."""

    windows: Ints
    seeds: NDArray[np.uint64]
    weight: NDArray[np.float32] | None = None


def feed_by_threads(
    samples: Samples, jobs: Iterable[Job], *, prefetch: int, threads: int | None = None
) -> Generator[Batch, None, None]:
    """Batches of tensors, `prefetch` of them in the making, their GOPs decoded by `threads` threads: as many as we have
    CPUs, if nothing is said.

    libav and Lance work without the interpreter lock; what holds it is a few percent of a batch of pictures.
    """
    waiting = iter(jobs)
    with ThreadPoolExecutor(threads or _cpus()) as decoders, ThreadPoolExecutor(prefetch) as makers:

        def start(job: Job) -> Future[Batch]:
            return makers.submit(lambda: make(samples, job, pool=decoders))

        ahead = deque(start(job) for job in islice(waiting, prefetch))
        try:
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(start(job) for job in islice(waiting, 1))
                yield batch
        finally:
            for future in ahead:
                future.cancel()


class WorkerFeed:
    """Batches of tensors from `workers` processes. They start at the first iteration and stay for the next ones.

    Raises `WorkerError` where they could not start: for what does not pickle, for what a notebook defines, and for a
    script without `if __name__ == "__main__":`.
    """

    def __init__(self, samples: Samples, *, workers: int, prefetch: int, start_method: str) -> None:
        check_can_travel(samples)
        self._jobs = _Jobs()
        self._has_begun = False
        self._loader: DataLoader[Batch] = DataLoader(
            _Worker(samples),
            batch_size=None,
            sampler=self._jobs,
            num_workers=workers,
            prefetch_factor=prefetch,
            persistent_workers=True,
            multiprocessing_context=start_method,
            collate_fn=_as_it_is,
            worker_init_fn=_begin,
            generator=torch.Generator(),  # else each epoch takes a number from the training run's own
        )

    def feed(self, jobs: Iterable[Job]) -> Generator[Batch, None, None]:
        if not self._has_begun:
            check_guard()
        self._jobs.now = jobs
        try:
            for batch in self._loader:
                self._has_begun = True
                yield batch
        except (RuntimeError, BrokenPipeError) as error:  # what DataLoader raises for a worker that is gone
            if not (isinstance(error, BrokenPipeError) or "exited unexpectedly" in str(error)):
                raise
            when = "in mid-epoch, killed or out of memory; make the loader anew, with its state"
            if not self._has_begun:
                when = "before its first batch; what it wrote to standard error says why"
            raise WorkerError(f"a worker process ended {when}") from error


def make(samples: Samples, job: Job, *, pool: ThreadPoolExecutor | None = None) -> Batch:
    """One batch of tensors."""
    batch = samples.batch(job.windows, seeds=job.seeds, pool=pool)
    return to_tensors(batch if job.weight is None else batch | {"weight": job.weight})


def to_tensors(batch: Batch) -> Batch:
    """Arrays as tensors of the same memory, lists as they are."""
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()}


class _Jobs(Sampler[Job]):
    """What DataLoader takes for a sampler: the batches to make, set before each iteration."""

    def __init__(self) -> None:
        self.now: Iterable[Job] = ()

    def __iter__(self) -> Iterator[Job]:
        return iter(self.now)


class _Worker(Dataset[Batch]):
    """A worker's own handle on the dataset; it pickles as the address, so each process opens the tables itself."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, job: Any) -> Batch:
        self._samples.warm()
        return make(self._samples, job)


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(_: int) -> None:
    end_with_parent()


@cache
def end_with_parent() -> None:
    """In a worker, once: end it when the training process is gone, however it went.

    PyTorch's own watch looks whether the process that started this one lives. Under forkserver that is the fork server,
    which lives as long as its children do: after a SIGKILL the two would wait for each other for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_exit, args=(parent.sentinel,), daemon=True).start()


def _wait_and_exit(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
