"""How ranks share an epoch: batch by batch, each one stretch of every batch. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.errors import WindowError
from dataset_catalog.order import Ints

Remainder = Literal["drop", "pad", "uneven"]


class Part(NamedTuple):
    """One rank's part of a batch: positions `[start, stop)`; when all ranks have theirs, all before `delivered` have
    been delivered. Under `pad` what lies at or behind `end` is padding."""

    start: int
    stop: int
    delivered: int
    end: int

    @property
    def positions(self) -> Ints:
        """(stop − start,); padding repeats the epoch's last position."""
        return np.minimum(np.arange(self.start, self.stop, dtype=np.int64), self.end - 1)

    @property
    def weight(self) -> NDArray[np.float32]:
        """(stop − start,): 1 for a sample of the epoch, 0 for padding."""
        return (np.arange(self.start, self.stop) < self.end).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Sharing:
    """`batch_size` samples are one step of all ranks together, so that the batches do not depend on `world_size`.

    What is left at the end of an epoch is dropped; or padded, so that every rank has the same number of batches of the
    same size; or shared out unevenly: then a rank may have one sample less, and with fewer samples than ranks none.

    Raises `WindowError` where the world size does not divide the batch size, and for numbers out of range.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    remainder: Remainder = "drop"

    def __post_init__(self) -> None:
        for name in ("batch_size", "world_size"):
            if getattr(self, name) < 1:
                raise WindowError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.rank < self.world_size:
            raise WindowError(f"rank must be in [0, {self.world_size}), got {self.rank}")
        if self.batch_size % self.world_size:
            raise WindowError(
                f"batch_size counts the samples of all ranks together, and world_size must divide it: "
                f"got {self.batch_size} for {self.world_size}"
            )
        if self.remainder not in get_args(Remainder):
            raise WindowError(f"remainder must be one of {', '.join(get_args(Remainder))}, got {self.remainder!r}")

    def parts(self, n: int, *, start: int = 0) -> Iterator[Part]:
        """This rank's parts of an epoch of `n` samples, from position `start` on."""
        for first in range(start, n, self.batch_size):
            if n - first >= self.batch_size or self.remainder == "pad":
                yield self._cut(first, self.batch_size, n)
            elif self.remainder == "uneven" and (part := self._cut(first, n - first, n)).start < part.stop:
                yield part

    def count(self, n: int) -> int:
        """How many parts this rank has of a whole epoch."""
        whole, left = divmod(n, self.batch_size)
        last = self._cut(0, left, left)
        has_last = {"drop": False, "pad": left > 0, "uneven": last.start < last.stop}
        return whole + has_last[self.remainder]

    def _cut(self, first: int, size: int, n: int) -> Part:
        a, b = (first + size * share // self.world_size for share in (self.rank, self.rank + 1))
        return Part(a, b, min(first + size, n), n)
