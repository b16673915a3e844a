"""What a training loop iterates: batches in an order that is arithmetic, with a position that can be saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dataset_catalog.feed import Batch, Job, WorkerFeed, feed_by_threads
from dataset_catalog.fork_server import start_ahead
from dataset_catalog.options import LoaderOptions
from dataset_catalog.order import ORDER_VERSION, Order, sample_seeds
from dataset_catalog.resume import Fingerprint, Position, from_state, to_state
from dataset_catalog.samples import Samples
from dataset_catalog.sharing import Part

if TYPE_CHECKING:
    from dataset_catalog.worker_dataset import WorkerDataset


@dataclass(frozen=True, slots=True)
class Stats:
    """What the loop has had so far: `wait_s` is the time it stood waiting for a batch, the first one included."""

    windows: int = 0
    wait_s: float = 0.0
    elapsed_s: float = 0.0

    @property
    def windows_per_s(self) -> float:
        return self.windows / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def wait_share(self) -> float:
        return self.wait_s / self.elapsed_s if self.elapsed_s else 0.0

    def after(self, windows: int, *, wait_s: float, elapsed_s: float) -> Stats:
        return Stats(self.windows + windows, self.wait_s + wait_s, self.elapsed_s + elapsed_s)


class Loader:
    """Iterates one epoch of a rank's batches, dicts of tensors as `Windows` describes them; then the next epoch's.

    Under `remainder="pad"` a batch also has `weight` (B,) float32: 1 for a sample of the epoch, 0 for padding.

    Iterating starts at the beginning of the epoch, except right after `load_state_dict`: then at the position saved.
    """

    def __init__(
        self, samples: Samples, options: LoaderOptions, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.samples, self.options = samples, options
        if options.workers and options.start_method == "forkserver":
            start_ahead()
        self.order: Order = samples.order(options.shuffling)
        self.stats = Stats()
        self._clock, self._sharing = clock, options.sharing
        self._position = Position(0, 0)
        self._resume_at = 0

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        return self._sharing.count(self.order.n)

    def __repr__(self) -> str:
        o, pool = self.options, self.pool
        shuffled = f", blocks of {o.block} windows, {pool}" if pool else ""
        return (
            f"<Loader {self.order.n} samples an epoch in batches of {o.batch_size}, "
            f"rank {o.rank} of {o.world_size}{shuffled}>"
        )

    @property
    def pool(self) -> Pool | None:
        """What the block shuffle mixes at a time; None without it."""
        shuffling = self.options.shuffling
        if shuffling.mode != "blocks":
            return None
        one = self.samples.sample_bytes
        blocks = shuffling.pool(one)
        return Pool(blocks, blocks * shuffling.block, blocks * shuffling.block * one)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration gives, or goes on with: from 0."""
        return self._position.epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; a position just loaded in this very epoch stays."""
        if epoch != self.epoch:
            self._position, self._resume_at = Position(epoch, 0), 0

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.epoch, self._resume_at
        self._position, self._resume_at = Position(epoch, start), 0
        asked = delivered = self._clock()
        batches = self._make(epoch, start)
        try:
            for part in self.parts(start=start):
                batch, before = next(batches), delivered
                delivered = self._clock()
                self.stats = self.stats.after(
                    part.stop - part.start, wait_s=delivered - asked, elapsed_s=delivered - before
                )
                self._position = Position(epoch, part.delivered)
                yield batch
                asked = self._clock()
        finally:
            batches.close()
        self._position = Position(epoch + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the loop is, as JSON: see `dataset_catalog.resume`."""
        return to_state(self._position, self.fingerprint, seed=self.options.seed)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly after the samples that were delivered.

        Raises `ResumeError`, naming what differs, if the state is of another dataset, version, selection, window spec,
        mix or order.
        """
        self._position = from_state(state, self.fingerprint, seed=self.options.seed, samples=self.order.n)
        self._resume_at = self._position.delivered

    def as_dataset(self) -> WorkerDataset:
        """The same batches as an iterable dataset, for PyTorch's `DataLoader` and torchdata's `StatefulDataLoader`.

        Both with `batch_size=None`, and workers by forkserver or spawn.
        """
        from dataset_catalog.worker_dataset import WorkerDataset

        return WorkerDataset(self.samples, self.options)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """All that the sample at a position depends on but the seed, field by field."""
        shuffling = self.options.shuffling
        blocks: Fingerprint = {}
        if self.pool:  # its bytes, of which a mix gives each dataset a share, and what they come to
            blocks = {"block": str(shuffling.block), "pool": f"{self.pool.blocks} of {shuffling.pool_bytes} bytes"}
        order = {"order": str(ORDER_VERSION), "shuffle": shuffling.mode, "samples": str(self.order.n)}
        return self.samples.fingerprint() | order | blocks

    def parts(self, *, start: int = 0) -> Iterator[Part]:
        """This rank's part of each batch of an epoch, from position `start` on."""
        return self._sharing.parts(self.order.n, start=start)

    def job(self, part: Part, *, epoch: int) -> Job:
        """What there is to make for a part."""
        seeds = sample_seeds(part.positions, seed=self.options.seed, epoch=epoch)
        weight = part.weight if self.options.remainder == "pad" else None
        return Job(self.order.windows(epoch, part.positions), seeds, weight)

    def _make(self, epoch: int, start: int) -> Generator[Batch, None, None]:
        jobs = (self.job(part, epoch=epoch) for part in self.parts(start=start))
        if self.options.workers:
            return self._workers.feed(jobs)
        self.samples.warm()
        return feed_by_threads(self.samples, jobs, prefetch=self.options.prefetch, threads=self.options.threads)

    @cached_property
    def _workers(self) -> WorkerFeed:
        o = self.options
        return WorkerFeed(self.samples, workers=o.workers, prefetch=o.prefetch, start_method=o.start_method)


@dataclass(frozen=True, slots=True)
class Pool:
    """How many blocks and windows are mixed at a time, and the bytes that these windows take decoded."""

    blocks: int
    windows: int
    decoded_bytes: int

    def __str__(self) -> str:
        return f"{self.blocks} mixed at a time: {self.windows} windows, {self.decoded_bytes / 1e6:.1f} MB decoded"
