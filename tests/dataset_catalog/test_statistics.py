"""Joined statistics are those of everything at once, and a quantile is as near as is promised."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dataset_catalog.schema import STATISTICS
from dataset_catalog.statistics import RELATIVE_ERROR, SMALLEST, Bins, Statistics

FINITE = st.floats(-1e6, 1e6, allow_nan=False, width=32)
VECTORS = st.integers(1, 40).flatmap(lambda n: arrays(np.float32, (n, 3), elements=FINITE))
ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)


def same(a: Statistics, b: Statistics) -> None:
    assert a.count.tolist() == b.count.tolist()
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-6, atol=1e-3)
    assert (a.min.tolist(), a.max.tolist()) == (b.min.tolist(), b.max.tolist())
    for ours, theirs in zip(a.bins, b.bins, strict=True):
        assert (ours.keys.tolist(), ours.counts.tolist()) == (theirs.keys.tolist(), theirs.counts.tolist())


@given(VECTORS)
def test_they_are_what_numpy_says(values: Any) -> None:
    found, wide = Statistics.of(values), values.astype(np.float64)
    np.testing.assert_allclose(found.mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, wide.std(axis=0), rtol=1e-9, atol=1e-12)
    assert found.min.tolist() == wide.min(axis=0).tolist()
    assert found.max.tolist() == wide.max(axis=0).tolist()


@given(st.lists(VECTORS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_joined_they_are_those_of_everything_at_once_in_any_order(parts: list[Any], random: Any) -> None:
    whole = Statistics.of(np.concatenate(parts))
    shuffled = random.sample(parts, len(parts))
    same(Statistics.join(map(Statistics.of, shuffled)), whole)


@given(VECTORS, st.floats(0, 1))
def test_a_quantile_is_within_the_promised_share_of_a_value_at_its_rank(values: Any, q: float) -> None:
    found = Statistics.of(values).quantile(q)
    ordered = np.sort(values.astype(np.float64), axis=0)
    true = ordered[int(q * (len(values) - 1))]
    assert np.all(np.abs(found - true) <= RELATIVE_ERROR * np.abs(true) * (1 + 1e-9) + SMALLEST)


def test_quantiles_of_many_values_are_those_of_the_distribution() -> None:
    values = np.random.default_rng(3).normal(0.3, 2.0, size=(200_000, 1))
    found = Statistics.join(Statistics.of(part) for part in np.array_split(values, 37))
    for q in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert found.quantile(q)[0] == pytest.approx(np.quantile(values, q), rel=0.011, abs=0.01)


@given(arrays(np.float32, (20, 2), elements=ANY))
def test_what_is_not_finite_is_left_out(values: Any) -> None:
    found = Statistics.of(values)
    assert found.count.tolist() == np.isfinite(values).sum(axis=0).tolist()
    for element in range(2):
        if found.count[element]:
            assert math.isfinite(found.mean[element])
            assert found.min[element] <= found.quantile(0.5)[element] <= found.max[element]


def test_of_nothing_is_nan_and_adds_nothing() -> None:
    nothing, some = Statistics.of(np.zeros((0, 2), np.float32)), Statistics.of(np.array([[1.0, -2.0], [3.0, 0.0]]))
    assert np.isnan(nothing.mean).all()
    assert np.isnan(nothing.std).all()
    assert np.isnan(nothing.quantile(0.5)).all()
    same(nothing + some, some)
    same(some + nothing, some)
    assert (nothing + nothing).count.tolist() == [0, 0]


def test_the_extremes_are_exact_and_zero_is_zero() -> None:
    found = Statistics.of(np.array([[-5.0], [0.0], [0.0], [7.0]]))
    assert (found.quantile(0)[0], found.quantile(0.5)[0], found.quantile(1)[0]) == (pytest.approx(-5, rel=0.01), 0, 7)
    assert found.quantile(0)[0] >= -5


@given(VECTORS)
def test_a_row_keeps_them(values: Any) -> None:
    found = Statistics.of(values)
    back = Statistics.from_row(found.as_row())
    same(back, found)
    assert back.m2.tolist() == found.m2.tolist()


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, np.finfo(np.float32).min, SMALLEST, 1e-45, -0.0])
def test_the_largest_and_the_smallest_numbers_have_a_bin(value: float) -> None:
    found = Bins.of(np.array([value])).quantile(0.5)
    assert found == pytest.approx(value, rel=RELATIVE_ERROR * 1.001, abs=SMALLEST)


def test_columns_of_different_sizes_are_not_joined() -> None:
    with pytest.raises(ValueError, match=r"one size, got \[2, 3\]"):
        Statistics.join([Statistics.of(np.zeros((1, 2))), Statistics.of(np.zeros((1, 3)))])
    with pytest.raises(ValueError, match="a share within"):
        Statistics.of(np.zeros((1, 2))).quantile(1.5)


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), max_size=12), min_size=1, max_size=6))
def test_rows_taken_at_once_are_the_rows_joined_one_by_one(parts: list[list[float]]) -> None:
    """Elements that one episode has nothing of included: the second is the first without its negative values."""
    rows = []
    for part in parts:
        first = np.array(part, np.float64)
        rows.append(Statistics.of(np.stack([first, np.where(first < 0, np.nan, first)], axis=1)).as_row())
    schema = pa.schema([field for field in STATISTICS if field.name not in ("episode_id", "column")])
    found = Statistics.from_table(pa.Table.from_pylist(rows, schema=schema))
    wanted = Statistics.join(map(Statistics.from_row, rows))
    for name in ("count", "mean", "min", "max"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.m2, wanted.m2, rtol=1e-6, atol=1e-3)
    for a, b in zip(found.bins, wanted.bins, strict=True):
        assert (a.keys.tolist(), a.counts.tolist()) == (b.keys.tolist(), b.counts.tolist())
