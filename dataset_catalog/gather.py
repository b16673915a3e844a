"""The values and the frames of many windows, gathered episode by episode. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.episodes import Episode, EpisodeReader
from dataset_catalog.errors import NotFound
from dataset_catalog.frames import Frame
from dataset_catalog.sampling import nearest_index, sample
from dataset_catalog.spec import CameraWindow, ColumnWindow, Offsets, WindowSpec

Place = tuple[str, int]  # episode id, step


class Visit(NamedTuple):
    """The windows of one episode in a batch: their rows in the batch (m,), and their steps (m,)."""

    episode: Episode
    rows: NDArray[np.int64]
    steps: NDArray[np.int64]


class Gathered(NamedTuple):
    """`values` (B, K, D) float32, `valid` (B, K) bool, `age_ns` (B, K) int64."""

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    age_ns: NDArray[np.int64]


class Sights(NamedTuple):
    """`frames` by [window][offset], None where the episode has none; `valid` and `age_ns` as above."""

    frames: list[list[Frame | None]]
    valid: NDArray[np.bool_]
    age_ns: NDArray[np.int64]


def visits(places: Sequence[Place], episodes: EpisodeReader) -> list[Visit]:
    """The places of a batch, by episode. Raises `NotFound` for one that the selection or the episode does not have."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, (episode_id, _) in enumerate(places):
        rows[episode_id].append(row)
    found = episodes.get(rows)
    return [_visit(found[name], np.array(own), np.array([places[i][1] for i in own])) for name, own in rows.items()]


def gather_columns(spec: WindowSpec, visits: Sequence[Visit], count: int) -> dict[str, Gathered]:
    """All columns of `count` windows, relative where they are to be, and normalized."""
    references = {column.name: gather_column(column, visits, count) for column in spec.references}
    return {column.name: _as_asked(column, gather_column(column, visits, count), references) for column in spec.columns}


def gather_column(window: ColumnWindow, visits: Sequence[Visit], count: int) -> Gathered:
    """A column of `count` windows at its offsets, as it was recorded."""
    shape = (count, len(window.offsets))
    out = Gathered(np.empty((*shape, window.size), np.float32), np.empty(shape, bool), np.empty(shape, np.int64))
    asked, inside = _asked(visits, window.offsets, count)
    parts = []
    for visit, at in _by_visit(visits, asked):
        series = visit.episode.series[window.name]
        parts.append(sample(window.policy, series.t_ns, series.values, at, tolerance_ns=window.tolerance_ns))
    if parts:
        order = _order(visits)
        out.values[order] = np.concatenate([part.values for part in parts]).reshape(out.values.shape)
        out.valid[order] = np.concatenate([part.valid for part in parts]).reshape(shape)
        out.age_ns[order] = np.concatenate([part.age_ns for part in parts]).reshape(shape)
    return Gathered(out.values, out.valid & inside, out.age_ns)


def find_frames(window: CameraWindow, visits: Sequence[Visit], count: int) -> Sights:
    """The frames nearest to a camera's offsets, of all that are stored for the episode; of two the earlier."""
    shape = (count, len(window.offsets))
    frames: list[list[Frame | None]] = [[None] * shape[1] for _ in range(count)]
    asked, inside = _asked(visits, window.offsets, count)
    taken = asked.copy()
    for visit, at in _by_visit(visits, asked):
        track = visit.episode.tracks.get(window.name)
        if track is None or not len(track.t_ns):
            inside[visit.rows] = False
            continue
        number = nearest_index(track.t_ns, at).reshape(-1, shape[1])
        taken[visit.rows] = track.t_ns.take(number)
        for row, found in zip(visit.rows.tolist(), track.frames(number), strict=True):
            frames[row] = list(found)
    age_ns = asked - taken
    return Sights(frames, inside & (np.abs(age_ns) <= window.tolerance_ns), age_ns)


def _visit(episode: Episode, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> Visit:
    if steps.min() < 0 or steps.max() >= len(episode.t_ns):
        raise NotFound(f"episode {episode.episode_id} has the steps 0 to {len(episode.t_ns) - 1}, got {steps.tolist()}")
    return Visit(episode, rows, steps)


def _as_asked(window: ColumnWindow, got: Gathered, references: dict[str, Gathered]) -> Gathered:
    values, valid = got.values, got.valid
    if window.relative:
        reference = references[window.relative.to]
        values = window.relative.subtract(values, reference.values[:, 0])
        valid = valid & reference.valid  # (B, K) & (B, 1): relative to nothing it is no action
    return Gathered(window.scaling.apply(values) if window.scaling else values, valid, got.age_ns)


def _asked(visits: Sequence[Visit], offsets: Offsets, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times asked for (B, K), moved to the episode's edge where they lie outside, and which lie inside."""
    away = np.array(offsets.values, np.int64)
    if offsets.unit == "ticks":
        at, inside = np.empty((count, len(away)), np.int64), np.empty((count, len(away)), bool)
        for visit in visits:
            at[visit.rows], inside[visit.rows] = _ticks(visit, away)
        return at, inside
    now, start, last = np.empty((3, count, 1), np.int64)
    for episode, rows, steps in visits:
        now[rows, 0] = episode.t_ns[steps]
        start[rows], last[rows] = episode.start_ns, episode.end_ns - 1
    at = now + away
    return np.minimum(np.maximum(at, start), last), (at >= start) & (at <= last)


def _by_visit(visits: Sequence[Visit], asked: NDArray[np.int64]) -> Iterator[tuple[Visit, NDArray[np.int64]]]:
    """Each visit with its rows of the times asked for (B, K), flat; a slice costs a tenth of picking rows."""
    flat = asked[_order(visits)].ravel()
    at = 0
    for visit in visits:
        end = at + visit.rows.size * asked.shape[1]
        yield visit, flat[at:end]
        at = end


def _order(visits: Sequence[Visit]) -> NDArray[np.int64]:
    """The rows of one visit after the other's."""
    return np.concatenate([visit.rows for visit in visits]) if visits else np.zeros(0, np.int64)


def _ticks(visit: Visit, away: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    times, tick = visit.episode.t_ns, visit.steps[:, None] + away
    last = len(times) - 1
    return times[np.minimum(np.maximum(tick, 0), last)], (tick >= 0) & (tick <= last)
