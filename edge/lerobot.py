"""Plays a LeRobot v2.1 dataset as a robot's live recording.

Format: https://github.com/huggingface/lerobot, `codebase_version` v2.1: `meta/info.json` describes the features,
`data/…/episode_N.parquet` holds one row a frame, `videos/…/<key>/episode_N.mp4` one file a camera and episode.
Every numeric feature becomes a topic `/<feature>` with messages `{"data": […]}`; a video becomes a camera's stream.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av

from edge.errors import EdgeError
from edge.recorder import Recorder

Video = Literal["encode", "copy"]
BOOKKEEPING = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
PAUSE_NS = 1_000_000_000


@dataclass(frozen=True)
class LeRobotDataset:
    """The parts of `meta/` that a replay needs."""

    folder: Path
    fps: float
    features: dict[str, dict[str, Any]]
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> LeRobotDataset:
        """`EdgeError` where the folder is not a LeRobot v2.1 dataset."""
        try:
            info = json.loads((folder / "meta" / "info.json").read_text())
            if not str(info["codebase_version"]).startswith("v2"):
                raise EdgeError(f"{folder} is LeRobot {info['codebase_version']}, expected v2.1")
            return cls(folder, float(info["fps"]), info["features"], info)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EdgeError(f"{folder} is not a LeRobot dataset: {type(error).__name__}: {error}") from error

    @property
    def topics(self) -> list[str]:
        """Numeric features, without the dataset's own bookkeeping."""
        return [name for name, one in self.features.items() if one["dtype"] != "video" and name not in BOOKKEEPING]

    @property
    def cameras(self) -> dict[str, str]:
        """Stream name (the last part of the feature's name) → feature."""
        return {name.rsplit(".", 1)[-1]: name for name, one in self.features.items() if one["dtype"] == "video"}

    def episodes(self) -> list[int]:
        """The episodes whose files are here."""
        return sorted(int(path.stem.rsplit("_", 1)[-1]) for path in self.folder.glob("data/*/episode_*.parquet"))

    def rows(self, episode: int) -> dict[str, list[Any]]:
        """Columns of one episode's table, one value a frame."""
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise EdgeError('reading LeRobot needs Parquet: pip install "fleetfeed[edge,catalog]"') from error
        path = self._path("data_path", episode)
        if not path.exists():
            raise EdgeError(f"{self.folder} holds no episode {episode}: {path} is not there")
        columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path).to_pydict()
        return columns

    def video_path(self, episode: int, feature: str) -> Path:
        return self._path("video_path", episode, video_key=feature)

    def task(self, episode: int) -> str:
        for line in (self.folder / "meta" / "episodes.jsonl").read_text().splitlines():
            fields = json.loads(line)
            if fields["episode_index"] == episode:
                return str(fields["tasks"][0])
        return ""

    def _path(self, which: str, episode: int, **more: str) -> Path:
        chunk = episode // int(self.info["chunks_size"])
        pattern: str = self.info[which]
        return self.folder / pattern.format(episode_chunk=chunk, episode_index=episode, **more)


@dataclass(frozen=True, slots=True)
class Played:
    """One episode that was played, and how many frames it has."""

    episode: int
    task: str
    frames: int


def replay(
    dataset: LeRobotDataset,
    folder: Path,
    *,
    episodes: Sequence[int],
    video: Video,
    speed: float,
    make_recorder: Callable[..., Recorder] = Recorder,
) -> Iterator[Played]:
    """Record episodes into the spool `folder`, one after the other; yields each as it is done.

    `video`: `encode` re-encodes to our profile, `copy` passes the MP4 files on as they are. `speed`: 1 plays in real
    time, 2 twice as fast, 0 as fast as the machine can. Capture times are the recording's start plus frame / fps,
    whatever the speed.
    """
    clock = _ReplayClock(time.time_ns(), speed)
    with make_recorder(folder, software_version="lerobot-replay", clock=clock.now_ns, wait_for_room=True) as recorder:
        for episode in episodes:
            task = dataset.task(episode)
            with recorder.episode(task=task) as label:
                frames = _play(dataset, recorder, episode, video=video, clock=clock)
                label.success = True
            clock.advance(clock.now_ns() + PAUSE_NS)
            yield Played(episode, task, frames)


class _ReplayClock:
    """The replayed robot's time: it stands still until `advance`, which waits as long as `speed` asks."""

    def __init__(self, start_ns: int, speed: float) -> None:
        self._now_ns, self._speed = start_ns, speed
        self._start_ns, self._started_s = start_ns, time.monotonic()

    def now_ns(self) -> int:
        return self._now_ns

    def advance(self, to_ns: int) -> None:
        self._now_ns = to_ns
        if self._speed > 0:
            due_s = self._started_s + (to_ns - self._start_ns) / 1e9 / self._speed
            time.sleep(max(0.0, due_s - time.monotonic()))


def _play(dataset: LeRobotDataset, recorder: Recorder, episode: int, *, video: Video, clock: _ReplayClock) -> int:
    start_ns, columns = clock.now_ns(), dataset.rows(episode)
    pictures = {}
    for stream, feature in dataset.cameras.items():
        path = dataset.video_path(episode, feature)
        if video == "copy":
            recorder.video_file(stream, start_ns, path)
        else:
            pictures[stream] = _decode(path)
    frames = len(next(iter(columns.values())))
    for frame in range(frames):
        t_ns = start_ns + round(frame * 1_000_000_000 / dataset.fps)
        clock.advance(t_ns)
        for topic in dataset.topics:
            recorder.log(f"/{topic}", t_ns, {"data": columns[topic][frame]})
        for stream, images in pictures.items():
            picture = next(images, None)
            if picture is None:
                raise EdgeError(f"episode {episode}: {stream} has {frame} frames, its table has {frames} rows")
            recorder.image(stream, t_ns, picture)
    clock.advance(start_ns + round(frames * 1_000_000_000 / dataset.fps))
    return frames


def _decode(path: Path) -> Iterator[Any]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")
