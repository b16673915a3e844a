"""Small folders in LeRobot's format v2.1, written by hand: the plain truth to compare with."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS = 20
NAMES = [["hip", "knee", "ankle"]]
FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": NAMES},
    "action": {"dtype": "float32", "shape": [2, 2], "names": None},
    "next.reward": {"dtype": "float64", "shape": [1], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    "observation.images.head": {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
CHUNK = "chunk-000"


def write_folder(folder: Path, lengths: list[int], *, codec: str = "libx264", gop: int = 10, b_frames: int = 0) -> Path:
    """A dataset of episodes that long, with tasks `task 0`, `task 1` in turn."""
    for part in ("meta", f"data/{CHUNK}", f"videos/{CHUNK}/observation.images.head"):
        (folder / part).mkdir(parents=True)
    info = {"codebase_version": "v2.1", "robot_type": "Small Robot", "fps": FPS, "chunks_size": 1000}
    info |= {"total_episodes": len(lengths), "features": FEATURES}
    info |= {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"}
    info |= {"video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"}
    (folder / "meta/info.json").write_text(json.dumps(info))
    lines = [
        json.dumps({"episode_index": n, "tasks": [f"task {n % 2}"], "length": length})
        for n, length in enumerate(lengths)
    ]
    (folder / "meta/episodes.jsonl").write_text("\n".join(lines))
    for n, length in enumerate(lengths):
        pq.write_table(rows_of(n, length), folder / f"data/{CHUNK}/episode_{n:06d}.parquet")
        film = folder / f"videos/{CHUNK}/observation.images.head/episode_{n:06d}.mp4"
        write_film(film, length, seed=n, codec=codec, gop=gop, b_frames=b_frames)
    return folder


def rows_of(episode: int, length: int) -> pa.Table:
    rng = np.random.default_rng(episode)
    state = rng.normal(size=(length, 3)).astype(np.float32)
    action = rng.normal(size=(length, 2, 2)).astype(np.float32)
    return pa.table(
        {
            "observation.state": pa.array(state.tolist(), pa.list_(pa.float32())),
            "action": pa.array(action.tolist(), pa.list_(pa.list_(pa.float32()))),
            "next.reward": pa.array(rng.normal(size=length), pa.float64()),
            "next.done": pa.array([i == length - 1 for i in range(length)]),
            "timestamp": pa.array([i / FPS for i in range(length)], pa.float32()),
            "frame_index": pa.array(range(length), pa.int64()),
            "episode_index": pa.array([episode] * length, pa.int64()),
            "index": pa.array(range(length), pa.int64()),
            "task_index": pa.array([episode % 2] * length, pa.int64()),
        }
    )


def pictures(length: int, seed: int) -> list[np.ndarray]:
    """A bar that moves over a ground of its own."""
    found = []
    for i in range(length):
        picture = np.full((48, 64, 3), 40 + 20 * seed, np.uint8)
        picture[:, (2 * i) % 64 : (2 * i) % 64 + 6] = (255, 4 * i % 256, 0)
        found.append(picture)
    return found


def write_film(path: Path, length: int, *, seed: int, codec: str, gop: int, b_frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", gop
        stream.time_base = Fraction(1, FPS)
        stream.codec_context.max_b_frames = b_frames
        stream.options = {"sc_threshold": "0"}  # no keyframe but those asked for
        for picture in pictures(length, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def frames_of(path: Path) -> list[np.ndarray]:
    """(height, width, 3) RGB of every frame, by one decoder from the beginning."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def original(dataset: Any, episode: str, camera: str = "head") -> list[bytes]:
    """The packets that are stored as they were encoded."""
    where = f"episode_id = '{episode}' AND camera = '{camera}' AND rendition = 'original'"
    table = dataset.table("gops").to_table(
        columns=["gop", "packet_bytes", "payload"], filter=where, blob_handling="all_binary"
    )
    packets = []
    for row in table.sort_by("gop").to_pylist():
        ends = np.cumsum([0, *row["packet_bytes"]])
        packets += [row["payload"][a:b] for a, b in pairwise(ends)]
    return packets


def same(found: Any, wanted: Any) -> bool:
    """Bit for bit the same float32."""
    a, b = (np.array(one.to_pylist(), np.float32).view(np.uint32) for one in (found, wanted))
    return a.shape == b.shape and bool((a == b).all())


def psnr_db(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Of all pictures together."""
    error = np.square(np.stack(found).astype(np.float64) - np.stack(wanted)).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
