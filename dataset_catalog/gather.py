"""The values and the frames of many windows, gathered for all of them at once. Pure: arrays in, arrays out.

At random every window of a batch is of another episode, and a search costs as much as fifty values. So only the few
readings around each window are cut out of its episode, and what is behind one another is searched together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.episodes import Episode, EpisodeReader
from dataset_catalog.errors import NotFound
from dataset_catalog.frames import Frame
from dataset_catalog.sampling import Parts, nearest_index, sample
from dataset_catalog.spec import CameraWindow, ColumnWindow, Offsets, WindowSpec

Place = tuple[str, int]  # episode id, step
Ints = NDArray[np.int64]

_NO_TIMES = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Visits:
    """The windows of a batch, one episode's after the other's.

    episodes  (e,) each once
    counts    (e,) how many windows are of each
    rows      (B,) which of the batch each window is
    steps     (B,) its step
    """

    episodes: Sequence[Episode]
    counts: Sequence[int]
    rows: Ints
    steps: Ints

    @cached_property
    def parts(self) -> list[slice]:
        """Of each episode its windows."""
        return [slice(a, b) for a, b in pairwise([0, *np.cumsum(self.counts, dtype=np.int64).tolist()])]

    @cached_property
    def now_ns(self) -> Ints:
        """(B,) the steps' times."""
        times = [episode.t_ns[self.steps[part]] for episode, part in zip(self.episodes, self.parts, strict=True)]
        return np.concatenate([_NO_TIMES, *times])

    @cached_property
    def range_ns(self) -> tuple[Ints, Ints]:
        """(B,) the first and the last time of their episodes."""
        edges = np.array([(episode.start_ns, episode.end_ns - 1) for episode in self.episodes], np.int64)
        start, last = self.each(edges.reshape(-1, 2)).T
        return start, last

    def where(self, wanted: Sequence[bool]) -> Visits:
        """The visits of the episodes (e,) that are wanted."""
        if all(wanted):
            return self
        each = np.array(wanted).repeat(self.counts)
        kept = [e for e, is_wanted in enumerate(wanted) if is_wanted]
        episodes, counts = [self.episodes[e] for e in kept], [self.counts[e] for e in kept]
        return Visits(episodes, counts, self.rows[each], self.steps[each])

    def each(self, values: NDArray[np.int64]) -> Ints:
        """What is said of every episode, said of every window."""
        return values.repeat(self.counts, axis=0)


class Gathered(NamedTuple):
    """`values` (B, K, D) float32, `valid` (B, K) bool, `age_ns` (B, K) int64."""

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    age_ns: Ints


class Sights(NamedTuple):
    """`frames` by [window][offset], None where the episode has none; `valid` and `age_ns` as above."""

    frames: list[Sequence[Frame | None]]
    valid: NDArray[np.bool_]
    age_ns: Ints


def visits(places: Sequence[Place], episodes: EpisodeReader) -> Visits:
    """The places of a batch, by episode. Raises `NotFound` for one that the selection or the episode does not have."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, (episode_id, _) in enumerate(places):
        rows[episode_id].append(row)
    found = episodes.get(rows)
    order = [row for own in rows.values() for row in own]
    steps = [places[row][1] for row in order]
    visited = Visits(
        [found[name] for name in rows],
        [len(own) for own in rows.values()],
        np.array(order, np.int64),
        np.array(steps, np.int64),
    )
    _check(visited)
    return visited


def gather_columns(spec: WindowSpec, visits: Visits) -> dict[str, Gathered]:
    """All columns of the windows, relative where they are to be, and normalized."""
    references = {column.name: gather_column(column, visits) for column in spec.references}
    return {column.name: _as_asked(column, gather_column(column, visits), references) for column in spec.columns}


def gather_column(window: ColumnWindow, visits: Visits) -> Gathered:
    """A column of the windows at its offsets, as it was recorded."""
    shape = (len(visits.rows), len(window.offsets))
    out = Gathered(np.zeros((*shape, window.size), np.float32), np.zeros(shape, bool), np.zeros(shape, np.int64))
    visits = visits.where([len(episode.series[window.name].t_ns) > 0 for episode in visits.episodes])
    series = [episode.series[window.name] for episode in visits.episodes]
    at, inside = _asked(visits, window.offsets)
    near = _Near.of(visits, [one.t_ns for one in series], at)
    if near.spans:
        values, parts = np.concatenate([series[e].values[a:b] for e, a, b in near.spans]), near.parts(shape[1])
        got = sample(window.policy, near.times, values, at.ravel(), tolerance_ns=window.tolerance_ns, parts=parts)
        out.values[visits.rows] = got.values.reshape(*at.shape, window.size)
        out.valid[visits.rows] = got.valid.reshape(at.shape) & inside
        out.age_ns[visits.rows] = got.age_ns.reshape(at.shape)
    return out


def find_frames(window: CameraWindow, visits: Visits) -> Sights:
    """The frames nearest to a camera's offsets, of all that are stored for the episode; of two the earlier."""
    shape = (len(visits.rows), len(window.offsets))
    frames: list[Sequence[Frame | None]] = [[None] * shape[1]] * shape[0]
    out = Sights(frames, np.zeros(shape, bool), np.zeros(shape, np.int64))
    found = [episode.tracks.get(window.name) for episode in visits.episodes]
    visits = visits.where([track is not None and len(track.t_ns) > 0 for track in found])
    tracks = [track for track in found if track is not None and len(track.t_ns)]
    at, inside = _asked(visits, window.offsets)
    near = _Near.of(visits, [track.t_ns for track in tracks], at)
    if near.spans:
        parts = near.parts(shape[1])
        index = nearest_index(near.times, at.ravel(), parts=parts)
        age_ns = at - near.times.take(index).reshape(at.shape)
        out.valid[visits.rows] = inside & (np.abs(age_ns) <= window.tolerance_ns)
        out.age_ns[visits.rows] = age_ns
        numbers = (index - parts.first).reshape(at.shape) + np.array([[first] for _, first, _ in near.spans])
        for track, part in zip(tracks, visits.parts, strict=True):
            for row, own in zip(visits.rows[part].tolist(), track.frames(numbers[part]), strict=True):
                frames[row] = own
    return out


class _Near(NamedTuple):
    """The readings around the times that windows ask for: all that one of them could be given.

    spans  (B,) of each window: which episode it is of, and from where to where they lie in the episode's times
    times  (n,) of all of them, one window's after the other's
    """

    spans: list[tuple[int, int, int]]
    times: Ints

    @classmethod
    def of(cls, visits: Visits, times: Sequence[Ints], at: Ints) -> _Near:
        """For the times asked for (B, K), in each episode's own `times`, which are not empty."""
        edges = np.stack([at.min(axis=1), at.max(axis=1) + 1], axis=1)
        spans = [
            (e, _first(own, low - 1), min(high + 1, len(own)))
            for e, (own, part) in enumerate(zip(times, visits.parts, strict=True))
            for low, high in own.searchsorted(edges[part]).tolist()
        ]
        return cls(spans, np.concatenate([_NO_TIMES, *(times[e][a:b] for e, a, b in spans)]))

    def parts(self, count: int) -> Parts:
        """For `count` times asked for by every window."""
        sizes = np.array([end - first for _, first, end in self.spans])
        ends = np.cumsum(sizes)
        return Parts((ends - sizes).repeat(count), ends.repeat(count))


def _first(times: Ints, index: int) -> int:
    """The first of the times that are equal to the one of this index; 0 in front of all."""
    if index > 0 and times[index - 1] == times[index]:
        return int(times.searchsorted(times[index]))
    return max(index, 0)


def _check(visits: Visits) -> None:
    count = visits.each(np.array([len(episode.t_ns) for episode in visits.episodes], np.int64))
    if ((visits.steps >= 0) & (visits.steps < count)).all():
        return
    for episode, part in zip(visits.episodes, visits.parts, strict=True):
        steps, last = visits.steps[part], len(episode.t_ns) - 1
        if steps.min() < 0 or steps.max() > last:
            raise NotFound(f"episode {episode.episode_id} has the steps 0 to {last}, got {steps.tolist()}")


def _as_asked(window: ColumnWindow, got: Gathered, references: dict[str, Gathered]) -> Gathered:
    values, valid = got.values, got.valid
    if window.relative:
        reference = references[window.relative.to]
        values = window.relative.subtract(values, reference.values[:, 0])
        valid = valid & reference.valid  # (B, K) & (B, 1): relative to nothing it is no action
    return Gathered(window.scaling.apply(values) if window.scaling else values, valid, got.age_ns)


def _asked(visits: Visits, offsets: Offsets) -> tuple[Ints, NDArray[np.bool_]]:
    """Times asked for (B, K), moved to the episode's edge where they lie outside, and which lie inside."""
    away = np.array(offsets.values, np.int64)
    if offsets.unit == "ticks":
        return _ticks(visits, away)
    start, last = (edge[:, None] for edge in visits.range_ns)
    at = visits.now_ns[:, None] + away
    return np.minimum(np.maximum(at, start), last), (at >= start) & (at <= last)


def _ticks(visits: Visits, away: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    ticks = visits.steps[:, None] + away
    last = visits.each(np.array([len(episode.t_ns) - 1 for episode in visits.episodes], np.int64))[:, None]
    nearest = np.minimum(np.maximum(ticks, 0), last)
    times = [episode.t_ns[nearest[part]] for episode, part in zip(visits.episodes, visits.parts, strict=True)]
    return np.concatenate([np.zeros((0, len(away)), np.int64), *times]), (ticks >= 0) & (ticks <= last)
