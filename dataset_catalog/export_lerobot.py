"""Episodes of a dataset as a LeRobot dataset, v2.1 or v3: every run of selected steps becomes an episode.

Numbers are those of the steps; packets are copied where the steps are whole GOPs of what was recorded, else pictures
are encoded anew (H.264, at least 38 dB). The format has one rate and no time of day: row n is n / fps after the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataset_catalog import lerobot_stats
from dataset_catalog.errors import FormatError
from dataset_catalog.export_film import OutFilm
from dataset_catalog.export_run import Features, OutRun, film_of, runs_of
from dataset_catalog.mp4_file import write_mp4
from dataset_catalog.statistics import Statistics
from dataset_catalog.tables import contains
from dataset_catalog.video import to_rgb

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset

Version = Literal["v2.1", "v3.0"]
VERSIONS: tuple[Version, ...] = get_args(Version)
CHUNK = 1000  # files of a folder

_KEPT = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_V2 = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
_V3 = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of it; `notes` are for people."""

    folder: Path
    episodes: int
    frames: int
    notes: tuple[str, ...] = ()


@dataclass
class _Out:
    """What has been written so far, and what the folder's `meta/` will say of it."""

    folder: Path
    version: Version
    fps: float
    features: dict[str, dict[str, Any]]
    tasks: dict[str, int] = field(default_factory=dict)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    stats: dict[str, list[tuple[Statistics, int]]] = field(default_factory=dict)
    frames: int = 0
    copied: int = 0
    encoded: list[float] = field(default_factory=list)
    repeated: int = 0
    nulls: dict[str, int] = field(default_factory=dict)

    def data_path(self, episode: int) -> Path:
        return self.folder / (_V2 if self.version == "v2.1" else _V3)["data_path"].format(**_place(episode))

    def video_path(self, episode: int, feature: str) -> Path:
        pattern = (_V2 if self.version == "v2.1" else _V3)["video_path"]
        return self.folder / pattern.format(video_key=feature, **_place(episode))


def export_lerobot(
    dataset: Dataset,
    folder: str | Path,
    *,
    version: Version = "v3.0",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write the selected steps to a new folder.

    A value that a step does not have is NaN, a picture that it does not have the one before it; `notes` counts them.
    Raises `FormatError` where the folder is not empty, where steps have no fixed rate, and for a missing value of a
    feature that has no NaN.
    """
    folder = Path(folder)
    if version not in VERSIONS:
        raise FormatError(f"version is one of {', '.join(VERSIONS)}, got {version!r}")
    if folder.exists() and any(folder.iterdir()):
        raise FormatError(f"{folder} is not empty")
    if not len(dataset):
        raise FormatError("no step is selected")
    names = Features.of(dataset)
    out = _Out(folder, version, rate_of(dataset), dict(names.about))
    total = len(dataset.selection.first)
    for number, run in enumerate(runs_of(dataset, names)):
        _write(out, dataset, names, number, run)
        progress(number + 1, total)
    _write_meta(out, dataset)
    return Exported(folder, len(out.episodes), out.frames, tuple(_notes(out)))


def rate_of(dataset: Dataset) -> float:
    """Steps a second in the first selected episode: one over the median of the times between them, whole where it
    nearly is."""
    where = contains("episode_id", [dataset.selection.ids[0].as_py()])
    t_ns = np.sort(dataset.table("steps").to_table(columns=["t_ns"], filter=where)["t_ns"].to_numpy())
    if len(t_ns) < 2:
        return 1.0
    rate = 1e9 / float(np.median(np.diff(t_ns)))
    return float(round(rate)) if abs(rate - round(rate)) < 0.01 * rate and round(rate) > 0 else round(rate, 3)


def _write(out: _Out, dataset: Dataset, names: Features, number: int, run: OutRun) -> None:
    """One episode's files."""
    _check_rate(run, out.fps)
    task = out.tasks.setdefault(run.task, len(out.tasks))
    path = out.data_path(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(_table(out, run, number, task), path)
    stats = {name: (lerobot_stats.of_numbers(values), len(run)) for name, values in run.numbers.items()}
    films: dict[str, OutFilm] = {}
    for camera in dataset.cameras:
        feature = names.names[camera]
        stored, film = film_of(dataset, run, camera)
        films[feature] = film
        _write_film(out.video_path(number, feature), film, out.fps)
        wanted = run.frame_t_ns[camera][lerobot_stats.chosen(len(run))]
        stats[feature] = lerobot_stats.of_pictures(map(to_rgb, stored.frames(wanted))), len(wanted)
        _count(out, film, feature)
    for name, one in stats.items():
        out.stats.setdefault(name, []).append(one)
    out.nulls = {name: out.nulls.get(name, 0) + run.nulls.get(name, 0) for name in {*out.nulls, *run.nulls}}
    out.episodes.append(_about(out, run, number, list(films), stats))
    out.frames += len(run)


def _count(out: _Out, film: OutFilm, feature: str) -> None:
    height, width = film.size
    info = {"video.height": height, "video.width": width, "video.codec": film.codec, "video.pix_fmt": "yuv420p"}
    info |= {"video.is_depth_map": False, "video.fps": _plain(out.fps), "video.channels": 3, "has_audio": False}
    about = {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": info}
    if out.features.setdefault(feature, about)["shape"] != about["shape"]:
        raise FormatError(f"{feature} has pictures of several sizes, the format has one")
    out.repeated += film.repeated
    if film.copied:
        out.copied += 1
    else:
        out.encoded.append(film.psnr_db)


def _write_film(path: Path, film: OutFilm, fps: float) -> None:
    write_mp4(
        path,
        film.packets,
        film.shown,
        keyframes=film.keyframes,
        codec=film.codec,
        extradata=film.extradata,
        size=film.size,
        fps=fps,
    )


def _table(out: _Out, run: OutRun, number: int, task: int) -> pa.Table:
    columns: dict[str, Any] = {name: _column(values, out.features[name]) for name, values in run.numbers.items()}
    rows = np.arange(len(run))
    kept = {
        "timestamp": rows / out.fps,
        "frame_index": rows,
        "episode_index": np.full(len(run), number),
        "index": out.frames + rows,
        "task_index": np.full(len(run), task),
    }
    columns |= {name: pa.array(values.astype(_KEPT[name])) for name, values in kept.items()}
    return pa.table(columns)


def _column(values: NDArray[Any], about: Mapping[str, Any]) -> Any:
    """(n, …) as nested lists; of one number alone no list."""
    if list(about["shape"]) == [1]:
        return pa.array(values.ravel())
    array = pa.array(values.ravel())
    for position, size in enumerate(reversed(about["shape"])):
        if position == len(about["shape"]) - 1:
            return pa.FixedSizeListArray.from_arrays(array, size)
        array = pa.ListArray.from_arrays(pa.array(np.arange(0, len(array) + 1, size), pa.int32()), array)
    return array


def _about(
    out: _Out, run: OutRun, number: int, videos: list[str], stats: Mapping[str, tuple[Statistics, int]]
) -> dict[str, Any]:
    place = _place(number)
    chunk, file = place["chunk_index"], place["file_index"]
    row: dict[str, Any] = {"episode_index": number, "tasks": [run.task], "length": len(run)}
    row |= {"data/chunk_index": chunk, "data/file_index": file}
    row |= {"dataset_from_index": out.frames, "dataset_to_index": out.frames + len(run)}
    for name in videos:
        own = {"chunk_index": chunk, "file_index": file, "from_timestamp": 0.0, "to_timestamp": len(run) / out.fps}
        row |= {f"videos/{name}/{what}": value for what, value in own.items()}
    row["stats"] = {name: _told(out, name, found, count) for name, (found, count) in stats.items()}
    return row


def _told(out: _Out, name: str, found: Statistics, count: int) -> dict[str, Any]:
    about = out.features[name]
    shape = [3, 1, 1] if about["dtype"] == "video" else about["shape"]
    return lerobot_stats.told(found, shape, count=count)


def _write_meta(out: _Out, dataset: Dataset) -> None:
    meta = out.folder / "meta"
    meta.mkdir(exist_ok=True)
    bookkeeping = {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in _KEPT.items()}
    robots = dataset.episodes()["robot_id"].unique().to_pylist()
    info: dict[str, Any] = {
        "codebase_version": out.version,
        "robot_type": robots[0] if len(robots) == 1 else None,
        "total_episodes": len(out.episodes),
        "total_frames": out.frames,
        "total_tasks": len(out.tasks),
        "chunks_size": CHUNK,
        "fps": _plain(out.fps),
        "splits": {"train": f"0:{len(out.episodes)}"},
        **(_V2 if out.version == "v2.1" else _V3),
        "features": out.features | bookkeeping,
    }
    videos = sum(one["dtype"] == "video" for one in out.features.values())
    info["video_path"] = info["video_path"] if videos else None
    if out.version == "v2.1":
        info |= {"total_videos": videos * len(out.episodes), "total_chunks": -(-len(out.episodes) // CHUNK)}
        _write_v2_meta(out, meta)
    else:
        info |= {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
        _write_v3_meta(out, meta)
    (meta / "info.json").write_text(json.dumps(info, indent=4, ensure_ascii=False))  # last: it makes the folder one


def _write_v2_meta(out: _Out, meta: Path) -> None:
    tasks = [{"task_index": index, "task": task} for task, index in out.tasks.items()]
    episodes = [{name: row[name] for name in ("episode_index", "tasks", "length")} for row in out.episodes]
    stats = [{"episode_index": row["episode_index"], "stats": row["stats"]} for row in out.episodes]
    for name, lines in {"tasks": tasks, "episodes": episodes, "episodes_stats": stats}.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (meta / f"{name}.jsonl").write_text(text)


def _write_v3_meta(out: _Out, meta: Path) -> None:
    tasks = pa.table({"task_index": pa.array(out.tasks.values(), pa.int64()), "task": list(out.tasks)})
    index = {"pandas": json.dumps(_INDEXED_BY_TASK).encode()}
    pq.write_table(tasks.replace_schema_metadata(index), meta / "tasks.parquet")
    rows = []
    for row in out.episodes:
        stats = row.pop("stats")
        rows.append(
            {**row, **dict(lerobot_stats.flat(stats)), "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        )
    path = meta / "episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    whole = {
        name: _told(out, name, Statistics.join(one for one, _ in parts), sum(count for _, count in parts))
        for name, parts in out.stats.items()
    }
    (meta / "stats.json").write_text(json.dumps(whole, indent=4))


# what pandas writes for a table whose index is the column `task`
_INDEXED_BY_TASK = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
            "metadata": None,
        },
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ],
    "pandas_version": "2.0.0",
}


def _check_rate(run: OutRun, fps: float) -> None:
    due = run.t_ns[0] + np.arange(len(run)) * 1e9 / fps
    worst_s = float(np.abs(run.t_ns - due).max()) / 1e9
    if worst_s > 0.5 / fps:
        raise FormatError(
            f"steps of episode {run.run.episode_id} are up to {worst_s:.3f} s away from {fps:g} a second: "
            "LeRobot has one rate, so align at a rate_hz, or select what has no holes"
        )


def _notes(out: _Out) -> Iterator[str]:
    if out.copied:
        yield f"{out.copied} films are copied packet by packet"
    if out.encoded:
        yield f"{len(out.encoded)} films are encoded anew, PSNR at least {min(out.encoded):.1f} dB"
    if out.repeated:
        yield f"{out.repeated} steps without a picture have the one before"
    yield from (f"{count} steps without {name} have NaN" for name, count in sorted(out.nulls.items()))


def _place(episode: int) -> dict[str, int]:
    chunk, file = divmod(episode, CHUNK)
    return {"episode_chunk": chunk, "episode_index": episode, "chunk_index": chunk, "file_index": file}


def _plain(fps: float) -> float | int:
    return int(fps) if fps == int(fps) else fps
