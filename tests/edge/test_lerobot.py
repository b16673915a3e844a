"""A real LeRobot dataset, played as a robot's live recording, keeps every row and every frame."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pyarrow.parquet
import pytest
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo

from edge import lerobot
from edge.errors import EdgeError
from edge.lerobot import LeRobotDataset
from tests.edge.test_video import write_mp4

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

EPISODE = 2
View = Callable[[Path], "SpoolView"]


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    folder = os.environ.get("FLEETFEED_REAL_DATA")
    if not folder:
        pytest.skip("FLEETFEED_REAL_DATA names no folder of real recordings")
    path = Path(folder) / "g1" / "data" / "chunk-000" / f"episode_{EPISODE:06d}.parquet"
    columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path).to_pydict()
    return columns


@pytest.mark.parametrize("video", ["encode", "copy"])
def test_a_real_episode_arrives_whole(
    tmp_path: Path, real_data: Path, view: View, rows: dict[str, list[Any]], video: lerobot.Video
) -> None:
    dataset = LeRobotDataset.open(real_data / "g1")
    (played,) = lerobot.replay(dataset, tmp_path, episodes=[EPISODE], video=video, speed=0)
    count = len(rows["timestamp"])
    assert (played.episode, played.frames) == (EPISODE, count)
    assert played.task == "Pick up the yellow bottle on the table."

    messages, events = view(tmp_path).messages("telemetry"), view(tmp_path).messages("_events")
    assert {one.topic.name for one in events} == {"/episode"}
    labels = [json.loads(one.data) for one in events]
    assert [(one["event"], one["task"], one["success"]) for one in labels] == [
        ("start", played.task, None),
        ("end", played.task, True),
    ]
    start_ns = events[0].t_ns
    assert len(dataset.topics) >= 2
    for feature in dataset.topics:
        found = [one for one in messages if one.topic.name == f"/{feature}"]
        assert len(found) == count
        sent = np.array([json.loads(one.data)["data"] for one in found], np.float32)
        assert np.array_equal(sent, np.array(rows[feature], np.float32))
        for frame, one in enumerate(found):
            assert abs(one.t_ns - start_ns - frame * 1e9 / 30) <= 1_000
    _check_video(view(tmp_path), dataset, video, count, start_ns)
    (closing,) = view(tmp_path).closing()
    assert (closing["dropped"], closing["recovered"]) == ({}, False)


def _check_video(seen: SpoolView, dataset: LeRobotDataset, video: str, count: int, start_ns: int) -> None:
    ((stream, feature),) = dataset.cameras.items()
    assert stream == "cam_high"
    segments = seen.segments(stream)
    assert sum(one.counts[f"/{stream}"] for one in segments) == count
    if video == "copy":
        assert [seen.body(one) for one in segments] == [dataset.video_path(EPISODE, feature).read_bytes()]
        assert segments[0].start_ns == start_ns
        return
    codec: Any = av.CodecContext.create("h264", "r")
    frames = 0
    for frame, one in enumerate(seen.messages(stream)):
        assert abs(one.t_ns - start_ns - frame * 1e9 / 30) <= 1_000
        frames += len(codec.decode(av.Packet(CompressedVideo.FromString(one.data).data)))
    assert frames + len(codec.decode(None)) == count


@pytest.mark.parametrize(
    "info",
    [None, "", "[]", "{}", '{"codebase_version": "v3.0"}', '{"codebase_version": "v2.1"}', '{"codebase_version": 2}'],
)
def test_a_folder_that_is_no_dataset_is_told_in_a_sentence(tmp_path: Path, info: str | None) -> None:
    if info is not None:
        (tmp_path / "meta").mkdir()
        (tmp_path / "meta" / "info.json").write_text(info)
    with pytest.raises(EdgeError, match=r"is not a LeRobot dataset|expected v2\.1"):
        LeRobotDataset.open(tmp_path)


def _small(folder: Path, *, rows: int) -> LeRobotDataset:
    info = {
        "codebase_version": "v2.1",
        "fps": 50,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.state": {"dtype": "float32"},
            "timestamp": {"dtype": "float32"},
            "observation.images.head": {"dtype": "video"},
        },
    }
    for path in ("meta", "data/chunk-000", "videos/observation.images.head"):
        (folder / path).mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "meta" / "episodes.jsonl").write_text('{"episode_index": 0, "tasks": ["wave"]}\n')
    state = pyarrow.array([[float(n), 0.1] for n in range(rows)], pyarrow.list_(pyarrow.float32()))
    times = pyarrow.array([n / 50 for n in range(rows)], pyarrow.float32())
    table = pyarrow.table({"observation.state": state, "timestamp": times})
    pyarrow.parquet.write_table(table, folder / "data/chunk-000/episode_000000.parquet")
    return LeRobotDataset.open(folder)


def _film(dataset: LeRobotDataset, frames: int) -> None:
    write_mp4(dataset.video_path(0, "observation.images.head"), frames)


def test_bookkeeping_columns_are_no_topics(tmp_path: Path, view: View) -> None:
    dataset = _small(tmp_path / "data", rows=5)
    _film(dataset, 5)
    assert [one.frames for one in lerobot.replay(dataset, tmp_path / "r", episodes=[0], video="encode", speed=0)] == [5]
    topics = {one.topic.name for one in view(tmp_path / "r").messages("telemetry")}
    assert topics == {"/observation.state"}
    assert len(view(tmp_path / "r").messages("head")) == 5


def test_a_film_shorter_than_its_table_is_told_and_what_was_played_is_kept(tmp_path: Path, view: View) -> None:
    dataset = _small(tmp_path / "data", rows=5)
    _film(dataset, 3)
    with pytest.raises(EdgeError, match="head has 3 frames, its table has 5 rows"):
        list(lerobot.replay(dataset, tmp_path / "r", episodes=[0], video="encode", speed=0))
    assert len(view(tmp_path / "r").messages("head")) == 3
    assert len(view(tmp_path / "r").closing()) == 1


def test_an_episode_that_is_not_here_is_told_in_a_sentence(tmp_path: Path) -> None:
    dataset = _small(tmp_path / "data", rows=5)
    with pytest.raises(EdgeError, match="holds no episode 7"):
        list(lerobot.replay(dataset, tmp_path / "r", episodes=[7], video="encode", speed=0))
    assert dataset.episodes() == [0]


def test_real_time_takes_as_long_as_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("edge.lerobot.time.sleep", slept.append)
    monkeypatch.setattr("edge.lerobot.time.monotonic", lambda: 100.0)
    dataset = _small(tmp_path / "data", rows=5)
    _film(dataset, 5)
    list(lerobot.replay(dataset, tmp_path / "r", episodes=[0], video="encode", speed=2))
    assert slept[:6] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04, 0.05])
