"""A robot with two arms and three cameras, each stream at its own rate: written as a dataset, kept as plain lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pyarrow as pa

from dataset_catalog import schema, versions
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest
from tests.dataset_catalog.conftest import MS, T0, append, gops_table, series_table, statistics_table, turn

JOINTS = ("left_hip", "left_knee", "left_gripper", "right_hip", "right_knee", "right_gripper")
COLUMNS: dict[str, dict[str, Any]] = {
    "state": {"size": 6, "names": JOINTS, "policy": "linear", "tolerance_ns": 12 * MS},  # 200 Hz
    "action": {"size": 6, "names": JOINTS, "policy": "previous", "tolerance_ns": 25 * MS},  # 50 Hz
    "force": {"size": 1, "names": None, "policy": "nearest", "tolerance_ns": 60 * MS},  # 11 Hz
    "torso": {"size": 4, "names": None, "policy": "slerp", "tolerance_ns": 30 * MS},  # 80 Hz
}
EVERY_MS = {"state": 5, "action": 20, "force": 90, "torso": 12}
CAMERAS: dict[str, dict[str, Any]] = {
    "head": {"every_ms": 33, "size": (48, 64), "tolerance_ns": 20 * MS},
    "left_wrist": {"every_ms": 66, "size": (36, 48), "tolerance_ns": 40 * MS},
    "right_wrist": {"every_ms": 33, "size": (48, 48), "tolerance_ns": 20 * MS},
}
STEP_NS, GOP = 33 * MS, 8
ALL = tuple(CAMERAS)
EPISODES: dict[str, dict[str, Any]] = {
    "d0": {"task": "fold the towel", "seconds": 2.2, "seed": 0, "cameras": ALL},
    "d1": {"task": "open the box", "seconds": 1.7, "seed": 1, "cameras": ("head", "left_wrist")},
    "d2": {"task": None, "seconds": 2.0, "seed": 2, "cameras": ALL},
    "d3": {"task": "fold the towel", "seconds": 1.3, "seed": 3, "cameras": ("head",)},
}


@dataclass(frozen=True)
class Recorded:
    """What was recorded. `frames`: camera → every stored frame with its time, one decoder through all of them."""

    episode_id: str
    task: str | None
    start_ns: int
    end_ns: int
    steps: list[int]
    series: dict[str, list[tuple[int, np.ndarray]]]
    frames: dict[str, list[tuple[int, av.VideoFrame]]]
    gops: list[dict[str, Any]]


def record(name: str, task: str | None, *, seconds: float, seed: int, cameras: tuple[str, ...]) -> Recorded:
    """Jitter, a hole in every stream at another place, and series and video wider than the episode."""
    rng = np.random.default_rng(seed)
    start = T0 + seed * 3600 * 1000 * MS
    end = start + int(seconds * 1000) * MS
    series = {
        column: _walk(rng, start, end, EVERY_MS[column], about["size"])
        for column, about in COLUMNS.items()
        if column != "torso"
    }
    series["torso"] = turn(rng, start, end, EVERY_MS["torso"] * MS)
    filmed = {camera: _film(name, camera, start, end, rng) for camera in cameras}
    steps = list(range(start + 2 * MS, end, STEP_NS))
    frames = {camera: decode_all(rows) for camera, rows in filmed.items()}
    return Recorded(name, task, start, end, steps, series, frames, [row for rows in filmed.values() for row in rows])


def write(storage: Storage, name: str, episodes: list[Recorded]) -> None:
    """As one version of a dataset; its steps hold only what windows read of them."""
    tables = {
        "episodes": pa.Table.from_pylist([_episode_row(e) for e in episodes], schema=schema.EPISODES),
        "steps": _steps(episodes),
        "series": series_table(episodes),
        "gops": gops_table([row for e in episodes for row in e.gops]),
        "statistics": statistics_table(episodes),
    }
    chain = f"{versions.DATASETS}/{name}"
    versions.publish(storage, chain, Manifest(1, {t: append(storage, chain, t, rows) for t, rows in tables.items()}))


def decode_all(rows: list[dict[str, Any]]) -> list[tuple[int, av.VideoFrame]]:
    """One decoder through everything."""
    codec: Any = av.CodecContext.create("h264", "r")
    frames, times = [], [t for row in rows for t in row["frame_t_ns"]]
    for row in rows:
        cuts = np.cumsum([0, *row["packet_bytes"]])
        for a, b in pairwise(cuts):
            frames += codec.decode(av.Packet(row["payload"][a:b]))
    return list(zip(times, frames + codec.decode(None), strict=True))


def _walk(rng: np.random.Generator, start: int, end: int, every_ms: int, size: int) -> list[tuple[int, np.ndarray]]:
    hole = start + int(rng.integers(300, 500)) * MS
    times = [t + int(rng.integers(0, MS)) for t in range(start - 100 * MS, end + 100 * MS, every_ms * MS)]
    times = [t for t in times if not hole <= t < hole + 130 * MS]
    values = (0.1 * rng.normal(size=(len(times), size))).cumsum(axis=0).astype(np.float32)
    return list(zip(times, values, strict=True))


def _film(episode: str, camera: str, start: int, end: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of `gops`: closed GOPs of eight noisy pictures, some frames lost, the first frames before the episode."""
    about = CAMERAS[camera]
    hole = start + int(rng.integers(500, 800)) * MS
    every = range(start - 3 * about["every_ms"] * MS, end + MS, about["every_ms"] * MS)
    times = [t + int(rng.integers(-2 * MS, 2 * MS)) for t in every if not hole <= t < hole + 150 * MS]
    rows, packets = [], _encode(len(times), about["size"], rng)
    assert len(times) == len(packets)
    for gop, first in enumerate(range(0, len(times), GOP)):
        stamps, data = times[first : first + GOP], packets[first : first + GOP]
        row = {"episode_id": episode, "robot_id": "duo", "camera": camera, "rendition": "original", "gop": gop}
        row |= {"start_ns": stamps[0], "codec": "h264", "extradata": b"", "packet_bytes": [len(d) for d in data]}
        row |= {"height": about["size"][0], "width": about["size"][1], "frame_t_ns": stamps}
        rows.append(row | {"payload": b"".join(data), "source_key": "raw/duo/0", "source_sha256": "00"})
    return rows


def _encode(count: int, size: tuple[int, int], rng: np.random.Generator) -> list[bytes]:
    codec: Any = av.CodecContext.create("libx264", "w")
    codec.height, codec.width, codec.pix_fmt = *size, "yuv420p"
    codec.time_base, codec.framerate = Fraction(1, 30), Fraction(30)
    codec.options = {"preset": "veryfast", "tune": "zerolatency", "x264-params": "keyint=8:scenecut=0:open-gop=0"}
    coarse = rng.integers(0, 256, (count, size[0] // 6, size[1] // 6, 3), dtype=np.uint8)
    frames = [av.VideoFrame.from_ndarray(np.kron(one, np.ones((6, 6, 1), np.uint8)), format="rgb24") for one in coarse]
    for number, frame in enumerate(frames):
        frame.pts = number
    return [bytes(packet) for frame in [*frames, None] for packet in codec.encode(frame)]


def _episode_row(e: Recorded) -> dict[str, Any]:
    cameras = {c: {"camera": True, "tolerance_ns": about["tolerance_ns"]} for c, about in CAMERAS.items()}
    row = {"episode_id": e.episode_id, "robot_id": "duo", "recording_id": "rec-duo", "task": e.task, "success": True}
    row |= {"start_ns": e.start_ns, "end_ns": e.end_ns, "steps": len(e.steps), "columns": json.dumps(COLUMNS | cameras)}
    return row | {"sources": [{"key": "raw/duo/0", "sha256": "00"}]}


def _steps(episodes: list[Recorded]) -> pa.Table:
    keys = {"robot_id": "duo", "recording_id": "rec-duo"}
    rows = [
        keys | {"episode_id": e.episode_id, "step": step, "t_ns": t} for e in episodes for step, t in enumerate(e.steps)
    ]
    sizes = {name: column["size"] for name, column in COLUMNS.items()}
    return pa.Table.from_pylist(rows, schema=schema.steps_schema(sizes, list(CAMERAS)))
