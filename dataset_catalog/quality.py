"""How alike the samples of a batch are: the price of the block shuffle, counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dataset_catalog.options import Shuffling
from dataset_catalog.order import Ints, Order
from dataset_catalog.samples import Samples

if TYPE_CHECKING:
    from dataset_catalog.loader import Loader


@dataclass(frozen=True, slots=True)
class Quality:
    """Distinct episodes, and distinct GOPs that must be decoded, of a batch of all ranks; the mean over some batches.

    `uniform_…`: the same of a permutation of all windows.
    """

    episodes: float
    gops: float
    uniform_episodes: float
    uniform_gops: float

    def __str__(self) -> str:
        return (
            f"{self.episodes:.1f} episodes and {self.gops:.1f} GOPs a batch; "
            f"shuffled window by window {self.uniform_episodes:.1f} and {self.uniform_gops:.1f}"
        )


def quality(loader: Loader, *, batches: int = 50, epoch: int = 0) -> Quality:
    """Of a loader's order, over `batches` batches spread evenly through an epoch. Decodes nothing."""
    samples, size = loader.samples, loader.options.batch_size
    uniform = samples.order(Shuffling("windows", loader.options.seed))
    ours, theirs = (spread(order, size=size, batches=batches, epoch=epoch) for order in (loader.order, uniform))
    return Quality(*_means(samples, ours), *_means(samples, theirs))


def _means(samples: Samples, batches: list[Ints]) -> tuple[float, float]:
    """Distinct episodes and GOPs of a batch, the mean over these."""
    episodes = [len(samples.episodes(numbers)) for numbers in batches]
    gops = [len(samples.gops(numbers)) for numbers in batches]
    return sum(episodes) / len(batches), sum(gops) / len(batches)


def spread(order: Order, *, size: int, batches: int, epoch: int) -> list[Ints]:
    """The window numbers of `batches` whole batches, or as many as there are, evenly spread; of a small epoch all."""
    there = order.n // size
    if not there:
        return [order.windows(epoch, np.arange(order.n))]
    chosen = np.unique(np.linspace(0, there - 1, min(batches, there)).round().astype(int)).tolist()
    return [order.windows(epoch, np.arange(one * size, (one + 1) * size)) for one in chosen]
