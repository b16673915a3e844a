"""Specs, series and steps: what a dataset's rows are made of."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog.align import Frames, Series, rate_times, series_batch, statistics_batch, steps_batch
from dataset_catalog.schema import SERIES
from dataset_catalog.statistics import Statistics
from ray_jobs import align_episode
from ray_jobs import series as series_module
from ray_jobs.align_spec import AlignSpec, Column
from ray_jobs.episodes import Episode
from ray_jobs.errors import SpecError
from ray_jobs.series import Readings, vector_at

SPECS = Path(__file__).parents[2] / "ray_jobs" / "specs"
FIELD = 'topic = "/q"\nfield = "p"\ntolerance_ms = 1'
POSITION = {"topic": "/q", "field": "position", "policy": "nearest", "tolerance_ms": 1, "size": 2}


def column(**more: Any) -> Column:
    return Column.model_validate(POSITION | more)


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_specs_that_come_with_us_can_be_read(path: Path) -> None:
    spec = AlignSpec.load(path)
    assert spec.name == path.stem
    assert spec.reference in spec.cameras


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "A b"\nrate_hz = 1', "name:"),
        ('name = "a"', "either reference"),
        ('name = "a"\nrate_hz = 0', "rate_hz: Input should be greater than 0"),
        ('name = "a"\nrate_hz = 1\nspeed = 2', "speed: Extra inputs"),
        ('name = "a"\nreference = "Head.cam"', "cameras.Head.cam"),
        (f'name = "a"\nrate_hz = 1\n[columns.t_ns]\n{FIELD}\npolicy = "nearest"\nsize = 1', "t_ns: two columns"),
        (f'name = "a"\nrate_hz = 1\n[columns.q]\n{FIELD}\npolicy = "slerp"\nsize = 3', "columns.q: .* slerp"),
        ("name = ", "Invalid"),
    ],
)
def test_a_wrong_spec_says_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=said):
        AlignSpec.load(path)


def test_the_reference_is_a_camera_with_tolerance_zero_unless_the_spec_says_more() -> None:
    assert AlignSpec(name="a", reference="cam").cameras["cam"].tolerance_ns == 0
    wide = {"name": "a", "reference": "cam", "cameras": {"cam": {"tolerance_ms": 2.5}}}
    assert AlignSpec.model_validate(wide).cameras["cam"].tolerance_ns == 2_500_000


@pytest.mark.parametrize(
    ("message", "field", "vector"),
    [
        ({"p": [1, 2]}, "p", [1, 2]),
        ({"a": {"p": np.array([1.5])}}, "a.p", [1.5]),
        ({"level": 3}, "level", [3]),
        ({"q": {"x": 1, "y": 2, "z": 3, "w": 4}}, "q", [4, 1, 2, 3]),
        ({"v": {"z": 3, "y": 2, "x": 1}}, "v", [1, 2, 3]),
        ({"p": [1, None]}, "p", None),
        ({"p": []}, "p", None),
        ({"p": "on"}, "p", None),
        ([1], "p", None),
    ],
)
def test_a_field_is_a_vector_or_no_reading(message: Any, field: str, vector: Any) -> None:
    assert vector_at(message, field) == vector


numbers = st.floats() | st.integers(-(2**70), 2**70) | st.booleans()
vectors = numbers | st.none() | st.text(max_size=1) | st.lists(numbers | st.none(), max_size=3)


def to_series(name: str, of: Column, *segments: list[tuple[int, Any]]) -> Series:
    readings = Readings(name, of)
    for messages in segments:
        readings.add(messages)
    return readings.series()


@given(st.lists(st.tuples(st.integers(0, 9), vectors), max_size=4), st.integers(0, 4))
def test_a_series_does_not_depend_on_how_its_messages_lie_in_segments(found: list[tuple[int, Any]], cut: int) -> None:
    messages = [(t_ns, {"position": value}) for t_ns, value in found]

    def series_or_error(*segments: list[tuple[int, Any]]) -> Any:
        try:
            one = to_series("q", column(), *segments)
        except SpecError as error:
            return str(error)
        return one.t_ns.tolist(), one.values.shape, one.values.tolist()

    assert series_or_error(messages[:cut], messages[cut:]) == series_or_error(messages)


@given(st.lists(st.tuples(st.integers(0, 9), vectors), max_size=4), st.integers(1, 2))
def test_vectors_taken_at_once_are_those_taken_message_by_message(found: list[tuple[int, Any]], size: int) -> None:
    messages = [(t_ns, {"position": value}) for t_ns, value in found]

    def series_or_error() -> Any:
        try:
            one = to_series("q", column(size=size), messages)
        except SpecError as error:
            return str(error)
        return one.t_ns.tolist(), one.values.shape, one.values.tolist()

    at_once = series_or_error()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series_module, "_values_at_once", lambda *_: None)
        assert series_or_error() == at_once


def test_ordinary_readings_are_taken_at_once() -> None:
    messages = [(1, {"position": [0.5, 1]}), (2, {"position": [1, 2]})]
    taken = series_module._values_at_once(column(), messages)
    assert taken is not None
    assert taken.tolist() == [[0.5, 1.0], [1.0, 2.0]]


def test_a_series_of_every_column_is_a_row_a_reading() -> None:
    """One without a reading has none, and vectors may have any size."""
    one = Series(np.array([1, 3]), np.array([[1, 2], [3, 4]], np.float32), None)
    other = Series(np.array([2]), np.array([[5]], np.float32), None)
    none = Series(np.zeros(0, np.int64), np.zeros((0, 7), np.float32), None)
    episode = Episode("e", "r", "x", "", None, None, 0, 10)

    rows = series_batch(SERIES, episode, {"b": one, "c": none, "a": other}).to_pylist()

    assert [(row["episode_id"], row["column"], row["t_ns"], row["value"]) for row in rows] == [
        ("e", "a", 2, [5.0]),
        ("e", "b", 1, [1.0, 2.0]),
        ("e", "b", 3, [3.0, 4.0]),
    ]
    assert series_batch(SERIES, episode, {"c": none}).num_rows == 0


def test_a_series_is_in_order_of_time_and_leaves_out_messages_without_a_reading() -> None:
    messages = [(3, {"position": [5, 6]}), (1, {"position": [1, 2]}), (2, {"position": None})]
    found = to_series("state", column(), messages)
    assert (found.t_ns.tolist(), found.values.tolist(), found.names) == ([1, 3], [[1, 2], [5, 6]], None)
    assert found.within(2, 4).t_ns.tolist() == [3]
    assert to_series("state", column(), []).values.shape == (0, 2)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"velocity": [1, 2]}], r"no message of /q has numbers at 'position', but \['velocity'\]"),
        ([{"position": [1, 2, 3]}], "has 3 numbers, not 2"),
        ([{"position": [1, 2], "name": ["a", "b"]}, {"position": [1, 2], "name": ["b", "a"]}], "names .* change"),
        ([{"position": [1, 2], "name": ["a"]}], "has 1 names, not 2"),
    ],
)
def test_a_column_that_does_not_fit_says_why(messages: list[Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        to_series("state", column(names="name"), list(enumerate(messages)))


@given(st.integers(0, 10**18), st.integers(0, 10**10), st.floats(0.5, 1000))
def test_a_fixed_rate_ticks_without_drift(start_ns: int, duration_ns: int, rate_hz: float) -> None:
    times = rate_times(start_ns, start_ns + duration_ns, rate_hz=rate_hz)
    period = Fraction(10**9) / Fraction(rate_hz)
    exact = [start_ns + i * period for i in range(len(times))]
    assert all(abs(t - e) <= Fraction(1, 2) for t, e in zip(times.tolist(), exact, strict=True))
    assert len(times) == 0 or times[-1] < start_ns + duration_ns
    assert start_ns + len(times) * period >= start_ns + duration_ns - 1


def test_steps_take_what_is_in_tolerance_and_null_otherwise() -> None:
    data = {"name": "a", "rate_hz": 10, "columns": {"state": POSITION}, "cameras": {"cam": {"tolerance_ms": 20}}}
    spec = AlignSpec.model_validate(data)
    ms = 1_000_000
    frames = Frames("original")
    frames.add_gop([0, 33 * ms, 66 * ms])
    frames.add_gop([100 * ms, 133 * ms])
    series = Series(np.array([1, 150, 200]) * ms, np.array([[1, 2], [3, 4], [5, 6]], np.float32), None)
    episode = Episode("E", "r", "REC", "", None, None, 0, 300 * ms)
    found = steps_batch(episode, spec, {"state": series}, {"cam": frames}).to_pylist()
    assert [row["t_ns"] for row in found] == [0, 100 * ms, 200 * ms]
    assert [row["state"] for row in found] == [[1, 2], None, [5, 6]]
    assert [row["state_age_ns"] for row in found] == [-ms, None, 0]
    assert [(row["cam_gop"], row["cam_k"], row["cam_age_ns"]) for row in found] == [(0, 0, 0), (1, 0, 0), (None,) * 3]
    empty = steps_batch(episode, spec, {"state": series}, {"cam": Frames("original")}).to_pylist()
    assert all(row["cam_gop"] is None for row in empty)


def test_statistics_leave_out_what_only_the_tolerance_reaches() -> None:
    series = Series(np.array([-5, 0, 50, 99, 100]), np.array([[9], [1], [2], [6], [9]], np.float32), None)
    episode = Episode("E", "r", "REC", "", None, None, 0, 100)
    (row,) = statistics_batch(episode, {"state": series}).to_pylist()
    assert (row["episode_id"], row["column"]) == ("E", "state")
    found = Statistics.from_row(row)
    assert (found.count[0], found.mean[0], found.min[0], found.max[0]) == (3, 3, 1, 6)


class Read:
    """An episode that has been read, with so many readings; or that does not fit, where there is no number."""

    def __init__(self, name: str, readings: int | None) -> None:
        self.episode = Episode(name, "r", "x", "", None, None, 0, 1)
        self._readings = readings

    def check(self) -> None:
        if self._readings is None:
            raise SpecError("it does not fit")

    def series(self) -> dict[str, Series]:
        count = self._readings or 0
        return {"c": Series(np.zeros(count, np.int64), np.zeros((count, 2), np.float32), None)}


def test_episodes_are_written_together_as_many_as_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align_episode, "TOGETHER_BYTES", 100 * 16)
    skipped: dict[str, str] = {}
    read = [Read("a", 99), Read("b", None), Read("c", 1), Read("d", 500), Read("e", 0)]
    found = align_episode._together(cast(Any, read), skipped)
    assert [[one.episode.episode_id for one, _ in together] for together in found] == [["a", "c"], ["d"], ["e"]]
    assert skipped == {"b": "it does not fit"}
