"""The alignment arithmetic against an independent one: pandas' `merge_asof`, and numpy's `interp`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from hypothesis import assume, given
from hypothesis import strategies as st

from dataset_catalog.sampling import sample

NOW_NS = 1_760_000_000_000_000_000  # beyond what a float64 can count one by one
TIMES = st.lists(st.integers(0, 10**9), min_size=1, max_size=40, unique=True).map(sorted)
ASKED = st.lists(st.integers(-(10**8), 11 * 10**8), min_size=1, max_size=40).map(sorted)
TOLERANCE = st.integers(0, 3 * 10**8)


def series(times: list[int]) -> tuple[Any, Any]:
    """Times, and one value for each that tells which it is."""
    return np.array(times, np.int64) + NOW_NS, np.arange(len(times), dtype=np.float32)[:, None]


def merged(
    times: Any, values: Any, at: Any, tolerance_ns: int, *, direction: Literal["nearest", "backward"]
) -> pd.DataFrame:
    """One row for each asked time: `value` and the time `taken`, null where nothing is in tolerance."""
    right = pd.DataFrame({"t_ns": times, "taken": times, "value": values[:, 0]})
    return pd.merge_asof(pd.DataFrame({"t_ns": at}), right, on="t_ns", direction=direction, tolerance=tolerance_ns)


@given(TIMES, ASKED, TOLERANCE)
def test_previous_is_a_backward_merge(times: list[int], asked: list[int], tolerance_ns: int) -> None:
    t, values = series(times)
    at = np.array(asked, np.int64) + NOW_NS
    got = sample("previous", t, values, at, tolerance_ns=tolerance_ns)
    expected = merged(t, values, at, tolerance_ns, direction="backward")
    assert got.valid.tolist() == expected["value"].notna().tolist()
    assert got.values[got.valid, 0].tolist() == expected["value"].dropna().tolist()


@given(TIMES, ASKED, TOLERANCE)
def test_nearest_is_a_nearest_merge_but_for_which_of_two_equally_near(
    times: list[int], asked: list[int], tolerance_ns: int
) -> None:
    t, values = series(times)
    at = np.array(asked, np.int64) + NOW_NS
    got = sample("nearest", t, values, at, tolerance_ns=tolerance_ns)
    expected = merged(t, values, at, tolerance_ns, direction="nearest")
    assert got.valid.tolist() == expected["value"].notna().tolist()
    for j in np.flatnonzero(got.valid):
        theirs = int(expected["value"][j])
        assert abs(got.age_ns[j]) == abs(int(at[j]) - int(t[theirs]))
        assert int(got.values[j, 0]) in (theirs, theirs - 1)  # of two equally near ours is the earlier


@given(TIMES, ASKED)
def test_linear_is_the_interpolation_of_numpy(times: list[int], asked: list[int]) -> None:
    """At times that a float64 can count, which is all that `interp` has."""
    assume(len(times) > 1)
    t, at = np.array(times, np.int64), np.array(asked, np.int64)
    values = np.random.default_rng(len(times)).normal(size=(len(times), 1)).astype(np.float32)
    got = sample("linear", t, values, at, tolerance_ns=2 * 10**9)
    inside = (at >= t[0]) & (at <= t[-1])
    assert got.valid.tolist() == inside.tolist()
    np.testing.assert_allclose(got.values[inside, 0], np.interp(at[inside], t, values[:, 0]), rtol=1e-5, atol=1e-6)


@given(st.integers(1, 10**6), st.integers(0, 2**40), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_linear_reproduces_a_line_wherever_it_is_asked(period_ns: int, offset_ns: int, places: list[float]) -> None:
    """To the last bit of float32, also at today's times, where a float64 no longer tells neighbours apart."""
    t = NOW_NS + offset_ns + np.arange(50, dtype=np.int64) * period_ns
    values = np.stack([np.arange(50.0), 3 - 2 * np.arange(50.0)], axis=1).astype(np.float32)
    at = t[0] + (np.array(places) * 49 * period_ns).astype(np.int64)
    got = sample("linear", t, values, at, tolerance_ns=period_ns)
    steps = (at - t[0]) / period_ns
    assert got.valid.all()
    np.testing.assert_allclose(got.values[:, 0], steps, rtol=2e-7, atol=1e-6)
    np.testing.assert_allclose(got.values[:, 1], 3 - 2 * steps, rtol=2e-7, atol=2e-6)
