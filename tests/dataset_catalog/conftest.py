"""A small lake with real H.264, written as the jobs write it, and beside it the plain truth to compare with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count, groupby
from pathlib import Path
from typing import Any

import av
import cv2
import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

from dataset_catalog import schema, versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.sampling import nearest_index, sample
from dataset_catalog.statistics import Statistics
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest

settings.register_profile("shared", deadline=None)  # laws are about values; how long they take says the machine
settings.load_profile("shared")

T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
MS = 1_000_000
FRAME_NS = 50 * MS
COLUMNS: dict[str, dict[str, Any]] = {
    "state": {"size": 3, "names": ["hip", "knee", "ankle"], "policy": "linear", "tolerance_ns": 40 * MS},
    "action": {"size": 2, "names": None, "policy": "previous", "tolerance_ns": 60 * MS},
    "torso": {"size": 4, "names": ["w", "x", "y", "z"], "policy": "slerp", "tolerance_ns": 40 * MS},
    "head": {"camera": True, "tolerance_ns": 30 * MS, "rendition": "original"},
}


@dataclass(frozen=True)
class Episode:
    """What was recorded, as plain lists."""

    episode_id: str
    robot_id: str
    task: str | None
    success: bool | None
    start_ns: int
    end_ns: int
    steps: list[int]
    series: dict[str, list[tuple[int, np.ndarray]]]
    frames: list[tuple[int, np.ndarray]]  # all that are stored: time, (48, 64, 3) as decoded
    small: list[tuple[int, np.ndarray]]  # the same of the smaller rendition, (24, 32, 3)
    gops: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Lake:
    storage: Storage
    episodes: dict[str, Episode]

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.storage)


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two robots, five episodes, dataset `pick` in versions 1 (three episodes) and 2 (all), two topics."""
    storage = Storage.open(str(tmp_path_factory.mktemp("lake")))
    episodes = [
        make_episode("e0", "h1", "pour water", True, frames=40, skip=0, seed=0),
        make_episode("e1", "h1", "pour water", False, frames=33, skip=4, seed=1),
        make_episode("e2", "h2", None, None, frames=25, skip=0, seed=2),
        make_episode("e3", "h2", "wave", True, frames=57, skip=7, seed=3),
        make_episode("e4", "h2", "wave", None, frames=12, skip=0, seed=4),
    ]
    write_dataset(storage, "pick", [episodes[:3], episodes[3:]])
    write_segments(storage)
    write_telemetry(storage)
    return Lake(storage, {episode.episode_id: episode for episode in episodes})


@pytest.fixture
def readings_of() -> Any:
    return readings


@pytest.fixture
def catalog(lake: Lake, tmp_path: Path) -> Catalog:
    """A copy of that lake to write to."""
    shutil.copytree(lake.storage.url, tmp_path / "lake")
    return Catalog.open(str(tmp_path / "lake"))


@pytest.fixture
def empty(tmp_path: Path) -> Catalog:
    return Catalog.open(str(tmp_path / "nothing"))


def make_episode(
    name: str, robot: str, task: str | None, success: bool | None, *, frames: int, skip: int, seed: int
) -> Episode:
    """An episode whose first GOP begins `skip` frames before it, with jitter, a hole in `state`, a lost frame."""
    rng = np.random.default_rng(seed)
    first = T0 + seed * 3600 * 1000 * MS
    times = [first + i * FRAME_NS + int(rng.integers(-4 * MS, 4 * MS)) for i in range(skip + frames) if i != skip + 15]
    start, end = times[skip] - MS, times[-1] + MS
    gops, small_gops = (record(name, robot, label, times, size, seed) for label, size in RENDITIONS.items())
    inside = list(range(start + 3 * MS, end, 40 * MS))  # a clock of its own, 25 Hz
    return Episode(
        name,
        robot,
        task,
        success,
        start,
        end,
        inside,
        {
            "state": walk(rng, start, end, 10 * MS, 3, hole=(start + 400 * MS, start + 520 * MS)),
            "action": walk(rng, start - 200 * MS, end + 200 * MS, 33 * MS, 2),  # wider than the episode
            "torso": turn(rng, start, end, 20 * MS),
        },
        *(list(decode_all(rows)) for rows in (gops, small_gops)),
        gops + small_gops,
    )


RENDITIONS = {"original": (48, 64), "h264-small": (24, 32)}


def walk(rng: np.random.Generator, start: int, end: int, every: int, size: int, hole: tuple[int, int] = (0, 0)) -> Any:
    times = [t + int(rng.integers(0, MS)) for t in range(start, end - MS, every) if not hole[0] <= t < hole[1]]
    values = rng.normal(size=(len(times), size)).cumsum(axis=0).astype(np.float32)
    return list(zip(times, values, strict=True))


def turn(rng: np.random.Generator, start: int, end: int, every: int) -> Any:
    series = walk(rng, start, end, every, 4)
    return [(t, (q / np.linalg.norm(q)).astype(np.float32)) for t, q in series]


def record(episode: str, robot: str, rendition: str, times: list[int], size: tuple[int, int], seed: int) -> Any:
    """Rows of `gops`: closed GOPs of ten pictures with a bar that moves."""
    packets = encode(len(times), size, seed)
    numbered = zip(count(), times, packets, strict=False)
    rows = []
    for gop, group in groupby(numbered, key=lambda item: item[0] // 10):
        _, stamps, data = zip(*group, strict=True)
        row = {"episode_id": episode, "robot_id": robot, "camera": "head", "rendition": rendition, "gop": gop}
        row |= {"start_ns": stamps[0], "codec": "h264", "height": size[0], "width": size[1], "extradata": b""}
        row |= {"packet_bytes": [len(d) for d in data], "frame_t_ns": list(stamps), "payload": b"".join(data)}
        rows.append(row | {"source_key": f"raw/{robot}/{gop}", "source_sha256": "00"})
    return rows


def encode(frames: int, size: tuple[int, int], seed: int) -> list[bytes]:
    codec: Any = av.CodecContext.create("libx264", "w")
    codec.height, codec.width, codec.pix_fmt = *size, "yuv420p"
    codec.time_base, codec.framerate, codec.gop_size = Fraction(1, 20), Fraction(20), 10
    codec.options = {"preset": "veryfast", "tune": "zerolatency", "x264-params": "keyint=10:scenecut=0:open-gop=0"}
    packets = []
    for i in range(frames):
        picture = np.full((*size, 3), 40 + 20 * seed, np.uint8)
        picture[:, (i * 2) % size[1] : (i * 2) % size[1] + 6] = (255, 4 * i % 256, 0)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = i
        packets += [bytes(packet) for packet in codec.encode(frame)]
    return packets + [bytes(packet) for packet in codec.encode(None)]


def decode_all(rows: list[dict[str, Any]]) -> Iterator[tuple[int, np.ndarray]]:
    """The slow reference: one decoder through everything, no random access, its own conversion."""
    codec: Any = av.CodecContext.create("h264", "r")
    times = iter([t for row in rows for t in row["frame_t_ns"]])
    for row in rows:
        at = 0
        for size in row["packet_bytes"]:
            for frame in codec.decode(av.Packet(row["payload"][at : at + size])):
                yield next(times), frame.reformat(format="rgb24", interpolation="AREA").to_ndarray()
            at += size
    for frame in codec.decode(None):
        yield next(times), frame.reformat(format="rgb24", interpolation="AREA").to_ndarray()


def write_dataset(storage: Storage, name: str, batches: list[list[Episode]]) -> None:
    """Each batch of episodes appended to its tables, and a manifest for it."""
    chain = f"{versions.DATASETS}/{name}"
    for n, episodes in enumerate(batches, 1):
        tables = {
            "episodes": pa.Table.from_pylist([episode_row(e) for e in episodes], schema=schema.EPISODES),
            "steps": steps_table(episodes),
            "series": series_table(episodes),
            "gops": gops_table([row for e in episodes for row in e.gops]),
            "statistics": statistics_table(episodes),
        }
        published = {table: append(storage, chain, table, rows) for table, rows in tables.items()}
        versions.publish(storage, chain, Manifest(n, published, created_ns=T0 + n))


def append(storage: Storage, chain: str, table: str, rows: pa.Table) -> int:
    uri = versions.table_uri(storage, chain, table)
    options = {"data_storage_version": schema.DATA_STORAGE_VERSION, "enable_stable_row_ids": True}
    return int(lance.write_dataset(rows, uri, mode="append", **options).version)  # type: ignore[arg-type]


def episode_row(e: Episode) -> dict[str, Any]:
    row = {"episode_id": e.episode_id, "robot_id": e.robot_id, "recording_id": f"rec-{e.robot_id}", "task": e.task}
    row |= {"success": e.success, "notes": None, "start_ns": e.start_ns, "end_ns": e.end_ns, "steps": len(e.steps)}
    return row | {"columns": json.dumps(COLUMNS), "sources": [{"key": "raw/x", "sha256": "00"}]}


def steps_table(episodes: list[Episode]) -> pa.Table:
    """As the align job makes them: every column by its policy and tolerance, every camera by the nearest frame."""
    sizes = {name: column["size"] for name, column in COLUMNS.items() if "size" in column}
    rows = [row for e in episodes for row in steps_of(e, sizes)]
    return pa.Table.from_pylist(rows, schema=schema.steps_schema(sizes, ["head"]))


def steps_of(e: Episode, sizes: dict[str, int]) -> Iterator[dict[str, Any]]:
    at = np.array(e.steps)
    taken = {}
    for name in sizes:
        times, values = (np.array(one) for one in zip(*e.series[name], strict=True))
        rule = COLUMNS[name]
        taken[name] = sample(rule["policy"], times, values, at, tolerance_ns=rule["tolerance_ns"])
    places = [
        (t, row["gop"], k) for row in e.gops if row["rendition"] == "original" for k, t in enumerate(row["frame_t_ns"])
    ]
    nearest = nearest_index(np.array([t for t, _, _ in places]), at)
    for step, t in enumerate(e.steps):
        frame_t, gop, k = places[nearest[step]]
        row = {"robot_id": e.robot_id, "recording_id": f"rec-{e.robot_id}", "episode_id": e.episode_id}
        row |= {"step": step, "t_ns": t}
        if abs(t - frame_t) <= COLUMNS["head"]["tolerance_ns"]:
            row |= {"head_gop": gop, "head_k": k, "head_age_ns": t - frame_t}
        for name, got in taken.items():
            if got.valid[step]:
                row |= {name: got.values[step].tolist(), f"{name}_age_ns": int(got.age_ns[step])}
        yield row


def series_table(episodes: Sequence[Any]) -> pa.Table:
    rows = [
        {"episode_id": e.episode_id, "column": name, "t_ns": t, "value": value.tolist()}
        for e in episodes
        for name, series in sorted(e.series.items())
        for t, value in series
    ]
    return pa.Table.from_pylist(rows, schema=schema.SERIES)


def statistics_table(episodes: Sequence[Any]) -> pa.Table:
    rows = [
        {"episode_id": e.episode_id, "column": name, **Statistics.of(readings(e, name)).as_row()}
        for e in episodes
        for name in e.series
    ]
    return pa.Table.from_pylist(rows, schema=schema.STATISTICS)


def readings(e: Any, column: str) -> np.ndarray:
    """What the episode has of a column between its ends."""
    return np.array([value for t, value in e.series[column] if e.start_ns <= t < e.end_ns])


def gops_table(rows: list[dict[str, Any]]) -> pa.Table:
    plain = pa.schema([f for f in schema.GOPS if f.name != "payload"])
    table = pa.Table.from_pylist(rows, schema=plain)
    return table.append_column(schema.GOPS.field("payload"), lance.blob_array([row["payload"] for row in rows]))


def segment(
    robot: str, stream: str, seq: int, kind: str, state: str = "ok", luma: float | None = None
) -> dict[str, Any]:
    start = T0 + seq * 10_000 * MS
    row = {"robot_id": robot, "recording_id": f"rec-{robot}", "stream": stream, "seq": seq, "kind": kind}
    row |= {"start_ns": start, "end_ns": start + 10_000 * MS, "bytes": 1000, "state": state, "luma_mean": luma}
    return row | {"received_ns": start + 11_000 * MS, "key": f"raw/{robot}/rec-{robot}/{stream}/{seq:010d}"}


def thumbnail(seq: int) -> dict[str, bytes]:
    """A picture that is the brighter the later its segment."""
    return {"thumbnail": cv2.imencode(".jpg", np.full((90, 160, 3), 50 * (seq + 1), np.uint8))[1].tobytes()}


def write_segments(storage: Storage) -> None:
    """Published rows, and after them one that no manifest names."""
    rows = [segment("h1", "telemetry", seq, "telemetry") for seq in range(3)]
    rows += [segment("h1", "head", seq, "video", luma=30.0 * (seq + 1)) | thumbnail(seq) for seq in range(3)]
    rows += [segment("h2", "head", 0, "video", luma=90.0), segment("h2", "head", 1, "video", "quarantined")]
    rows += [segment("h2", "head", 2, "video", "gap")]
    table = pa.Table.from_pylist(rows, schema=schema.SEGMENTS)
    published = append(storage, versions.SEGMENTS, "segments", table)
    versions.publish(storage, versions.SEGMENTS, Manifest(1, {"segments": published}))
    late = pa.Table.from_pylist([segment("h9", "head", 0, "video")], schema=schema.SEGMENTS)
    append(storage, versions.SEGMENTS, "segments", late)


def write_telemetry(storage: Storage) -> None:
    keys = {"robot_id": ["h1"] * 4, "recording_id": ["rec-h1"] * 4, "stream": ["telemetry"] * 4, "seq": [0] * 4}
    rows = pa.table(keys | {"t_ns": [T0 + i for i in range(4)], "sequence": list(range(4)), "extra": ["{}"] * 4})
    joints = rows.append_column("position", pa.array([[0.5 * i, 1.0] for i in range(4)], pa.list_(pa.float64())))
    battery = rows.append_column("percent", pa.array([90.0, 80.0, 70.0, 60.0]))
    words = ["the bottle slipped", "a bottle is on the table", "it slipped: the bottle fell", ""]
    log = rows.append_column("message", pa.array(words))
    tables = {"joint_states": joints, "power.battery": battery, "log": log}
    published = {name: append(storage, versions.TELEMETRY, name, table) for name, table in tables.items()}
    versions.publish(storage, versions.TELEMETRY, Manifest(1, published))
