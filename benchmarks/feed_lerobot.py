"""The footage as a LeRobot v3.0 dataset, and the side that reads it with LeRobot's own `LeRobotDataset`.

Video in GOPs of two, as LeRobot encodes it, in files of at most 200 MB, its own bound. Its reader is torchcodec, which
wants FFmpeg's libraries: those of the `av` wheel in the same environment, under the names that it looks for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from benchmarks.camera import HEIGHT, WIDTH
from benchmarks.feed_packets import DOF, FPS, LEROBOT, Footage, values
from benchmarks.jobs_read_videos import as_mp4

READER = Path(__file__).with_name("feed_lerobot_reader.py")
CAMERA, FILE_BYTES = "observation.images.head", 200_000_000
TASK = "tidy the shelf"
_PLACE = "chunk-000/file-{:03d}"
_HASHED = re.compile(r"(lib(?:av|sw)\w+)-\w+\.so\.(\d+)\.")


def ffmpeg_libraries(environment: Path) -> Path:
    """A folder for LD_LIBRARY_PATH with the `av` wheel's libraries, under their own and under FFmpeg's names."""
    folder = environment / "ffmpeg"
    folder.mkdir(exist_ok=True)
    for library in environment.resolve().glob("lib/python*/site-packages/av.libs/*.so*"):
        hashed = _HASHED.match(library.name)
        for name in (library.name, f"{hashed[1]}.so.{hashed[2]}" if hashed else library.name):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(library)
    return folder


def store(folder: Path, footage: Footage) -> None:
    """The whole footage in that form."""
    places = list(_store_films(folder, footage))
    _store_rows(folder, footage)
    for name, table in {"tasks": _tasks(), f"episodes/{_PLACE.format(0)}": _episodes(footage, places)}.items():
        path = folder / "meta" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
    (folder / "meta/info.json").write_text(json.dumps(_info(footage)))


def _store_films(folder: Path, footage: Footage) -> Iterator[tuple[int, float]]:
    """Which file each episode's video is in, and from which second on."""
    films: list[list[bytes]] = [[]]
    held = 0
    for episode in range(footage.episodes):
        packets = footage.packets(LEROBOT, episode)
        size = sum(map(len, packets))
        if films[-1] and held + size > FILE_BYTES:
            _store_film(folder, len(films) - 1, films[-1])
            films[-1] = []
            films.append([])
            held = 0
        yield len(films) - 1, len(films[-1]) / FPS
        films[-1] += packets
        held += size
    _store_film(folder, len(films) - 1, films[-1])


def _store_film(folder: Path, number: int, packets: list[bytes]) -> None:
    path = folder / "videos" / CAMERA / f"{_PLACE.format(number)}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_mp4(packets, fps=FPS))


def _store_rows(folder: Path, footage: Footage) -> None:
    path = folder / "data" / f"{_PLACE.format(0)}.parquet"
    path.parent.mkdir(parents=True)
    pd.concat([_rows(footage, episode) for episode in range(footage.episodes)]).to_parquet(path, index=False)


def _rows(footage: Footage, episode: int) -> pd.DataFrame:
    frame = np.arange(footage.frames)
    rows = {
        "observation.state": list(values("state", episode, footage.frames)),
        "action": list(values("action", episode, footage.frames)),
        "timestamp": (frame / FPS).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full_like(frame, episode),
        "index": episode * footage.frames + frame,
        "task_index": np.zeros_like(frame),
    }
    return pd.DataFrame(rows)


def _tasks() -> pd.DataFrame:
    return pd.DataFrame({"task_index": [0]}, index=pd.Index([TASK], name="task"))


def _episodes(footage: Footage, places: list[tuple[int, float]]) -> pd.DataFrame:
    first = np.arange(footage.episodes) * footage.frames
    video, zero = f"videos/{CAMERA}", np.zeros_like(first)
    starts = np.array([start for _, start in places])
    rows = {
        "episode_index": np.arange(footage.episodes),
        "tasks": [[TASK]] * footage.episodes,
        "length": zero + footage.frames,
        "dataset_from_index": first,
        "dataset_to_index": first + footage.frames,
        "data/chunk_index": zero,
        "data/file_index": zero,
        f"{video}/chunk_index": zero,
        f"{video}/file_index": [file for file, _ in places],
        f"{video}/from_timestamp": starts,
        f"{video}/to_timestamp": starts + footage.frames / FPS,
    }
    return pd.DataFrame(rows)


def _info(footage: Footage) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        name: {"dtype": "float32", "shape": [DOF], "names": None} for name in ("observation.state", "action")
    }
    about = {"video.fps": FPS, "video.codec": "h264", "video.pix_fmt": "yuv420p", "has_audio": False}
    names = ["height", "width", "channels"]
    numbers[CAMERA] = {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": names, "info": about}
    numbers["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        numbers[name] = {"dtype": "int64", "shape": [1], "names": None}
    return {
        "codebase_version": "v3.0",
        "robot_type": "g1",
        "total_episodes": footage.episodes,
        "total_frames": len(footage),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": FILE_BYTES // 1_000_000,
        "fps": FPS,
        "splits": {"train": f"0:{footage.episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": numbers,
    }
