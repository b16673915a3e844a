"""Which steps of which episodes, as runs, and the arithmetic from a window's number to its step. Pure.

Runs are columns, not objects: a selection of 100,000 episodes is made, narrowed and told apart in milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_PLACE = 2**40  # an episode's number and a step as one integer

Ints = NDArray[np.int64]


class Run(NamedTuple):
    """Steps `[first, end)` of one episode."""

    episode_id: str
    first: int
    end: int


@dataclass(frozen=True, eq=False)
class Selection:
    """Runs in the order in which windows are numbered; window 0 is the first step of the first run.

    Takes memory by the run, not by the window. The runs of one episode ascend and do not overlap.

    ids     each selected episode's id once, in order: a pyarrow array of strings
    places  (r,) which of `ids` each run is of
    first   (r,) its first step; end  (r,) one behind its last
    """

    ids: Any
    places: Ints
    first: Ints
    end: Ints

    @classmethod
    def of(cls, runs: Iterable[Run]) -> Selection:
        rows = list(runs)
        ids = pa.array([run.episode_id for run in rows], pa.string())
        return cls.from_columns(ids, *(np.array([run[i] for run in rows], np.int64) for i in (1, 2)))

    @classmethod
    def from_columns(cls, ids: Any, first: Ints, end: Ints) -> Selection:
        """Of the runs' episode ids (a pyarrow array of strings), first steps and ends; empty runs are left out."""
        kept = first < end
        coded = pc.dictionary_encode(ids.filter(pa.array(kept)))
        return cls(coded.dictionary, coded.indices.to_numpy().astype(np.int64), first[kept], end[kept])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """As objects, for people; everything here reads the columns."""
        names = self._run_ids.to_pylist()
        return tuple(map(Run, names, self.first.tolist(), self.end.tolist()))

    @cached_property
    def episode_ids(self) -> tuple[str, ...]:
        """Each selected episode once, in order."""
        return tuple(self.ids.to_pylist())

    @cached_property
    def _ends(self) -> Ints:
        return np.cumsum(self.end - self.first, dtype=np.int64)

    @property
    def _run_ids(self) -> Any:
        return self.ids.take(pa.array(self.places))

    def locate(self, windows: Ints) -> list[tuple[str, int]]:
        """(episode id, step) of each window number in `[0, len)`."""
        runs = np.searchsorted(self._ends, windows, side="right")
        steps = self.end[runs] - (self._ends[runs] - windows)
        return list(zip(self.ids.take(pa.array(self.places[runs])).to_pylist(), steps.tolist(), strict=True))

    def covers(self, places: Ints, steps: Ints) -> NDArray[np.bool_]:
        """Which of the steps (m,) of the episodes numbered `places` (m,), as in `ids`, are selected."""
        if not len(self.first):
            return np.zeros(len(steps), bool)
        first, asked = self.places * _PLACE + self.first, places * _PLACE + steps
        order = np.argsort(first)
        run = order[np.maximum(np.searchsorted(first, asked, side="right", sorter=order) - 1, 0)]
        covered: NDArray[np.bool_] = (asked >= first[run]) & (asked - first[run] < self.end[run] - self.first[run])
        return covered

    def only(self, episode_ids: Collection[str] | Any) -> Selection:
        """The runs of these episodes."""
        wanted = episode_ids if isinstance(episode_ids, pa.Array) else pa.array(list(episode_ids), pa.string())
        kept = pc.is_in(self.ids, wanted).to_numpy(zero_copy_only=False)[self.places]
        return self._of_runs(np.flatnonzero(kept), self.first[kept], self.end[kept])

    def intersect(self, other: Selection) -> Selection:
        """The steps that are in both, in our order."""
        place = pc.fill_null(pc.index_in(other.ids, self.ids), -1).to_numpy().astype(np.int64)[other.places]
        known = place >= 0
        order = np.argsort(place[known] * _PLACE + other.first[known])
        first, end = ((place[known] * _PLACE + one[known])[order] for one in (other.first, other.end))
        begin, stop = (self.places * _PLACE + one for one in (self.first, self.end))
        low, high = np.searchsorted(end, begin, side="right"), np.searchsorted(first, stop, side="left")
        count = np.maximum(high - low, 0)
        ours = np.repeat(np.arange(len(self.first)), count)
        theirs = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
        base = self.places[ours] * _PLACE
        return self._of_runs(
            ours, np.maximum(begin[ours], first[theirs]) - base, np.minimum(stop[ours], end[theirs]) - base
        )

    def digest(self) -> str:
        """SHA-256 of the runs in their order: the same selection, the same text."""
        columns = [self._run_ids, *(pa.array(one).cast(pa.string()) for one in (self.first, self.end))]
        lines = pc.binary_join_element_wise(*columns, " ")
        return hashlib.sha256("\n".join(lines.to_pylist()).encode()).hexdigest()

    def _of_runs(self, runs: Ints, first: Ints, end: Ints) -> Selection:
        """What is left of the runs with these numbers."""
        return Selection.from_columns(self.ids.take(pa.array(self.places[runs])), first, end)


def part_of(episode_id: str, *, shares: dict[str, float], seed: int) -> str | None:
    """The part of a split an episode falls into, by a hash of its id alone: it stays there when the dataset grows.

    Where the shares add up to less than 1, the rest of the episodes fall into none.
    """
    digest = hashlib.sha256(f"{seed}:{episode_id}".encode()).digest()
    point, reached = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for name, share in shares.items():
        reached += share
        if point < reached:
            return name
    return None
