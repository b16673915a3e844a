"""Real recordings: the episodes of a LeRobot v2.1 dataset as a robot with our recorder would have sent them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av

from benchmarks.jobs_footage import START_NS, encode_clip, sealed, video_segment
from benchmarks.jobs_lake import Put, Writer
from dataset_catalog.storage import Storage
from edge.lerobot import LeRobotDataset
from edge.segment import Message, Topic
from edge.topics import TELEMETRY_STREAM

SEGMENT_S = 10
SPEC = "g1"  # it comes with ray_jobs


def record_real(storage: Storage, folder: Path) -> list[Put]:
    """Store every episode as a recording; pictures are encoded anew, as the recorder does."""
    dataset = LeRobotDataset.open(folder)
    return [one for number in dataset.episodes() for one in _record(storage, dataset, number)]


def _record(storage: Storage, dataset: LeRobotDataset, number: int) -> Iterator[Put]:
    writer = Writer(storage, "g1", f"01J{number:023d}")
    rows, size = dataset.rows(number), round(SEGMENT_S * dataset.fps)
    times = [START_NS + round(frame * 1e9 / dataset.fps) for frame in range(len(rows["frame_index"]))]
    pictures = {stream: _pictures(dataset.video_path(number, name)) for stream, name in dataset.cameras.items()}
    for first in range(0, len(times), size):
        last = min(first + size, len(times))
        start_ns, end_ns = times[first], times[last - 1] + 1
        messages = (
            Message(Topic(f"/{name}", "json"), times[frame], frame, json.dumps({"data": rows[name][frame]}).encode())
            for frame in range(first, last)
            for name in dataset.topics
        )
        yield writer.put(TELEMETRY_STREAM, sealed(messages), start_ns=start_ns, end_ns=end_ns)
        for stream, seen in pictures.items():
            clip = encode_clip(islice(seen, last - first), fps=dataset.fps)
            yield writer.put(
                stream, video_segment(clip, times[first], stream=stream), start_ns=start_ns, end_ns=end_ns, kind="video"
            )
    yield from writer.end(f"episode-{number}", START_NS, times[-1] + 1)


def _pictures(path: Path) -> Iterator[Any]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")
