"""Reading a timed series at other times: nearest, previous, linear, slerp. Pure array code.

The align job and the feed both import this module, so a step and a window agree on every value.

Times are int64 nanoseconds, ascending. What is taken is fixed to the bit:

- `nearest` takes the closest time; of two equally close the earlier; of equal times the first.
- `previous` takes the last value at or before the asked time.
- `linear` lies on the line between the two neighbours, `slerp` on the shorter arc between two unit quaternions
  (w x y z). At the very time of a value both give that value, bit for bit, as `nearest` and `previous` always do.

Nothing is extrapolated: outside the series `previous`, `linear` and `slerp` give the edge value, marked invalid.

Several series can be read at once, one behind the other in `times` and `values`: `Parts` says which of them each asked
time is of. What comes out is what each series gives by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Policy = Literal["nearest", "previous", "linear", "slerp"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

_PARALLEL = 0.9995  # above this cosine the arc is a line to float32 precision, and sin(angle) too small to divide by


@dataclass(frozen=True, slots=True)
class Sampled:
    """What `m` asked times gave.

    values   (m, d) float32; where `valid` is False the closest thing there was (zeros from an empty series)
    age_ns   (m,) int64, asked time − time of the value taken; for linear and slerp that of the earlier neighbour
    valid    (m,) bool, within tolerance
    """

    values: NDArray[np.float32]
    age_ns: NDArray[np.int64]
    valid: NDArray[np.bool_]


class Parts(NamedTuple):
    """Of each asked time (m,) the series that it is read from: `times[first:end]`, ascending and not empty."""

    first: NDArray[np.int64]
    end: NDArray[np.int64]


def sample(
    policy: Policy,
    times: NDArray[np.int64],
    values: NDArray[np.float32],
    at: NDArray[np.int64],
    *,
    tolerance_ns: int,
    parts: Parts | None = None,
) -> Sampled:
    """The series `times` (n,) → `values` (n, d) read at the times `at` (m,), in any order; or its `parts`.

    A value is valid when it is at most `tolerance_ns` away; linear and slerp want both neighbours that near.
    Raises `ValueError` for an unknown policy, a negative tolerance, or shapes that do not fit.
    """
    _check(policy, times, values, tolerance_ns)
    if len(times) == 0:
        empty = np.zeros(len(at), np.int64)
        return Sampled(np.zeros((len(at), values.shape[1]), np.float32), empty, empty.astype(bool))
    if policy == "nearest":
        index = nearest_index(times, at, parts=parts)
        age = at - times.take(index)
        return Sampled(values.take(index, axis=0), age, np.abs(age) <= tolerance_ns)
    if policy == "previous":
        index = previous_index(times, at, parts=parts)
        age = at - times.take(index)
        return Sampled(values.take(index, axis=0), age, (age >= 0) & (age <= tolerance_ns))
    return _between(policy, times, values, at, tolerance_ns, parts)


def nearest_index(times: NDArray[np.int64], at: NDArray[np.int64], *, parts: Parts | None = None) -> NDArray[np.int64]:
    """Index (m,) of the time closest to each of `at`; a tie goes to the earlier. `times` must not be empty."""
    first, last = _edges(times, parts)
    after = _search(times, at, parts)
    before, after = np.maximum(after - 1, first), np.minimum(after, last)
    since, until = at - times.take(before), np.abs(times.take(after) - at)
    # the earlier one may be the last of several equal times: go back to the first of them
    return _search(times, times.take(np.where(since <= until, before, after)), parts)


def previous_index(times: NDArray[np.int64], at: NDArray[np.int64], *, parts: Parts | None = None) -> NDArray[np.int64]:
    """Index (m,) of the last time at or before each of `at`; the first where there is none. `times` must not be
    empty."""
    index: NDArray[np.int64] = np.maximum(_search(times, at, parts, side="right") - 1, _edges(times, parts)[0])
    return index


def _edges(times: NDArray[np.int64], parts: Parts | None) -> tuple[Any, Any]:
    """The first and the last index that an asked time may be given."""
    return (0, len(times) - 1) if parts is None else (parts.first, parts.end - 1)


def _search(
    times: NDArray[np.int64], at: NDArray[np.int64], parts: Parts | None, side: Literal["left", "right"] = "left"
) -> NDArray[np.int64]:
    """`times.searchsorted`; in parts by halving all of them together, as often as the longest needs."""
    if parts is None:
        found: NDArray[np.int64] = times.searchsorted(at, side=side)
        return found
    low, high = parts
    is_before = np.less if side == "left" else np.less_equal
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1  # at the end both are the same, and may lie behind the last time
        go_on = is_before(times.take(middle, mode="clip"), at) & (middle < high)
        low, high = np.where(go_on, middle + 1, low), np.where(go_on, high, middle)
    return low


def _between(
    policy: Policy,
    times: NDArray[np.int64],
    values: NDArray[np.float32],
    at: NDArray[np.int64],
    tolerance_ns: int,
    parts: Parts | None,
) -> Sampled:
    before = previous_index(times, at, parts=parts)
    age = at - times[before]
    after = np.where(age <= 0, before, np.minimum(before + 1, _edges(times, parts)[1]))
    ahead = times[after] - at
    gap = times[after] - times[before]
    weight = np.divide(age, gap, out=np.zeros(len(at)), where=gap > 0)
    mix = _slerp if policy == "slerp" else _lerp
    mixed = np.where((gap > 0)[:, None], mix(values[before], values[after], weight[:, None]), values[before])
    inside = (age >= 0) & (ahead >= 0)
    return Sampled(mixed.astype(np.float32), age, inside & (age <= tolerance_ns) & (ahead <= tolerance_ns))


def _lerp(start: NDArray[np.float32], end: NDArray[np.float32], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    mixed: NDArray[np.float64] = start.astype(np.float64) * (1 - weight) + end.astype(np.float64) * weight
    return mixed


def _slerp(start: NDArray[np.float32], end: NDArray[np.float32], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shoemake, "Animating rotation with quaternion curves" (1985), on the shorter arc; (m, 4) each."""
    a, b = _unit(start), _unit(end)
    cosine = np.sum(a * b, axis=1, keepdims=True)
    b, cosine = np.where(cosine < 0, -b, b), np.abs(cosine)
    angle = np.arccos(np.minimum(cosine, _PARALLEL))
    arc = (np.sin((1 - weight) * angle) * a + np.sin(weight * angle) * b) / np.sin(angle)
    return _unit(np.where(cosine > _PARALLEL, a + weight * (b - a), arc))


def _unit(quaternions: NDArray[Any]) -> NDArray[np.float64]:
    wide = quaternions.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(wide, length, out=wide.copy(), where=length > 0)
    return unit


def _check(policy: str, times: NDArray[np.int64], values: NDArray[np.float32], tolerance_ns: int) -> None:
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    if tolerance_ns < 0:
        raise ValueError(f"tolerance_ns must be >= 0, got {tolerance_ns}")
    if values.ndim != 2 or len(values) != len(times):
        raise ValueError(f"values must be ({len(times)}, d), one row a time, got {values.shape}")
    if policy == "slerp" and values.shape[1] != 4:
        raise ValueError(f"slerp takes quaternions w x y z, got vectors of {values.shape[1]}")
