"""One episode of a LeRobot dataset as rows of a lake's tables: the same as the jobs make of a recording."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataset_catalog.align import Frames, Series, series_batch, statistics_batch, steps_batch
from dataset_catalog.contents import Camera, Column
from dataset_catalog.errors import FormatError
from dataset_catalog.gop_rows import MADE, gop_batch
from dataset_catalog.lerobot_files import LeRobotFiles, SourceEpisode, flat_numbers
from dataset_catalog.lerobot_film import read_film, read_pictures, size_of
from dataset_catalog.rendition import H264_G10, ORIGINAL, Fidelity, can_copy, encode
from dataset_catalog.schema import SERIES, steps_schema
from dataset_catalog.tracks import Track

EPOCH_NS = 946_684_800_000_000_000  # 2000-01-01: the format knows no time of day
APART_NS = 3_600_000_000_000  # from the begin of one episode to that of the next
_TAKEN = {"robot_id", "recording_id", "episode_id", "step", "t_ns", "labels", "task", "success", "notes"}


@dataclass(frozen=True, slots=True)
class Layout:
    """How features become columns and cameras, and what steps take: a `Spec` of `align`.

    features  name in the lake → name in the source
    """

    columns: dict[str, Column]
    cameras: dict[str, Camera]
    features: dict[str, str]
    reference: str | None = None
    rate_hz: float | None = None

    @property
    def steps_schema(self) -> pa.Schema:
        return steps_schema({name: it.size for name, it in self.columns.items()}, list(self.cameras))


@dataclass(frozen=True, slots=True)
class Taken:
    """One episode on its way; what an `Episode` of `align` has."""

    episode_id: str
    robot_id: str
    recording_id: str
    task: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Made:
    """An episode's rows of all tables, and what there is to tell."""

    gops: list[pa.RecordBatch]
    steps: pa.RecordBatch
    series: pa.RecordBatch
    statistics: pa.RecordBatch
    row: dict[str, Any]
    fidelity: Fidelity
    rounded: dict[str, Rounded]


class Rounded(NamedTuple):
    """How many of a feature's numbers float32 does not hold, of how many, and by how much the worst is off then."""

    numbers: int
    of: int
    worst: float

    def joined(self, other: Rounded) -> Rounded:
        return Rounded(self.numbers + other.numbers, self.of + other.of, max(self.worst, other.worst))


def layout_of(files: LeRobotFiles) -> Layout:
    """Columns and cameras are named by the features' last parts (`observation.state` → `state`), where each is one."""
    names = _short([*files.numbers, *files.cameras])
    tolerance_ns = round(0.5e9 / files.fps)
    columns = {
        names[feature]: Column(_size(it), _element_names(it), "nearest", tolerance_ns)
        for feature, it in files.numbers.items()
    }
    cameras = {names[feature]: Camera(tolerance_ns, {}) for feature in files.cameras}
    return Layout(columns, cameras, {short: feature for feature, short in names.items()}, None, files.fps)


def episode_id_of(name: str, episode: SourceEpisode) -> str:
    return f"{name}-{episode.index:06d}"


def make_rows(files: LeRobotFiles, layout: Layout, source: SourceEpisode, name: str, robot: str) -> Made:
    """All rows of an episode. Raises `FormatError` where its files are not what they should be."""
    rows = files.rows(source)
    times = _times(rows, files.fps, EPOCH_NS + source.index * APART_NS)
    identity, period_ns = episode_id_of(name, source), round(1e9 / files.fps)
    episode = Taken(identity, robot, identity, "; ".join(source.tasks), int(times[0]), int(times[-1]) + period_ns)
    series, rounded = {}, {}
    for short, column in layout.columns.items():
        feature = layout.features[short]
        values, rounded[feature] = _values(rows[feature], column.size)
        series[short] = Series(times, values, column.names)
    frames, gops, fidelity = {}, [], Fidelity()
    for camera in layout.cameras:
        feature = layout.features[camera]
        film = source.films.get(feature)
        track = read_film(film, times) if film else read_pictures(rows[feature], times)
        path = film.path if film else source.data
        about = _about(files, episode, camera, track, path, name)
        frames[camera], batches = _film_rows(track, about, fidelity)
        gops += batches
    return Made(
        gops,
        steps_batch(episode, layout, series, frames, at=times),
        series_batch(SERIES, episode, series),
        statistics_batch(episode, series),
        _episode_row(files, layout, source, episode, frames, len(times), name),
        fidelity,
        rounded,
    )


def _film_rows(track: Track, about: dict[str, Any], fidelity: Fidelity) -> tuple[Frames, list[pa.RecordBatch]]:
    """The frames that steps point to, and the rows: the packets, and a rendition where they are slow to train from."""
    original = Frames(ORIGINAL)
    batches = [gop_batch(about, track, track.gops, original)]
    if can_copy(track):
        return original, batches
    made = Frames(H264_G10)
    batches.append(gop_batch(about, MADE, encode(track, list(track.gops), fidelity), made))
    return made, batches


def _about(files: LeRobotFiles, episode: Taken, camera: str, track: Track, path: Path, name: str) -> dict[str, Any]:
    height, width = size_of(track)
    return {
        "episode_id": episode.episode_id,
        "robot_id": episode.robot_id,
        "camera": camera,
        "width": width,
        "height": height,
        "source_key": _key(files, path, name),
        "source_sha256": files.sha256(path),
    }


def _episode_row(
    files: LeRobotFiles,
    layout: Layout,
    source: SourceEpisode,
    episode: Taken,
    frames: dict[str, Frames],
    steps: int,
    name: str,
) -> dict[str, Any]:
    columns: dict[str, Any] = {
        short: {
            "size": column.size,
            "names": column.names,
            "policy": column.policy,
            "tolerance_ns": column.tolerance_ns,
            "lerobot": {"name": layout.features[short], **files.features[layout.features[short]]},
        }
        for short, column in layout.columns.items()
    }
    for short, camera in layout.cameras.items():
        about = {"camera": True, "tolerance_ns": camera.tolerance_ns, "rendition": frames[short].rendition}
        columns[short] = about | {"lerobot": {"name": layout.features[short], **files.features[layout.features[short]]}}
    paths = dict.fromkeys([source.data, *(film.path for film in source.films.values())])
    sources = [{"key": _key(files, path, name), "sha256": files.sha256(path)} for path in paths]
    told = {"success": None, "notes": None, "steps": steps, "columns": json.dumps(columns), "sources": sources}
    return asdict(episode) | told


def _key(files: LeRobotFiles, path: Path, name: str) -> str:
    return f"lerobot/{name}/{path.relative_to(files.folder)}"


def _times(rows: pa.Table, fps: float, start_ns: int) -> NDArray[np.int64]:
    """Of each row: its number over fps, as the format has it, unless its time says otherwise."""
    number, told = rows["frame_index"].to_numpy().astype(np.float64), flat_numbers(rows["timestamp"])
    exact = np.rint(number * 1e9 / fps).astype(np.int64)
    own = np.rint(told.astype(np.float64) * 1e9).astype(np.int64)
    times: NDArray[np.int64] = start_ns + np.where(np.abs(own - exact) <= 1_000_000 + exact // 10**6, exact, own)
    if (np.diff(times) <= 0).any():
        raise FormatError("the times of an episode's frames do not ascend")
    return times


def _values(column: Any, size: int) -> tuple[NDArray[np.float32], Rounded]:
    """(n, size) float32, and what that made of the source's numbers."""
    flat = flat_numbers(column)
    if len(flat) != len(column) * size:
        raise FormatError(f"a feature of {size} numbers has {len(flat)} in {len(column)} rows")
    with np.errstate(over="ignore", invalid="ignore"):  # a number may be beyond float32, or be none at all
        values = flat.astype(np.float32)
        off = np.abs(values.astype(np.longdouble) - flat.astype(np.longdouble))  # which holds every int64, too
    return values.reshape(-1, size), Rounded(int((off > 0).sum()), flat.size, float(np.nanmax(off, initial=0.0)))


def _size(feature: dict[str, Any]) -> int:
    return int(np.prod(feature["shape"], dtype=np.int64))


def _element_names(feature: dict[str, Any]) -> tuple[str, ...] | None:
    """Whatever the nesting: `[[…]]`, `{"motors": […]}`, `[…]`."""
    flat: list[str] = []
    nested = [feature.get("names")]
    while nested:
        one = nested.pop(0)
        if isinstance(one, str):
            flat.append(one)
        elif isinstance(one, dict):
            nested = [*one.values(), *nested]
        elif isinstance(one, list | tuple):
            nested = [*one, *nested]
    return tuple(flat) if len(flat) == _size(feature) else None


def _short(features: Sequence[str]) -> dict[str, str]:
    last = [_column_name(name.rsplit(".", 1)[-1]) for name in features]
    whole = [_column_name(name) for name in features]
    return {
        name: whole[i] if last.count(last[i]) > 1 or last[i] in _TAKEN else last[i] for i, name in enumerate(features)
    }


def _column_name(text: str) -> str:
    name = re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")
    return name if name[:1].isalpha() else f"c_{name}"
