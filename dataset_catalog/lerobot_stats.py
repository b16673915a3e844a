"""The statistics that LeRobot keeps of each episode, and of all of them, in its own form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.statistics import Statistics

PICTURES = 16  # of an episode, that a camera's statistics are taken of
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Told = dict[str, Any]


def of_numbers(values: NDArray[Any]) -> Statistics:
    """Of (n, …) numbers: each element by itself."""
    return Statistics.of(values.reshape(len(values), -1))


def of_pictures(frames: Iterable[NDArray[np.uint8]]) -> Statistics:
    """Of (height, width, 3) RGB pictures: each colour by itself, 0..1, of every fourth pixel both ways."""
    return Statistics.join(Statistics.of(frame[::4, ::4].reshape(-1, 3) / 255) for frame in frames)


def chosen(length: int) -> Sequence[int]:
    """Which pictures of an episode: evenly spread."""
    places: list[int] = np.linspace(0, length - 1, min(length, PICTURES)).round().astype(int).tolist()
    return places


def told(found: Statistics, shape: Sequence[int], *, count: int) -> Told:
    """As `meta/` has it; `shape` of a feature, for a camera (3, 1, 1)."""
    names = {"min": found.min, "max": found.max, "mean": found.mean, "std": found.std}
    names |= {name: found.quantile(share) for name, share in QUANTILES.items()}
    return {name: np.reshape(value, shape).tolist() for name, value in names.items()} | {"count": [count]}


def flat(stats: Mapping[str, Told]) -> Iterator[tuple[str, Any]]:
    """As columns of the table of episodes: `stats/action/mean`."""
    for feature, values in stats.items():
        for name, value in values.items():
            yield f"stats/{feature}/{name}", value
