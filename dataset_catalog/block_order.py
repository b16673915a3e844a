"""The block shuffle: stretches of neighbouring windows stay near each other, so that a GOP is decoded for several.

Windows are cut into blocks, blocks are permuted, and the windows of a few blocks at a time, the *pool*, are permuted
among themselves. A decoder that keeps the frames of one pool decodes each GOP once. All of it is arithmetic: memory is
taken by the run of a selection, never by the window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dataset_catalog.order import Ints, permute


@dataclass(frozen=True)
class Blocks:
    """Windows in blocks of `size`, but for a shorter last one: first each run's whole blocks, then what runs have left.

    lengths  (runs,) of the selection's runs; windows are numbered through them
    """

    lengths: Ints
    size: int

    @cached_property
    def n(self) -> int:
        return int(self.lengths.sum())

    @property
    def count(self) -> int:
        return -(-self.n // self.size)

    @property
    def last_size(self) -> int:
        return self.n - (self.count - 1) * self.size

    def windows(self, blocks: Ints, within: Ints) -> Ints:
        """The window number at place `within` of each block."""
        whole = int(self._whole_ends[-1])
        found = np.empty_like(blocks)
        inside = blocks < whole
        found[inside] = self._of_whole(blocks[inside], within[inside])
        found[~inside] = self._of_rest((blocks[~inside] - whole) * self.size + within[~inside])
        return found

    def _of_whole(self, blocks: Ints, within: Ints) -> Ints:
        run = np.searchsorted(self._whole_ends, blocks, side="right")
        first = self._ends[run] - self.lengths[run]
        in_run = blocks - (self._whole_ends[run] - self.lengths[run] // self.size)
        windows: Ints = first + in_run * self.size + within
        return windows

    def _of_rest(self, numbers: Ints) -> Ints:
        run = np.searchsorted(self._rest_ends, numbers, side="right")
        windows: Ints = self._ends[run] - (self._rest_ends[run] - numbers)
        return windows

    @cached_property
    def _ends(self) -> Ints:
        return np.cumsum(self.lengths)

    @cached_property
    def _whole_ends(self) -> Ints:
        return np.cumsum(self.lengths // self.size)

    @cached_property
    def _rest_ends(self) -> Ints:
        return np.cumsum(self.lengths % self.size)


@dataclass(frozen=True)
class BlockShuffled:
    """An order of blocks, `pool` of them at a time; with a pool of one block its windows come one after the other."""

    blocks: Blocks
    pool: int
    seed: int | str = 0

    @classmethod
    def of(cls, lengths: Sequence[int] | Ints, *, block: int, pool: int, seed: int | str = 0) -> BlockShuffled:
        """`lengths` of the selection's runs, `block` windows in a block, `pool` blocks in a pool."""
        return cls(Blocks(np.asarray(lengths, np.int64), block), pool, seed)

    @property
    def n(self) -> int:
        return self.blocks.n

    def windows(self, epoch: int, positions: Ints) -> Ints:
        if not len(positions):
            return positions
        short = self._place_of_short(epoch)
        place, within = self._place(self._mix_pools(epoch, positions, short), short)
        return self.blocks.windows(self._block_at(epoch, place, short), within)

    def _place_of_short(self, epoch: int) -> int:
        """Where the one shorter block comes: anywhere, else the same windows would be an epoch's end every time."""
        digest = hashlib.sha256(f"short:{self.seed}:{epoch}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % max(self.blocks.count, 1)

    def _place(self, positions: Ints, short: int) -> tuple[Ints, Ints]:
        """Which block in the order a position is in, and where inside it."""
        size, missing = self.blocks.size, self.blocks.size - self.blocks.last_size
        behind = positions >= short * size + self.blocks.last_size
        place, within = np.divmod(positions + missing * behind, size)
        return place, within

    def _start(self, place: int, short: int) -> int:
        """The first position of a block in the order."""
        return place * self.blocks.size - (self.blocks.size - self.blocks.last_size) * (place > short)

    def _mix_pools(self, epoch: int, positions: Ints, short: int) -> Ints:
        """Positions, permuted within each pool."""
        pools = self._place(positions, short)[0] // self.pool
        mixed = np.empty_like(positions)
        for pool in np.unique(pools).tolist():
            first = self._start(pool * self.pool, short)
            end = min(self._start((pool + 1) * self.pool, short), self.n)
            chosen = pools == pool
            key = f"pool:{self.seed}:{epoch}:{pool}"
            mixed[chosen] = first + permute(positions[chosen] - first, n=end - first, key=key)
        return mixed

    def _block_at(self, epoch: int, place: Ints, short: int) -> Ints:
        """Which block comes at a place: the whole ones permuted, around the short one, which is the last by number."""
        last = self.blocks.count - 1
        at_short = place == short
        ranked = np.where(at_short, 0, place - (place > short))
        shuffled = permute(ranked, n=last, key=f"block:{self.seed}:{epoch}") if last else ranked
        return np.where(at_short, last, shuffled)
