"""Whatever was recorded and is asked for: values, masks and ages are those of looking at every reading."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from dataset_catalog.episodes import Episode, Series, Track
from dataset_catalog.gather import Visits, find_frames, gather_column
from dataset_catalog.spec import CameraWindow, ColumnWindow, Offsets, Steps
from tests.dataset_catalog import slow

NOW = 1_760_000_000_000_000_000  # beyond what a float64 can count one by one
TIMES = st.lists(st.integers(-60, 160), max_size=25).map(sorted)  # the episode is [0, 100); times may be equal
TICKS = st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True).map(sorted)
POLICY = st.sampled_from(["nearest", "previous", "linear", "slerp"])


def offsets(asked: Any) -> Offsets:
    return Offsets(asked.ticks, "ticks") if isinstance(asked, Steps) else Offsets(tuple(round(1e9 * s) for s in asked))


ASKED = st.one_of(
    st.lists(st.integers(-150, 150), min_size=1, max_size=6).map(lambda ns: [n / 1e9 for n in ns]),
    st.lists(st.integers(-8, 8), min_size=1, max_size=6).map(lambda ticks: Steps(tuple(ticks))),
)


def recorded(number: int, steps: list[int], times: list[int], size: int) -> tuple[Episode, Any]:
    """An episode in both forms; a reading tells which it is, and of which episode."""
    start = NOW + number * 40  # episodes overlap in time
    at = np.array(times, np.int64) + start
    values = np.array([_reading(number, place, size) for place in range(len(times))], np.float32).reshape(-1, size)
    film = Track(at, np.arange(len(times) + 1), *(np.zeros(len(times), np.uint64) for _ in range(2)), *film_of(times))
    ticks = np.array(steps, np.int64) + start
    fast = Episode(f"e{number}", "", start, start + 100, ticks, {"c": Series(at, values)}, {"v": film})
    series = list(zip(at.tolist(), values, strict=True))
    plain = SimpleNamespace(start_ns=start, end_ns=start + 100, steps=ticks.tolist(), series={"c": series})
    return fast, plain


def _reading(number: int, place: int, size: int) -> list[float]:
    """That many numbers; four are a unit quaternion."""
    angle = 0.37 * place + number
    return [1000 * number + place + 1] if size == 1 else [np.cos(angle), 0, np.sin(angle), 0]


def film_of(times: list[int]) -> tuple[Any, Any]:
    return np.ones(len(times), np.int32), (("h264", b""),) * len(times)


@given(st.lists(st.tuples(TICKS, TIMES), min_size=1, max_size=3), POLICY, ASKED, st.integers(0, 90), st.randoms())
@example([([0, 99], [0, 99]), ([50], [])], "nearest", [0.0], 0, None)
@example([([50], [48, 48, 60])], "nearest", [0.0], 5, None)
def test_any_column_of_any_episodes(
    episodes: list[tuple[list[int], list[int]]], policy: Any, asked: Any, tolerance_ns: int, random: Any
) -> None:
    size = 4 if policy == "slerp" else 1
    both = [recorded(number, *one, size) for number, one in enumerate(episodes)]
    rows = [(number, step) for number, (steps, _) in enumerate(episodes) for step in range(len(steps))]
    if random:
        random.shuffle(rows)
    window = ColumnWindow("c", offsets(asked), False, size, policy, tolerance_ns)
    got = gather_column(window, visits_of([fast for fast, _ in both], rows))
    for row, (number, step) in enumerate(rows):
        for k, when in enumerate(slow._times(both[number][1], step, asked)):
            about = {"policy": policy, "tolerance_ns": tolerance_ns}
            value, valid, age_ns = slow._value(both[number][1], "c", about, *when) if episodes[number][1] else NOTHING
            np.testing.assert_allclose(got.values[row, k], value, rtol=1e-5, atol=1e-5)
            assert (got.valid[row, k], got.age_ns[row, k]) == (valid, age_ns)
            if policy in ("nearest", "previous") and episodes[number][1]:
                assert got.values[row, k, 0] // 1000 == number, "a window has a reading of another episode"


NOTHING = (0, False, 0)


@given(st.lists(st.tuples(TICKS, TIMES), min_size=1, max_size=3), ASKED, st.integers(0, 90))
def test_any_camera_of_any_episodes(episodes: list[tuple[list[int], list[int]]], asked: Any, tolerance_ns: int) -> None:
    both = [recorded(number, *one, 1) for number, one in enumerate(episodes)]
    rows = [(number, step) for number, (steps, _) in enumerate(episodes) for step in range(len(steps))]
    window = CameraWindow("v", offsets(asked), tolerance_ns, ("original",), (8, 8))
    got = find_frames(window, visits_of([fast for fast, _ in both], rows))
    for row, (number, step) in enumerate(rows):
        for k, (at, inside) in enumerate(slow._times(both[number][1], step, asked)):
            if not episodes[number][1]:
                assert (got.frames[row][k], got.valid[row, k], got.age_ns[row, k]) == (None, False, 0)
                continue
            t, _ = min(both[number][1].series["c"], key=lambda item: (abs(item[0] - at), item[0]))
            assert got.age_ns[row, k] == at - t
            assert got.valid[row, k] == (inside and abs(at - t) <= tolerance_ns)
            assert got.frames[row][k] is not None


def visits_of(episodes: list[Episode], rows: list[tuple[int, int]]) -> Visits:
    order = sorted(range(len(rows)), key=lambda row: rows[row][0])
    counts = [sum(number == other for other, _ in rows) for number in range(len(episodes))]
    return Visits(episodes, counts, np.array(order), np.array([rows[row][1] for row in order]))
