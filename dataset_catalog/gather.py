"""The values and the frames of many windows, gathered episode by episode. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.episodes import Episode
from dataset_catalog.errors import WindowError
from dataset_catalog.frames import Frame, Image
from dataset_catalog.sampling import nearest_index, sample
from dataset_catalog.spec import CameraWindow, ColumnWindow
from dataset_catalog.video import split_planes


class Visit(NamedTuple):
    """The windows of one episode in a batch: their rows in the batch (m,), their steps' times (m,)."""

    episode: Episode
    rows: NDArray[np.int64]
    t_ns: NDArray[np.int64]


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


def gather_column(window: ColumnWindow, visits: Sequence[Visit], count: int) -> Gathered:
    """A column of `count` windows at its offsets."""
    shape = (count, len(window.offsets_ns))
    out = Gathered(np.empty((*shape, window.size), np.float32), np.empty(shape, bool), np.empty(shape, np.int64))
    for visit in visits:
        at, inside = _asked(visit, window.offsets_ns)
        series = visit.episode.series[window.name]
        got = sample(window.policy, series.t_ns, series.values, at.ravel(), tolerance_ns=window.tolerance_ns)
        out.values[visit.rows] = got.values.reshape(*at.shape, window.size)
        out.valid[visit.rows] = got.valid.reshape(at.shape) & inside
        out.age_ns[visit.rows] = got.age_ns.reshape(at.shape)
    return out


def find_frames(window: CameraWindow, visits: Sequence[Visit], count: int) -> Sights:
    """The frames nearest to a camera's offsets, of all that are stored for the episode; of two the earlier."""
    shape = (count, len(window.offsets_ns))
    out = Sights([[None] * shape[1] for _ in range(count)], np.zeros(shape, bool), np.zeros(shape, np.int64))
    for visit in visits:
        at, inside = _asked(visit, window.offsets_ns)
        track = visit.episode.tracks.get(window.name)
        if track is None or not len(track.t_ns):
            continue
        frame = nearest_index(track.t_ns, at)
        age = at - track.t_ns[frame]
        out.valid[visit.rows] = inside & (np.abs(age) <= window.tolerance_ns)
        out.age_ns[visit.rows] = age
        for row, numbers in zip(visit.rows.tolist(), frame.tolist(), strict=True):
            out.frames[row] = [track.frame(number) for number in numbers]
    return out


def stack(name: str, images: Sequence[Sequence[Image | None]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(B, K, 3, H, W) from [window][offset]; black where there is none. `WindowError` if the sizes differ."""
    out = np.zeros((len(images), len(images[0]), 3, *size), np.uint8)
    for row, row_images in enumerate(images):
        for k, image in enumerate(row_images):
            if image is None:
                continue
            if image.shape[:2] != size:
                raise WindowError(f"{name} has frames of {size} and {image.shape[:2]} (high, wide): give an image_size")
            split_planes(image, out[row, k])
    return out


def _asked(visit: Visit, offsets_ns: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times asked for (m, K), moved to the episode's edge where they lie outside, and which lie inside."""
    start, end = visit.episode.start_ns, visit.episode.end_ns
    at = visit.t_ns[:, None] + np.array(offsets_ns, np.int64)
    return np.clip(at, start, end - 1), (at >= start) & (at < end)
