"""The order of a mix of datasets by weights: which dataset comes at a position, and which of its windows.

Every `STRETCH` samples hold exactly each dataset's share, in an order chosen by a key. A dataset goes through its own
windows in its own order, on and on over the epochs of the mix: none comes twice before all have come once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.errors import WindowError
from dataset_catalog.order import Ints, Order, permute

STRETCH = 10_000


@dataclass(frozen=True)
class MixOrder:
    """Windows are numbered through the datasets one after the other.

    orders  of each dataset; of its epochs each is one pass through the dataset
    shares  of each, samples of every `STRETCH`; they add up to it
    n       samples of an epoch
    """

    orders: tuple[Order, ...]
    shares: tuple[int, ...]
    n: int
    seed: int | str = 0

    def windows(self, epoch: int, positions: Ints) -> Ints:
        source, number = self.turns(epoch, positions)
        found = np.empty_like(positions)
        first = 0
        for which, order in enumerate(self.orders):
            mine = source == which
            found[mine] = first + _pass_through(order, number[mine])
            first += order.n
        return found

    def turns(self, epoch: int, positions: Ints) -> tuple[Ints, Ints]:
        """Which dataset comes at each position, and how many samples it has given before, over all epochs."""
        stretches, at = np.divmod(epoch * self.n + positions, STRETCH)
        source, number = np.empty_like(at), np.empty_like(at)
        for one in np.unique(stretches).tolist():
            chosen = stretches == one
            sources, before = _stretch(self.shares, f"mix:{self.seed}:{one}")
            source[chosen], number[chosen] = sources[at[chosen]], before[at[chosen]]
        return source, number + stretches * np.array(self.shares)[source]


@lru_cache(maxsize=8)
def _stretch(shares: tuple[int, ...], key: str) -> tuple[Ints, Ints]:
    """Of each place of a stretch: which dataset comes, and how often it has come before, in the stretch."""
    ends = np.cumsum(shares)
    source = np.searchsorted(ends, permute(np.arange(STRETCH), n=STRETCH, key=key), side="right")
    before = np.empty_like(source)
    before[np.argsort(source, kind="stable")] = np.arange(STRETCH) - np.repeat(ends - shares, shares)
    return source, before


def _pass_through(order: Order, numbers: Ints) -> Ints:
    """The windows at these places of a dataset's passes, one pass behind the other."""
    passes, at = np.divmod(numbers, order.n)
    found = np.empty_like(numbers)
    for one in np.unique(passes).tolist():
        found[passes == one] = order.windows(one, at[passes == one])
    return found


def shares_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as whole samples of `STRETCH`, by the largest remainder: none is off by as much as one of them.

    Raises `WindowError` for weights that are no positive numbers, or too small beside the others for a single sample.
    """
    wanted: NDArray[np.float64] = np.array(weights, float)
    if not len(wanted) or not (np.isfinite(wanted).all() and (wanted > 0).all()):
        raise WindowError(f"the weights of a mix must be positive numbers, got {list(weights)}")
    exact = wanted / wanted.sum() * STRETCH
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: STRETCH - shares.sum()]] += 1
    if not shares.all():
        raise WindowError(f"a weight must be at least 1/{STRETCH} of all together, got {list(weights)}")
    return tuple(shares.tolist())
