"""The order in which windows are seen: integer arithmetic, no list of them anywhere.

Which window comes at a position is a pure function of (n, seed, epoch, position). World size, ranks and workers only
slice it, so a run can go on at any position with another number of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Order:
    """The order of `n` windows. Shuffled, each epoch is another permutation; else it is 0, 1, 2 …

    group  how many consecutive windows stay together when shuffling. Above 1 a batch finds several of its windows in
           one GOP and decodes faster, at the price of likeness inside the batch. A rest of `n % group` comes last.
    """

    n: int
    seed: int = 0
    shuffle: bool = True
    group: int = 1

    def windows(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Window numbers (stop − start,) at the positions `[start, stop)` of an epoch."""
        positions = np.arange(start, stop, dtype=np.int64)
        groups = self.n // self.group
        if not self.shuffle or not groups:
            return positions
        number, within = np.divmod(positions, self.group)
        shuffled = permute(np.minimum(number, groups - 1), n=groups, key=f"{self.seed}:{epoch}")
        return np.where(number < groups, shuffled * self.group + within, positions)


def permute(positions: NDArray[np.int64], *, n: int, key: str) -> NDArray[np.int64]:
    """Each of `positions` in `[0, n)` to its place in a permutation of `[0, n)` chosen by `key`.

    A Feistel network permutes the next power of four; what falls outside `[0, n)` walks on until it is inside
    (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). About four walks at most.
    """
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    keys = np.frombuffer(hashlib.sha512(key.encode()).digest(), np.uint64)[:_ROUNDS]
    out = _feistel(positions.astype(np.uint64), half, keys)
    while (outside := out >= n).any():
        out[outside] = _feistel(out[outside], half, keys)
    return out.astype(np.int64)


def _feistel(x: NDArray[np.uint64], half: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of `[0, 4**half)`: each round swaps the halves and mixes one with a hash of the other."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = x >> bits, x & mask
    for key in keys:
        left, right = right, left ^ (_hash(right ^ key) & mask)
    return (left << bits) | right


def _hash(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea, Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Slice(NamedTuple):
    """One batch of one rank: positions `[start, stop)`; when it is delivered, so are all before `delivered`."""

    start: int
    stop: int
    delivered: int


def slices(n: int, *, start: int, batch_size: int, rank: int, world_size: int, drop_last: bool) -> Iterator[Slice]:
    """A rank's batches from position `start` of an epoch on.

    Together the ranks take `batch_size × world_size` positions at a time, each one stretch of them. What is left at the
    end is dropped, or shared out evenly: then some ranks get one sample fewer, or, with fewer samples than ranks, none.
    """
    together = batch_size * world_size
    for first in range(start, n, together):
        left = min(together, n - first)
        if left < together and drop_last:
            return
        a, b = (first + left * share // world_size for share in (rank, rank + 1))
        if a < b:
            yield Slice(a, b, first + left)


def count_slices(n: int, *, batch_size: int, rank: int, world_size: int, drop_last: bool) -> int:
    """How many batches a rank has in a whole epoch."""
    whole, left = divmod(n, batch_size * world_size)
    has_rest = left * rank // world_size < left * (rank + 1) // world_size
    return whole + (has_rest and not drop_last)
