"""A folder in LeRobot's format, as it lies on the disk: v2.1, a file an episode, or v3, many episodes in a file.

Format: https://github.com/huggingface/lerobot (`lerobot/datasets`, release 0.4.4). `meta/info.json` describes the
features; a row of the Parquet files is a frame. v3 says of each episode which files hold it, and from when to when of
each video. Both count time from the episode's first frame.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_catalog.errors import FormatError

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool")
V3_EPISODES = "meta/episodes/*/*.parquet"


@dataclass(frozen=True, slots=True)
class Film:
    """Where an episode's video lies: of a file the seconds `[start_s, end_s)`; `end_s` None: to its end."""

    path: Path
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class SourceEpisode:
    """One episode: `films` by feature."""

    index: int
    tasks: tuple[str, ...]
    data: Path
    films: Mapping[str, Film]


@dataclass(frozen=True)
class LeRobotFiles:
    """`features` as `meta/info.json` has them, `episodes` those whose files are here, in order."""

    folder: Path
    info: Mapping[str, Any]
    episodes: tuple[SourceEpisode, ...]

    @classmethod
    def open(cls, folder: str | Path) -> LeRobotFiles:
        """Raises `FormatError` for a folder that is in neither format, or holds no episode."""
        folder = Path(folder)
        try:
            info = json.loads((folder / "meta/info.json").read_text())
            version = str(info["codebase_version"])
            find = _v2_episodes if version.startswith("v2") else _v3_episodes if version.startswith("v3") else None
            if find is None:
                raise FormatError(f"{folder} is LeRobot {version}, expected v2.1 or v3")
            found = cls(folder, info, tuple(find(folder, info)))
            if not 0 < float(info["fps"]) < math.inf:
                raise FormatError(f"{folder}: fps must be a positive number, got {info['fps']}")
            if not found.episodes:
                raise FormatError(f"{folder} holds no episode: {info['total_episodes']} are told of")
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            pa.ArrowException,
        ) as error:
            raise FormatError(f"{folder} is not a LeRobot dataset: {type(error).__name__}: {error}") from error
        return found

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        return dict(self.info["features"])

    @property
    def numbers(self) -> dict[str, dict[str, Any]]:
        """The features that are vectors of numbers, without the format's own bookkeeping."""
        wanted = {name: it for name, it in self.features.items() if name not in BOOKKEEPING}
        return {name: it for name, it in wanted.items() if it["dtype"] in NUMBERS}

    @property
    def cameras(self) -> dict[str, dict[str, Any]]:
        """The features that are video, or pictures in the rows."""
        return {name: it for name, it in self.features.items() if it["dtype"] in ("video", "image")}

    @property
    def left_out(self) -> list[str]:
        """Features that are neither."""
        known = {*self.numbers, *self.cameras, *BOOKKEEPING}
        return sorted(name for name in self.features if name not in known)

    def rows(self, episode: SourceEpisode) -> pa.Table:
        """The episode's frames, in order. Raises `FormatError` where they cannot be read."""
        try:
            rows = self._rows_of(episode.data, episode.index)
        except (OSError, pa.ArrowException) as error:
            raise FormatError(f"{episode.data}: {error}") from error
        if not len(rows):
            raise FormatError(f"{episode.data} has no frame of episode {episode.index}")
        return rows.sort_by("frame_index")

    def sha256(self, path: Path) -> str:
        """Of a file of the dataset; each is read once."""
        if path not in self._digests:
            with path.open("rb") as file:
                self._digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[path]

    def _rows_of(self, path: Path, episode: int) -> pa.Table:
        """LeRobot's writer makes a row group of each episode, which are read alone; what was put together later may be
        one for all, and is read once."""
        if pq.read_metadata(path).num_row_groups > 1:
            return pq.read_table(path, filters=[("episode_index", "==", episode)])
        table = self._shared.get(path)
        if table is None:
            table = pq.read_table(path)
            self._shared.clear()  # episodes come in the order of the files
            self._shared[path] = table
        return table.filter(pc.equal(table["episode_index"], episode))

    @cached_property
    def _shared(self) -> dict[Path, pa.Table]:
        """The file read last."""
        return {}

    @cached_property
    def _digests(self) -> dict[Path, str]:
        return {}


def _v2_episodes(folder: Path, info: Mapping[str, Any]) -> Iterator[SourceEpisode]:
    videos = [name for name, it in info["features"].items() if it["dtype"] == "video"]
    for line in (folder / "meta/episodes.jsonl").read_text().splitlines():
        told = json.loads(line)
        place = {"episode_chunk": told["episode_index"] // info["chunks_size"], "episode_index": told["episode_index"]}
        data = _inside(folder, info["data_path"].format(**place))
        films = {name: Film(_inside(folder, info["video_path"].format(video_key=name, **place))) for name in videos}
        if data.exists():
            yield SourceEpisode(told["episode_index"], tuple(told["tasks"]), data, films)


def _v3_episodes(folder: Path, info: Mapping[str, Any]) -> Iterator[SourceEpisode]:
    videos = [name for name, it in info["features"].items() if it["dtype"] == "video"]
    columns = ["episode_index", "tasks", "data/chunk_index", "data/file_index"]
    columns += [f"videos/{name}/{what}" for name in videos for what in _FILM]
    tables = [pq.read_table(path, columns=columns) for path in sorted(folder.glob(V3_EPISODES))]
    for row in pa.concat_tables(tables).sort_by("episode_index").to_pylist() if tables else []:
        chunk, file = row["data/chunk_index"], row["data/file_index"]
        data = _inside(folder, info["data_path"].format(chunk_index=chunk, file_index=file))
        films = {name: _film(folder, info["video_path"], name, row) for name in videos}
        if data.exists():
            yield SourceEpisode(row["episode_index"], tuple(row["tasks"]), data, films)


_FILM = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")


def _film(folder: Path, pattern: str, name: str, row: Mapping[str, Any]) -> Film:
    chunk, file, start_s, end_s = (row[f"videos/{name}/{what}"] for what in _FILM)
    path = _inside(folder, pattern.format(video_key=name, chunk_index=chunk, file_index=file))
    return Film(path, start_s, end_s)


def _inside(folder: Path, path: str) -> Path:
    """A file that `info.json` names. Links may lead elsewhere, as those of a download's cache do; the name may not."""
    if os.path.isabs(path) or Path(os.path.normpath(path)).parts[:1] == ("..",):
        raise FormatError(f"{folder}: {path} leads out of the dataset's folder")
    return folder / path


def flat_numbers(column: Any) -> Any:
    """All numbers of a column, nested or not, as one NumPy array."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    while (
        pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type) or pa.types.is_large_list(values.type)
    ):
        values = pc.list_flatten(values)
    return values.to_numpy(zero_copy_only=False)
