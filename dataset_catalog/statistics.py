"""Statistics of numeric columns that can be joined: those of a selection are the sum of those of its episodes.

Count, mean, deviation, least and greatest value are exact (Chan, Golub and LeVeque, 1979, for the sum of squares). A
quantile comes from a histogram of logarithmic bins (DDSketch: Masson, Rim and Lee, VLDB 2019): it differs from the true
one by at most `RELATIVE_ERROR` of its size. Joining adds bins, so the order of episodes changes nothing but the last
bits of a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

RELATIVE_ERROR = 0.01
SMALLEST = 1e-9  # what is nearer to 0 counts as 0
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(_GAMMA)
_BIAS = 10_000  # makes every bin's number positive: that of SMALLEST is -1036, of the largest float32 4436

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bins:
    """One element's histogram: `keys` ascending in the order of values, negative for negative ones, 0 for 0."""

    keys: NDArray[np.int32]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: Floats) -> Bins:
        """Of finite values (n,)."""
        size = np.abs(values)
        large = size >= SMALLEST
        number = np.ceil(np.log(np.where(large, size, 1.0)) / _LOG_GAMMA).astype(np.int32) + _BIAS
        keys, counts = np.unique(np.where(large, np.sign(values).astype(np.int32) * number, 0), return_counts=True)
        return cls(keys.astype(np.int32), counts.astype(np.int64))

    def __add__(self, other: Bins) -> Bins:
        keys, place = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        return Bins(keys, counts)

    def quantile(self, q: float) -> float:
        """The value of which a share `q` (0..1) is not greater; NaN of nothing."""
        if not len(self.keys):
            return math.nan
        rank = int(q * (self.counts.sum() - 1))
        key = int(self.keys[np.searchsorted(np.cumsum(self.counts), rank, side="right")])
        if key == 0:
            return 0.0
        return math.copysign(2 * math.exp((abs(key) - _BIAS) * _LOG_GAMMA) / (_GAMMA + 1), key)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of a column with vectors of `d` numbers, each element by itself; values that are not finite are left out.

    count  (d,) int64; mean, m2, min, max  (d,) float64, NaN where nothing was counted; m2: sum of squared deviations
    bins   one histogram an element
    """

    count: NDArray[np.int64]
    mean: Floats
    m2: Floats
    min: Floats
    max: Floats
    bins: tuple[Bins, ...]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Statistics:
        """Of vectors (n, d)."""
        columns = [column[np.isfinite(column)] for column in values.astype(np.float64).T]
        one = [_moments(column) for column in columns]
        mean, m2, least, greatest = (np.array([found[i] for found in one]) for i in range(4))
        count = np.array([len(column) for column in columns], np.int64)
        return cls(count, mean, m2, least, greatest, tuple(Bins.of(column) for column in columns))

    @classmethod
    def join(cls, parts: Iterable[Statistics]) -> Statistics:
        """Of all of them together; `ValueError` for none, or where their vectors have different sizes."""
        parts = list(parts)
        sizes = {len(part.count) for part in parts}
        if len(sizes) != 1:
            raise ValueError(f"statistics of one column have one size, got {sorted(sizes)}")
        return reduce(cls.__add__, parts)

    @classmethod
    def from_table(cls, rows: Any) -> Statistics:
        """Of all rows of an Arrow table with the columns of `as_row` together; `ValueError` as of `join`.

        The same sums, taken of all rows at once: a hundred thousand episodes need no object each.
        """
        sizes = set(pc.list_value_length(rows["count"]).unique().to_pylist())
        if len(sizes) != 1:
            raise ValueError(f"statistics of one column have one size, got {sorted(sizes)}")
        size = sizes.pop()
        count, each, m2, least, greatest = (
            pc.list_flatten(rows[name].combine_chunks()).to_numpy(zero_copy_only=False).reshape(-1, size)
            for name in ("count", "mean", "m2", "min", "max")
        )
        total = count.sum(axis=0)
        mean = np.divide(np.nansum(each * count, axis=0), total, out=np.full(size, np.nan), where=total > 0)
        spread = np.nansum(m2, axis=0) + np.nansum(count * (each - mean) ** 2, axis=0)
        low, high = np.fmin.reduce(least, axis=0), np.fmax.reduce(greatest, axis=0)
        bins = _join_bins(rows["bins"].combine_chunks(), size)
        return cls(total, mean, np.where(total > 0, spread, np.nan), low, high, bins)

    def __add__(self, other: Statistics) -> Statistics:
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros(len(count)), where=count > 0)
        delta = np.where((self.count > 0) & (other.count > 0), other.mean - self.mean, 0.0)
        mean = np.where(self.count > 0, self.mean + delta * share, other.mean)
        m2 = _sum(self.m2, other.m2) + delta**2 * self.count * share
        joined = tuple(a + b for a, b in zip(self.bins, other.bins, strict=True))
        return Statistics(count, mean, m2, np.fmin(self.min, other.min), np.fmax(self.max, other.max), joined)

    @property
    def std(self) -> Floats:
        """(d,), of the population; NaN where nothing was counted."""
        variance: Floats = np.divide(self.m2, self.count, out=np.full(len(self.count), np.nan), where=self.count > 0)
        deviation: Floats = np.sqrt(variance)
        return deviation

    def quantile(self, q: float) -> Floats:
        """(d,), within `RELATIVE_ERROR` of its size, and within what was seen. `ValueError` unless 0 <= q <= 1."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is a share within 0..1, got {q}")
        found: Floats = np.array([bins.quantile(q) for bins in self.bins])
        return found.clip(self.min, self.max)

    def as_row(self) -> dict[str, Any]:
        """The columns of `schema.STATISTICS` that it fills."""
        row: dict[str, Any] = {name: getattr(self, name).tolist() for name in ("count", "mean", "m2", "min", "max")}
        row["bins"] = [{"keys": one.keys.tolist(), "counts": one.counts.tolist()} for one in self.bins]
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Statistics:
        mean, m2, least, greatest = (np.array(row[name], np.float64) for name in ("mean", "m2", "min", "max"))
        bins = (Bins(np.array(one["keys"], np.int32), np.array(one["counts"], np.int64)) for one in row["bins"])
        return cls(np.array(row["count"], np.int64), mean, m2, least, greatest, tuple(bins))


def _join_bins(column: Any, size: int) -> tuple[Bins, ...]:
    """Each element's histogram over all rows, of lists with one histogram an element."""
    histograms = pc.list_flatten(column)
    keys, counts = (histograms.field(name) for name in ("keys", "counts"))
    lengths = pc.list_value_length(keys).to_numpy(zero_copy_only=False)
    element = np.repeat(np.arange(len(lengths)) % size, lengths)
    key, many = (pc.list_flatten(one).to_numpy(zero_copy_only=False) for one in (keys, counts))
    found = []
    for number in range(size):
        own = element == number
        distinct, place = np.unique(key[own], return_inverse=True)
        summed = np.zeros(len(distinct), np.int64)
        np.add.at(summed, place, many[own])
        found.append(Bins(distinct.astype(np.int32), summed))
    return tuple(found)


def _moments(column: Floats) -> tuple[float, float, float, float]:
    if not len(column):
        return math.nan, math.nan, math.nan, math.nan
    mean = float(column.mean())
    return mean, float(((column - mean) ** 2).sum()), float(column.min()), float(column.max())


def _sum(a: Floats, b: Floats) -> Floats:
    """The sum, where NaN is nothing."""
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, a + b))
