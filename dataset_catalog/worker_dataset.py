"""A loader's batches as an iterable dataset, for those who bring PyTorch's `DataLoader` or torchdata's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from dataset_catalog.feed import Batch, end_with_parent, make
from dataset_catalog.loader import Loader
from dataset_catalog.options import LoaderOptions
from dataset_catalog.resume import Fingerprint, Position, from_state, to_state
from dataset_catalog.samples import Samples


class WorkerDataset(IterableDataset[Batch]):
    """Of w workers each makes every w-th batch of this rank, so that they come in the loader's order.

    `set_epoch` before each epoch, as for PyTorch's `DistributedSampler`. A worker's state is good for the same number
    of workers only, which torchdata's `StatefulDataLoader` asserts; `Loader` itself goes on with any.
    """

    def __init__(self, samples: Samples, options: LoaderOptions) -> None:
        self._samples, self._options = samples, replace(options, workers=0)  # whoever iterates it has their own
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # workers that stay see it change
        self._made, self._resume_at = 0, Position(0, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_own")}

    def __len__(self) -> int:
        return len(self._own_loader)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration; a position just loaded in this very epoch stays."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Batch]:
        loader, epoch, info = self._own_loader, int(self._epoch), get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            end_with_parent()
        self._made = self._resume_at.delivered if self._resume_at.epoch == epoch else 0
        self._resume_at = Position(0, 0)
        self._samples.warm()
        for part in islice(loader.parts(), worker + self._made * workers, None, workers):
            self._made += 1
            yield make(self._samples, loader.job(part, epoch=epoch))

    def state_dict(self) -> dict[str, Any]:
        """As a loader's; what is `delivered` here are batches, by this worker."""
        return to_state(Position(int(self._epoch), self._made), self._own_fingerprint, seed=self._options.seed)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batches that this worker made. Raises `ResumeError` as `Loader.load_state_dict`."""
        self._resume_at = from_state(state, self._own_fingerprint, seed=self._options.seed, samples=len(self))
        self._epoch.fill_(self._resume_at.epoch)

    @cached_property
    def _own_loader(self) -> Loader:
        return Loader(self._samples, self._options)

    @cached_property
    def _own_fingerprint(self) -> Fingerprint:
        """Of batches, so that a loader's state is not taken for one of ours."""
        return self._own_loader.fingerprint | {"batches of": str(self._options.batch_size)}
