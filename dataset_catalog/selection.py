"""Which steps of which episodes, as runs, and the arithmetic from a window's number to its step. Pure."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_PLACE_STEP = np.array([2**40, 1])  # an episode's number and a step as one integer


class Run(NamedTuple):
    """Steps `[first, end)` of one episode."""

    episode_id: str
    first: int
    end: int


@dataclass(frozen=True)
class Selection:
    """Runs in the order in which windows are numbered; window 0 is the first step of the first run.

    Takes memory by the run, not by the window.
    """

    runs: tuple[Run, ...]

    @classmethod
    def of(cls, runs: Iterable[Run]) -> Selection:
        return cls(tuple(run for run in runs if run.first < run.end))

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.runs else 0

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([run.end - run.first for run in self.runs], dtype=np.int64)

    @cached_property
    def episode_ids(self) -> tuple[str, ...]:
        """Each selected episode once, in order."""
        return tuple(dict.fromkeys(run.episode_id for run in self.runs))

    def locate(self, windows: NDArray[np.int64]) -> list[tuple[str, int]]:
        """(episode id, step) of each window number in `[0, len)`."""
        numbers = np.searchsorted(self._ends, windows, side="right").tolist()
        from_end = (self._ends[numbers] - windows).tolist()
        runs = [self.runs[number] for number in numbers]
        return [(run.episode_id, run.end - back) for run, back in zip(runs, from_end, strict=True)]

    def covers(self, places: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the steps (m,) of the episodes numbered `places` (m,), as in `episode_ids`, are selected."""
        if not self.runs:
            return np.zeros(len(steps), bool)
        number = {episode_id: i for i, episode_id in enumerate(self.episode_ids)}
        first = np.array([(number[run.episode_id], run.first) for run in self.runs], np.int64) @ _PLACE_STEP
        length = np.array([run.end - run.first for run in self.runs], np.int64)
        asked = places * _PLACE_STEP[0] + steps
        run = np.maximum(np.searchsorted(first, asked, side="right") - 1, 0)
        covered: NDArray[np.bool_] = (asked >= first[run]) & (asked - first[run] < length[run])
        return covered

    def only(self, episode_ids: Collection[str]) -> Selection:
        """The runs of these episodes."""
        return Selection.of(run for run in self.runs if run.episode_id in episode_ids)

    def intersect(self, other: Selection) -> Selection:
        """The steps that are in both, in our order."""
        theirs: dict[str, list[Run]] = defaultdict(list)
        for run in other.runs:
            theirs[run.episode_id].append(run)
        return Selection.of(
            Run(run.episode_id, max(run.first, cut.first), min(run.end, cut.end))
            for run in self.runs
            for cut in theirs[run.episode_id]
        )

    def digest(self) -> str:
        """SHA-256 of the runs in their order: the same selection, the same text."""
        text = "\n".join(f"{run.episode_id} {run.first} {run.end}" for run in self.runs)
        return hashlib.sha256(text.encode()).hexdigest()


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
