"""Real recordings the whole way: Unitree G1 episodes (LeRobot) and ROS 2 bags, compared with their own files."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from mcap.reader import make_reader
from numpy.typing import NDArray

from dataset_catalog import Catalog
from edge.lerobot import LeRobotDataset
from fleetfeed.demo import screen
from fleetfeed.demo.errors import DemoFailed
from fleetfeed.demo.fleet import DemoRobot
from fleetfeed.demo.work import let_in, run_jobs, running_stack, storage_of
from fleetfeed.settings import StackSettings
from fleetfeed.stack import StackInfo

SPEC = "g1"  # it comes with ray_jobs
DATASET, CAMERA = "g1", "cam_high"
ENCODED, COPIED, BAGS = "g1-encoded", "g1-copied", "ros2-bags"
MAX_TIME_ERROR_NS = 1_000


@dataclass(frozen=True)
class Compared:
    """One episode of the dataset beside its Parquet file."""

    episode: int
    robot: str
    rows: int
    steps: int
    frames: int
    values_differ: int
    max_time_error_ns: int

    @property
    def is_equal(self) -> bool:
        same_counts = self.rows == self.steps == self.frames
        return same_counts and not self.values_differ and self.max_time_error_ns <= MAX_TIME_ERROR_NS


def run(settings: StackSettings, *, data: Path, keep: bool) -> None:
    """Send everything under `data` (g1/, rosbag2/) and prove it; `DemoFailed` names what is not equal."""
    source = LeRobotDataset.open(data / "g1")
    folder = settings.run_dir / "demo" / time.strftime("real-%Y%m%d-%H%M%S")
    with running_stack(settings, keep=keep) as info:
        send_and_compare(info, source, bags=data / "rosbag2", folder=folder)


def send_and_compare(info: StackInfo, source: LeRobotDataset, *, bags: Path, folder: Path) -> None:
    """The same on a stack that runs, by robots that live in `folder`."""
    episodes = source.episodes()
    halves = {ENCODED: episodes[: len(episodes) // 2], COPIED: episodes[len(episodes) // 2 :]}
    robots = {name: DemoRobot(name, folder / "robots" / name, os.environ) for name in (ENCODED, COPIED, BAGS)}
    storage = storage_of(info)
    let_in(list(robots.values()), info, storage)
    with screen.step("Play the G1 episodes and adopt the bags, as robots do") as progress:
        for name, video in ((ENCODED, "encode"), (COPIED, "copy")):
            bar = progress.add_task(name, total=None, said=f"episodes {halves[name]}, video {video}")
            chosen = ",".join(map(str, halves[name]))
            words = ("--episodes", chosen, "--video", video, "--speed", "0")
            robots[name].edge("replay-lerobot", str(source.folder), *words, url=info.http_url)
            progress.update(bar, total=1, completed=1)
        robots[BAGS].edge("adopt", str(bags), url=info.http_url)
    with screen.step("Run the three jobs on Ray") as progress:
        run_jobs(info, SPEC, progress)
    with screen.step("Compare with the files"):
        catalog = Catalog(storage)
        compared = [one for name in halves for one in _compare(catalog, source, name, halves[name])]
        counted = _compare_bags(catalog, bags)
    _report(compared, counted)


def _compare(catalog: Catalog, source: LeRobotDataset, robot: str, episodes: list[int]) -> list[Compared]:
    """The robot's episodes in the order of time are those that it played."""
    dataset = catalog.dataset(DATASET).select(robots=[robot])
    labels = dataset.episodes().sort_by("start_ns").to_pylist()
    if len(labels) != len(episodes):
        raise DemoFailed(f"{robot} played {len(episodes)} episodes, the dataset has {len(labels)}")
    frames = catalog.sql(
        f"SELECT episode_id, rendition, sum(len(frame_t_ns))::BIGINT AS frames FROM {DATASET}.gops GROUP BY ALL"
    ).to_pylist()
    compared = []
    for number, label in zip(episodes, labels, strict=True):
        rows = source.rows(number)
        steps = dataset.select(episodes=[label["episode_id"]]).steps().sort_by("step")
        counts = {one["frames"] for one in frames if one["episode_id"] == label["episode_id"]}
        expected_ns = label["start_ns"] + np.rint(np.array(rows["frame_index"]) * (1e9 / source.fps)).astype(np.int64)
        differ = sum(
            _differing(steps[column], rows[feature])
            for column, feature in (("state", "observation.state"), ("action", "action"))
        )
        times = steps["t_ns"].to_numpy()
        error_ns = int(np.abs(times - expected_ns).max()) if len(times) == len(expected_ns) else 2**62
        in_every_rendition = counts.pop() if len(counts) == 1 else -1
        compared.append(
            Compared(number, robot, len(rows["frame_index"]), len(steps), in_every_rendition, differ, error_ns)
        )
    return compared


def _differing(column: pa.ChunkedArray, wanted: list[list[float]]) -> int:
    """Values that are not the same float32, bit for bit."""
    expected = np.array(wanted, np.float32)
    found = _matrix(column)
    if found.shape != expected.shape:
        return expected.size
    return int((found.view(np.uint32) != expected.view(np.uint32)).sum())


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return np.array(column.to_pylist(), np.float32)


def _compare_bags(catalog: Catalog, folder: Path) -> list[tuple[str, int, int]]:
    """(topic, messages by the files' own summaries, messages indexed), for every topic of the bags."""
    stated = Counter[str]()
    for path in sorted(folder.glob("*.mcap")):
        with path.open("rb") as file:
            summary = make_reader(file).get_summary()
        if summary is None or summary.statistics is None:
            raise DemoFailed(f"{path} has no summary to compare with")
        for channel, count in summary.statistics.channel_message_counts.items():
            stated[summary.channels[channel].topic] += count
    found = catalog.sql(
        "SELECT t.name, sum(t.count)::BIGINT AS n FROM (SELECT unnest(topics) AS t FROM segments "
        f"WHERE robot_id = '{BAGS}' AND stream = 'telemetry') GROUP BY ALL"
    )
    indexed = {row["name"]: row["n"] for row in found.to_pylist()}
    return [(topic, count, indexed.get(topic, 0)) for topic, count in sorted(stated.items())]


def _report(compared: list[Compared], bags: list[tuple[str, int, int]]) -> None:
    columns = ("episode", "robot", "parquet rows", "steps", "frames", "float32 values that differ", "max time error ns")
    rows = [
        (one.episode, one.robot, one.rows, one.steps, one.frames, one.values_differ, one.max_time_error_ns)
        for one in compared
    ]
    screen.table("Unitree G1 episodes against their Parquet files", columns, rows)
    screen.table("ROS 2 bags against their own summaries", ("topic", "stated", "indexed"), bags)
    wrong = [f"episode {one.episode}" for one in compared if not one.is_equal]
    wrong += [f"topic {topic}" for topic, stated, indexed in bags if stated != indexed]
    if wrong or not compared or not bags:
        raise DemoFailed(f"not equal: {', '.join(wrong) or 'nothing was compared'}")
    screen.console.print(f"{len(compared)} episodes and {sum(n for _, n, _ in bags):,} bag messages: all equal")
