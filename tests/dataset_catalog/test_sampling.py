"""The alignment arithmetic against the most obvious loops that could be written for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.sampling import POLICIES, Parts, Policy, Sampled, nearest_index, previous_index, sample

TIMES = st.lists(st.integers(0, 60), min_size=1, max_size=12).map(sorted)
ASKED = st.lists(st.integers(-20, 80), min_size=1, max_size=12)
TOLERANCE = st.integers(0, 40)


def series(times: list[int], size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(len(times)).normal(size=(len(times), size)).astype(np.float32)
    return np.array(times, np.int64), values


def slow_nearest(times: list[int], at: int) -> int:
    return min(range(len(times)), key=lambda i: (abs(times[i] - at), i))


def slow_previous(times: list[int], at: int) -> int | None:
    return max((i for i, t in enumerate(times) if t <= at), default=None)


def slow_linear(times: list[int], values: np.ndarray, at: int) -> np.ndarray | None:
    """np.interp column by column, which handles equal times as ours does: the later value holds from there on."""
    if not times[0] <= at <= times[-1]:
        return None
    i = slow_previous(times, at)
    assert i is not None
    if times[i] == at:
        return values[i]
    w = (at - times[i]) / (times[i + 1] - times[i])
    return values[i].astype(float) * (1 - w) + values[i + 1].astype(float) * w


@given(TIMES, ASKED, TOLERANCE)
def test_nearest_is_nearest_and_a_tie_goes_to_the_earlier(times: list[int], at: list[int], tolerance: int) -> None:
    t, values = series(times)
    got = sample("nearest", t, values, np.array(at), tolerance_ns=tolerance)
    for j, asked in enumerate(at):
        i = slow_nearest(times, asked)
        assert got.values[j].tobytes() == values[i].tobytes()
        assert got.age_ns[j] == asked - times[i]
        assert got.valid[j] == (abs(asked - times[i]) <= tolerance)


@given(TIMES, ASKED, TOLERANCE)
def test_previous_never_looks_ahead(times: list[int], at: list[int], tolerance: int) -> None:
    t, values = series(times)
    got = sample("previous", t, values, np.array(at), tolerance_ns=tolerance)
    for j, asked in enumerate(at):
        i = slow_previous(times, asked)
        assert got.valid[j] == (i is not None and asked - times[i] <= tolerance)
        assert got.values[j].tobytes() == values[i or 0].tobytes()
        assert got.age_ns[j] == asked - times[i or 0]


@given(TIMES, ASKED, TOLERANCE)
def test_linear_lies_on_the_line_and_wants_both_neighbours_near(
    times: list[int], at: list[int], tolerance: int
) -> None:
    t, values = series(times)
    got = sample("linear", t, values, np.array(at), tolerance_ns=tolerance)
    for j, asked in enumerate(at):
        expected = slow_linear(times, values, asked)
        if expected is None:
            edge = 0 if asked < times[0] else -1
            assert not got.valid[j]
            assert got.values[j].tobytes() == values[edge].tobytes()
            continue
        np.testing.assert_allclose(got.values[j], expected, rtol=1e-6, atol=1e-7)
        before = max(x for x in times if x <= asked)
        after = min(x for x in times if x >= asked)
        assert got.valid[j] == (asked - before <= tolerance and after - asked <= tolerance)
        assert got.age_ns[j] == asked - before


@given(st.lists(st.tuples(TIMES, ASKED), min_size=1, max_size=4), st.sampled_from(POLICIES), TOLERANCE)
def test_series_read_at_once_give_what_each_gives_by_itself(
    asked: list[tuple[list[int], list[int]]], policy: Policy, tolerance: int
) -> None:
    several = [series(times, size=4) for times, _ in asked]
    single = [
        sample(policy, t, values, np.array(at), tolerance_ns=tolerance)
        for (t, values), (_, at) in zip(several, asked, strict=True)
    ]
    counts, ends = [len(at) for _, at in asked], np.cumsum([len(times) for times, _ in asked])
    firsts = ends - [len(times) for times, _ in asked]
    together = sample(
        policy,
        np.concatenate([t for t, _ in several]),
        np.concatenate([values for _, values in several]),
        np.concatenate([at for _, at in asked]),
        tolerance_ns=tolerance,
        parts=Parts(np.repeat(firsts, counts), np.repeat(ends, counts)),
    )
    for name in ("values", "age_ns", "valid"):
        assert getattr(together, name).tobytes() == np.concatenate([getattr(one, name) for one in single]).tobytes()


@pytest.mark.parametrize("policy", ["nearest", "previous", "linear"])
def test_a_value_asked_for_at_its_own_time_comes_back_bit_for_bit(policy: str) -> None:
    t, values = series(list(range(0, 1000, 7)), size=5)
    got = sample(policy, t, values, t, tolerance_ns=0)  # type: ignore[arg-type]
    assert got.values.tobytes() == values.tobytes()
    assert got.valid.all()


def rotation(degrees: float) -> list[float]:
    """About z, as w x y z."""
    half = math.radians(degrees) / 2
    return [math.cos(half), 0.0, 0.0, math.sin(half)]


@pytest.mark.parametrize("turn", [1e-3, 1.0, 90.0, 179.0, -120.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_slerp_turns_at_a_constant_rate_on_the_shorter_arc(turn: float, sign: int) -> None:
    times = np.array([0, 100])
    quaternions = np.array([rotation(0), rotation(turn)], np.float32) * np.array([[1], [sign]], np.float32)
    got = sample("slerp", times, quaternions, np.array([25, 50, 75]), tolerance_ns=100)
    for w, quaternion in zip((0.25, 0.5, 0.75), got.values, strict=True):
        assert abs(np.dot(quaternion, rotation(turn * w))) == pytest.approx(1, abs=1e-6)
        assert 2 * math.degrees(math.atan2(*quaternion[[3, 0]])) == pytest.approx(turn * w, rel=1e-3, abs=1e-4)
    np.testing.assert_allclose(np.linalg.norm(got.values, axis=1), 1, atol=1e-6)


@given(TIMES, ASKED)
def test_slerp_stays_on_the_unit_sphere_and_finite(times: list[int], at: list[int]) -> None:
    t, values = series(times, size=4)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    got = sample("slerp", t, values, np.array(at), tolerance_ns=100)
    np.testing.assert_allclose(np.linalg.norm(got.values, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("policy", ["nearest", "previous", "linear", "slerp"])
def test_an_empty_series_gives_zeros_that_are_not_valid(policy: str) -> None:
    got = sample(policy, np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.array([1, 2]), tolerance_ns=9)  # type: ignore[arg-type]
    assert isinstance(got, Sampled)
    assert got.values.tolist() == [[0] * 4] * 2
    assert not got.valid.any()


def test_what_does_not_fit_is_refused_with_a_sentence() -> None:
    t, values = series([1, 2, 3])
    with pytest.raises(ValueError, match="policy must be one of nearest, previous, linear, slerp, got 'cubic'"):
        sample("cubic", t, values, t, tolerance_ns=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance_ns must be >= 0, got -5"):
        sample("nearest", t, values, t, tolerance_ns=-5)
    with pytest.raises(ValueError, match="slerp takes quaternions"):
        sample("slerp", t, values, t, tolerance_ns=1)
    with pytest.raises(ValueError, match=r"values must be \(3, d\)"):
        sample("linear", t, values[:2], t, tolerance_ns=1)


@given(TIMES, ASKED)
def test_indices_agree_with_their_loops(times: list[int], at: list[int]) -> None:
    t = np.array(times)
    assert nearest_index(t, np.array(at)).tolist() == [slow_nearest(times, x) for x in at]
    assert previous_index(t, np.array(at)).tolist() == [slow_previous(times, x) or 0 for x in at]
