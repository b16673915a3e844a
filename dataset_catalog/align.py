"""Steps of one episode from its clock, series and frames. Pure array code on `sampling`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataset_catalog.sampling import Policy, Sampled, nearest_index, sample
from dataset_catalog.schema import STATISTICS
from dataset_catalog.statistics import Statistics

Times = NDArray[np.int64]


class Episode(Protocol):
    """What the rows of an episode say of it."""

    @property
    def episode_id(self) -> str: ...
    @property
    def robot_id(self) -> str: ...
    @property
    def recording_id(self) -> str: ...
    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...


class Tolerant(Protocol):
    """A camera: a frame may be so far from a step's time."""

    @property
    def tolerance_ns(self) -> int: ...


class Column(Tolerant, Protocol):
    """A column's policy, beside its tolerance."""

    @property
    def policy(self) -> Policy: ...


class Spec(Protocol):
    """What steps follow, and what each of them takes: `reference` is a camera, or None and `rate_hz` says how fast."""

    @property
    def reference(self) -> str | None: ...
    @property
    def rate_hz(self) -> float | None: ...
    @property
    def cameras(self) -> Mapping[str, Tolerant]: ...
    @property
    def columns(self) -> Mapping[str, Column]: ...
    @property
    def steps_schema(self) -> pa.Schema: ...


@dataclass(frozen=True, slots=True)
class Series:
    """`t_ns` (n,) int64 ascending, `values` (n, size) float32. `names` of the elements, or None."""

    t_ns: NDArray[np.int64]
    values: NDArray[np.float32]
    names: tuple[str, ...] | None

    def within(self, start_ns: int, end_ns: int) -> Series:
        a, b = np.searchsorted(self.t_ns, [start_ns, end_ns])
        return Series(self.t_ns[a:b], self.values[a:b], self.names)


@dataclass
class Frames:
    """Frames of one camera and rendition as they are written: their times, ascending, and where each is stored."""

    rendition: str
    gops: int = 0
    times: list[int] = field(default_factory=list)
    gop: list[int] = field(default_factory=list)
    k: list[int] = field(default_factory=list)

    def add_gop(self, frame_t_ns: list[int]) -> int:
        """The number of the GOP that holds these frames."""
        number, self.gops = self.gops, self.gops + 1
        self.times += frame_t_ns
        self.gop += [number] * len(frame_t_ns)
        self.k += range(len(frame_t_ns))
        return number

    @property
    def t_ns(self) -> Times:
        return np.array(self.times, np.int64)


def step_times(episode: Episode, spec: Spec, frames: Mapping[str, Frames]) -> Times:
    """The ticks of the reference clock in `[start_ns, end_ns)`."""
    if spec.reference is not None:
        times = frames[spec.reference].t_ns
        return times[(times >= episode.start_ns) & (times < episode.end_ns)]
    return rate_times(episode.start_ns, episode.end_ns, rate_hz=spec.rate_hz or 1)


def rate_times(start_ns: int, end_ns: int, *, rate_hz: float) -> Times:
    """start_ns + i / rate_hz, each rounded on its own, so that no error adds up."""
    numerator, denominator = float(rate_hz).as_integer_ratio()
    period = denominator * 1_000_000_000
    count = -((start_ns - end_ns) * numerator // period)
    times = [start_ns + (2 * i * period + numerator) // (2 * numerator) for i in range(count)]
    return np.array([t_ns for t_ns in times if t_ns < end_ns], np.int64)


def steps_batch(
    episode: Episode,
    spec: Spec,
    series: Mapping[str, Series],
    frames: Mapping[str, Frames],
    *,
    at: Times | None = None,
) -> pa.RecordBatch:
    """The episode's rows of `steps`, at the ticks of its reference clock or where they are known; what is out of
    tolerance is null."""
    at = step_times(episode, spec, frames) if at is None else at
    columns: dict[str, Any] = {
        "robot_id": pa.repeat(episode.robot_id, len(at)),
        "recording_id": pa.repeat(episode.recording_id, len(at)),
        "episode_id": pa.repeat(episode.episode_id, len(at)),
        "step": pa.array(np.arange(len(at))),
        "t_ns": pa.array(at),
    }
    for name, column in spec.columns.items():
        found = series[name]
        taken = sample(column.policy, found.t_ns, found.values, at, tolerance_ns=column.tolerance_ns)
        columns |= _column_arrays(name, taken)
    for name, camera in spec.cameras.items():
        columns |= _camera_arrays(name, frames[name], at, camera.tolerance_ns)
    schema = spec.steps_schema
    return pa.RecordBatch.from_arrays([columns[f.name].cast(f.type) for f in schema], schema=schema)


def series_batch(schema: pa.Schema, episode: Episode, series: Mapping[str, Series]) -> pa.RecordBatch:
    """The episode's rows of `series`, by column and time."""
    names = [name for name in sorted(series) if len(series[name].t_ns)]
    if not names:
        return pa.RecordBatch.from_pylist([], schema=schema)
    parts = [series[name] for name in names]
    t_ns = np.concatenate([one.t_ns for one in parts])
    sizes = np.concatenate([np.full(len(one.t_ns), one.values.shape[1]) for one in parts])
    ends = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
    values = pa.ListArray.from_arrays(ends, pa.array(np.concatenate([one.values.ravel() for one in parts])))
    columns = pa.array(np.repeat(names, [len(one.t_ns) for one in parts]), pa.string())
    return pa.RecordBatch.from_arrays([pa.repeat(episode.episode_id, len(t_ns)), columns, t_ns, values], schema=schema)


def statistics_batch(episode: Episode, series: Mapping[str, Series]) -> pa.RecordBatch:
    """The episode's rows of `statistics`: of its readings, without those that only its tolerance reaches."""
    own = {name: one.within(episode.start_ns, episode.end_ns) for name, one in sorted(series.items())}
    rows = [
        {"episode_id": episode.episode_id, "column": name, **Statistics.of(one.values).as_row()}
        for name, one in own.items()
    ]
    return pa.RecordBatch.from_pylist(rows, schema=STATISTICS)


def _column_arrays(name: str, taken: Sampled) -> dict[str, Any]:
    mask = pa.array(~taken.valid)
    values = pa.FixedSizeListArray.from_arrays(pa.array(taken.values.ravel()), taken.values.shape[1], mask=mask)
    return {name: values, f"{name}_age_ns": pa.array(taken.age_ns, mask=~taken.valid)}


def _camera_arrays(name: str, frames: Frames, at: Times, tolerance_ns: int) -> dict[str, Any]:
    times = frames.t_ns
    index = nearest_index(times, at) if len(times) else np.zeros(len(at), np.int64)
    age = at - times[index] if len(times) else np.full(len(at), tolerance_ns + 1)
    mask = np.abs(age) > tolerance_ns
    gop, k = (np.array(one, np.int32)[index] if len(times) else index for one in (frames.gop, frames.k))
    return {
        f"{name}_gop": pa.array(gop, pa.int32(), mask=mask),
        f"{name}_k": pa.array(k, pa.int32(), mask=mask),
        f"{name}_age_ns": pa.array(age, pa.int64(), mask=mask),
    }
