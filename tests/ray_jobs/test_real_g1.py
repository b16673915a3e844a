"""Episodes of a real Unitree G1, compared with their own files: every value, every packet, every frame and its time."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.video import decode_gop
from edge.lerobot import LeRobotDataset
from edge.wire import MP4_TYPE
from ray_jobs import align_frames, index_segments, load_telemetry
from ray_jobs.align_spec import AlignSpec
from ray_jobs.settings import JobsSettings
from tests.faults.campaign import is_soak
from tests.ray_jobs.conftest import Robot

T0, S = 1_760_000_000_000_000_000, 1_000_000_000
FEATURES = {"state": "observation.state", "action": "action"}
TABLES = {"state": "observation~2Estate", "action": "action"}
CAMERA, FEATURE = "cam_high", "observation.images.cam_high"
DEFAULT = (1,)  # episodes; in a soak all that are there


@dataclass(frozen=True)
class Recorded:
    """An episode's own files, and the times under which it was recorded."""

    recording: str
    rows: Any  # a pyarrow.Table
    mp4: bytes
    times: list[int]

    @property
    def packets(self) -> list[bytes]:
        with av.open(io.BytesIO(self.mp4)) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    def values(self, column: str) -> Any:
        return np.array(self.rows[FEATURES[column]].to_pylist(), np.float32)


@pytest.fixture
def recorded(robot: Robot, real_data: Path) -> list[Recorded]:
    """Each episode is a recording of its own, stored as ingest would."""
    source = LeRobotDataset.open(real_data / "g1")
    episodes = source.episodes() if is_soak() else DEFAULT
    return [_record(robot, source, episode) for episode in episodes]


def _record(robot: Robot, source: LeRobotDataset, episode: int) -> Recorded:
    robot.recording = f"01J{episode:023d}"
    robot.last_seq.clear()
    rows = pq.read_table(source._path("data_path", episode))
    start_ns = T0 + episode * 100 * S
    times = [start_ns + round(frame * S / source.fps) for frame in rows["frame_index"].to_pylist()]
    messages = [
        (f"/{feature}", t_ns, {"data": values})
        for feature in FEATURES.values()
        for t_ns, values in zip(times, rows[feature].to_pylist(), strict=True)
    ]
    robot.log(*messages)
    mp4 = source.video_path(episode, FEATURE).read_bytes()
    robot.store(CAMERA, mp4, content_type=MP4_TYPE, start_ns=start_ns, end_ns=times[-1] + 1, kind="video")
    robot.close(times[-1] + S)
    return Recorded(robot.recording, rows, mp4, times)


def test_every_value_packet_and_frame_is_as_in_the_files(
    robot: Robot, jobs: JobsSettings, recorded: list[Recorded]
) -> None:
    index_segments.run(robot.storage, jobs)
    load_telemetry.run(robot.storage, jobs)
    spec = AlignSpec.load(Path(align_frames.__file__).with_name("specs") / "g1.toml")
    summary = align_frames.run(robot.storage, jobs, spec)
    frames = sum(len(one.times) for one in recorded)
    assert (summary.rows["episodes"], summary.rows["steps"]) == (len(recorded), frames)
    for one in recorded:
        check_telemetry(robot.storage, one)
        check_steps(robot.storage, one)
        check_series(robot.storage, one)
    psnr_db = [value for one in recorded for value in check_video(robot.storage, one)]
    told = float(re.findall(r"([\d.]+) dB", " ".join(summary.notes))[0])
    print(f"{len(recorded)} episodes, {frames} frames; PSNR of the rendition {np.mean(psnr_db):.1f} dB, told {told} dB")
    assert len(psnr_db) == frames
    assert min(psnr_db) > 30
    assert abs(np.mean(psnr_db) - told) < 2  # it is told of a quarter of the lines, over all frames together


def table_rows(storage: Storage, chain: str, table: str, where: str, columns: list[str] | None = None) -> Any:
    manifest = versions.newest(storage, chain)
    assert manifest
    return open_table(storage, chain, manifest, table).to_table(filter=where, columns=columns)


def same(found: Any, wanted: Any) -> bool:
    """Bit for bit the same float32."""
    array = np.array(found.to_pylist(), np.float32)
    return array.shape == wanted.shape and bool((array.view(np.uint32) == wanted.view(np.uint32)).all())


def check_telemetry(storage: Storage, one: Recorded) -> None:
    for column, table in TABLES.items():
        rows = table_rows(storage, versions.TELEMETRY, table, f"recording_id = '{one.recording}'").sort_by("t_ns")
        assert rows["t_ns"].to_pylist() == one.times
        assert same(rows["data"], one.values(column))
        assert rows["extra"].null_count == len(rows)


def check_steps(storage: Storage, one: Recorded) -> None:
    rows = table_rows(storage, "datasets/g1", "steps", f"recording_id = '{one.recording}'").sort_by("step")
    assert rows["step"].to_pylist() == list(range(len(one.times)))
    assert near(rows["t_ns"].to_pylist(), one.times)
    for column in FEATURES:
        assert same(rows[column], one.values(column))
        assert max(map(abs, rows[f"{column}_age_ns"].to_pylist())) <= 1
    (episode,) = table_rows(
        storage, "datasets/g1", "episodes", f"recording_id = '{one.recording}'", ["steps", "robot_id"]
    ).to_pylist()
    assert episode == {"steps": len(one.times), "robot_id": "robo-1"}


def check_series(storage: Storage, one: Recorded) -> None:
    for column in FEATURES:
        where = f"episode_id = '{episode_of(storage, one)}' AND column = '{column}'"
        rows = table_rows(storage, "datasets/g1", "series", where)
        assert rows["t_ns"].to_pylist() == one.times
        assert same(rows["value"], one.values(column))


def episode_of(storage: Storage, one: Recorded) -> str:
    rows = table_rows(storage, "datasets/g1", "episodes", f"recording_id = '{one.recording}'", ["episode_id"])
    return str(rows["episode_id"][0].as_py())


def check_video(storage: Storage, one: Recorded) -> Iterator[float]:
    """The source's packets are kept, the rendition has the same frames at the same times; yields the PSNR of each."""
    original, made = (list(gops(storage, one, rendition)) for rendition in ("original", "h264-g10"))
    assert {gop["codec"] for gop in original} == {"av1"}
    assert {gop["codec"] for gop in made} == {"h264"}
    assert [packet for gop in original for packet in gop["packets"]] == one.packets
    times = [[t_ns for gop in found for t_ns in gop["frame_t_ns"]] for found in (original, made)]
    assert times[0] == times[1]
    assert near(times[0], one.times)
    for source, other in zip(frames_of(original), frames_of(made), strict=True):
        error = np.square(source.astype(np.float64) - other).mean()
        yield 10 * np.log10(255**2 / error)


def gops(storage: Storage, one: Recorded, rendition: str) -> Iterator[dict[str, Any]]:
    manifest = versions.newest(storage, "datasets/g1")
    assert manifest
    lake = open_table(storage, "datasets/g1", manifest, "gops")
    where = f"episode_id = '{episode_of(storage, one)}' AND rendition = '{rendition}'"
    rows = lake.to_table(
        columns=["gop", "codec", "extradata", "packet_bytes", "frame_t_ns", "payload"],
        filter=where,
        blob_handling="all_binary",
    ).sort_by("gop")
    for row in rows.to_pylist():
        cuts = np.cumsum([0, *row["packet_bytes"]])
        packets = [row["payload"][a:b] for a, b in pairwise(cuts)]
        yield row | {"packets": packets}


def frames_of(found: list[dict[str, Any]]) -> Iterator[Any]:
    """The luma of every frame, (height, width) uint8."""
    for gop in found:
        for frame in decode_gop(gop["codec"], gop["extradata"], gop["packets"]):
            yield frame.reformat(format="gray").to_ndarray()


def near(found: list[int], wanted: list[int]) -> bool:
    """The file counts in 1/15360 s, and a frame's time is rounded to the nearest ns."""
    return len(found) == len(wanted) and max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= 1
