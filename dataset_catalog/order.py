"""The order in which windows are seen: integer arithmetic, no list of them anywhere.

Which window comes at a position is a pure function of (seed, epoch, position). World size, ranks and workers only slice
it (`sharing.py`), so a run can go on at any position with another number of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ORDER_VERSION = 1  # of the arithmetic here, in block_order.py and mix_order.py: in another a position means nothing

Ints = NDArray[np.int64]

_ROUNDS = 6


class Order(Protocol):
    """What comes where: an epoch has the positions `[0, n)`."""

    @property
    def n(self) -> int: ...

    def windows(self, epoch: int, positions: Ints) -> Ints:
        """The window number at each of the positions (m,) of an epoch."""
        ...


@dataclass(frozen=True, slots=True)
class Sequential:
    """0, 1, 2 … in every epoch: what evaluation takes."""

    n: int

    def windows(self, epoch: int, positions: Ints) -> Ints:
        return positions


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Each epoch another permutation of all `n` windows, every one of them about equally likely."""

    n: int
    seed: int | str = 0

    def windows(self, epoch: int, positions: Ints) -> Ints:
        return permute(positions, n=self.n, key=f"{self.seed}:{epoch}")


def permute(positions: Ints, *, n: int, key: str) -> Ints:
    """Each of `positions` in `[0, n)` to its place in a permutation of `[0, n)` chosen by `key`.

    A Feistel network permutes the next power of four; what falls outside `[0, n)` walks on until it is inside
    (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). About four walks at most.
    Raises `IndexError` for another position: it could walk for ever.
    """
    if len(positions) and not (positions.min() >= 0 and positions.max() < n):
        raise IndexError(f"positions must be in [0, {n}), got {positions.min()} to {positions.max()}")
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    keys = np.frombuffer(hashlib.sha512(key.encode()).digest(), np.uint64)[:_ROUNDS]
    out = _feistel(positions.astype(np.uint64), half, keys)
    while (outside := out >= n).any():
        out[outside] = _feistel(out[outside], half, keys)
    return out.astype(np.int64)


def sample_seeds(positions: Ints, *, seed: int, epoch: int) -> NDArray[np.uint64]:
    """What a sample's own randomness starts from, (m,): of its position alone, whoever makes the sample."""
    key = np.frombuffer(hashlib.sha512(f"sample:{seed}:{epoch}".encode()).digest(), np.uint64)
    return _hash(_hash(positions.astype(np.uint64) ^ key[0]) ^ key[1])


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
