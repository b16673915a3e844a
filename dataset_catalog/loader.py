"""What a training loop iterates: batches in an order that is arithmetic, with a position that can be saved."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypedDict

from dataset_catalog.errors import ResumeError, WindowError
from dataset_catalog.feed import WorkerFeed, feed_by_threads
from dataset_catalog.order import Order, count_slices, slices
from dataset_catalog.windows import Batch, Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """`seed`, `shuffle` and `group` decide the order; the others only how it is cut and who makes the batches."""

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    group: int = 1
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    prefetch: int = 2
    drop_last: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "group", "world_size", "prefetch"):
            if getattr(self, name) < 1:
                raise WindowError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.workers < 0:
            raise WindowError(f"workers must be >= 0, got {self.workers}")
        if not 0 <= self.rank < self.world_size:
            raise WindowError(f"rank must be in [0, {self.world_size}), got {self.rank}")


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


class _Cut(TypedDict):
    batch_size: int
    rank: int
    world_size: int
    drop_last: bool


class Loader:
    """Iterates one epoch of a rank's batches, dicts of tensors as `Windows` describes them; then the next epoch's.

    Iterating starts at the beginning of the epoch, except right after `load_state_dict`: then at the position saved.
    """

    def __init__(
        self, windows: Windows, options: LoaderOptions, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.windows, self.options = windows, options
        self.stats = Stats()
        self._clock = clock
        self._order = Order(len(windows), seed=options.seed, shuffle=options.shuffle, group=options.group)
        self._epoch, self._delivered, self._resume_at = 0, 0, 0

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        return count_slices(self._order.n, **self._cut)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration gives, or goes on with: from 0."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; a position just loaded in this very epoch stays."""
        if epoch != self._epoch:
            self._epoch, self._delivered, self._resume_at = epoch, 0, 0

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self._epoch, self._resume_at
        self._delivered, self._resume_at = start, 0
        asked = delivered = self._clock()
        batches = self._make(epoch, start)
        try:
            for cut in slices(self._order.n, start=start, **self._cut):
                batch, before = next(batches), delivered
                delivered = self._clock()
                self.stats = self.stats.after(
                    cut.stop - cut.start, wait_s=delivered - asked, elapsed_s=delivered - before
                )
                self._delivered = cut.delivered
                yield batch
                asked = self._clock()
        finally:
            batches.close()
        self._epoch, self._delivered = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loop is: the epoch, how many of its samples all ranks together have been given, and of what feed.

        The same on every rank, and valid for any number of ranks, workers and any batch size.
        """
        return {"epoch": self._epoch, "delivered": self._delivered, "feed": self._feed_fields}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly after the samples that were delivered.

        Raises `ResumeError`, naming what differs, if the state is of another dataset, version, selection, window spec
        or order.
        """
        if not _is_state(state) or not 0 <= state["delivered"] <= self._order.n:
            raise ResumeError(f"this is no state of a loader over {self._order.n} windows: {str(state)[:200]}")
        for name, value in self._feed_fields.items():
            if state["feed"].get(name) != value:
                raise ResumeError(
                    f"this state is of another feed: {name} is {value}, the state has {state['feed'].get(name)}"
                )
        self._epoch, self._delivered = int(state["epoch"]), int(state["delivered"])
        self._resume_at = self._delivered

    def _make(self, epoch: int, start: int) -> Generator[Batch, None, None]:
        cuts = slices(self._order.n, start=start, **self._cut)
        jobs = (self._order.windows(epoch, cut.start, cut.stop) for cut in cuts)
        if self.options.workers:
            return self._workers.feed(jobs)
        self.windows.warm()
        return feed_by_threads(self.windows, jobs, prefetch=self.options.prefetch)

    @property
    def _cut(self) -> _Cut:
        o = self.options
        return {"batch_size": o.batch_size, "rank": o.rank, "world_size": o.world_size, "drop_last": o.drop_last}

    @cached_property
    def _workers(self) -> WorkerFeed:
        return WorkerFeed(self.windows, workers=self.options.workers, prefetch=self.options.prefetch)

    @cached_property
    def _feed_fields(self) -> dict[str, str]:
        """All that the sample at a position depends on, as text that is the same in every process."""
        dataset, options = self.windows.dataset, self.options
        return {
            "dataset": dataset.uri,
            "version": str(dataset.version),
            "selection": dataset.selection.digest(),
            "windows": json.dumps(asdict(self.windows.spec), sort_keys=True),
            "seed": str(options.seed),
            "shuffle": str(options.shuffle),
            "group": str(options.group),
        }


def _is_state(state: Any) -> bool:
    """Whether it has the form of what `state_dict` gives."""
    return (
        isinstance(state, dict)
        and all(type(state.get(name)) is int and state[name] >= 0 for name in ("epoch", "delivered"))
        and isinstance(state.get("feed"), dict)
    )
