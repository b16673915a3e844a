"""A robot's backlog: sealed segments such as a camera and a control loop leave, of bytes that no compressor shrinks."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mcap.writer import Writer

from edge.segment import SegmentFacts
from edge.spool import Spool, Spooled
from edge.wire import MCAP_TYPE, Kind

RECORDING = "01HF7YAT00BENCHMARK0000000"
START_NS = 1_700_000_000_000_000_000
SEGMENT_NS = 10_000_000_000
MESSAGES = 200  # 10 s at 20 Hz
STREAMS: dict[str, Kind] = {"telemetry": "telemetry", "head_camera": "video"}
SIZES = {"telemetry": 50_000, "head_camera": 3_000_000}


@dataclass(frozen=True)
class Backlog:
    """A spool folder that is never uploaded from, only copied."""

    folder: Path
    segments: list[Spooled]  # telemetry first, oldest first, as an agent takes them

    @property
    def bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments)

    def path(self, segment: Spooled) -> Path:
        return Spool(self.folder).data_path(segment)

    def copy_to(self, folder: Path) -> None:
        """Let all of it wait in another robot's folder."""
        shutil.copytree(self.folder / "sealed", folder / "sealed")


def make_backlog(folder: Path, *, size_bytes: int) -> Backlog:
    """So many pairs of a 3 MB video segment and a 50 kB telemetry segment that they have `size_bytes` at least."""
    spool, numbers = Spool(folder), np.random.default_rng(11)
    pairs = range(-(-size_bytes // sum(SIZES.values())))
    segments = [_add(spool, (stream, seq), SIZES[stream], numbers) for stream in STREAMS for seq in pairs]
    return Backlog(folder, segments)


def _add(spool: Spool, name: tuple[str, int], size_bytes: int, numbers: np.random.Generator) -> Spooled:
    stream, seq = name
    times_ns = [START_NS + seq * SEGMENT_NS + tick * SEGMENT_NS // MESSAGES for tick in range(MESSAGES)]
    body = _mcap(f"/{stream}", times_ns, _bodies(size_bytes // MESSAGES, numbers))
    sha256 = hashlib.sha256(body).hexdigest()
    facts = SegmentFacts(times_ns[0], times_ns[-1] + 1, len(body), sha256, {f"/{stream}": MESSAGES})
    return spool.add((RECORDING, stream, seq), facts, body, kind=STREAMS[stream], content_type=MCAP_TYPE)


def _mcap(topic: str, times_ns: list[int], bodies: Iterator[bytes]) -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    writer.start()
    channel = writer.register_channel(topic, "application/octet-stream", schema_id=0)
    for sequence, (t_ns, data) in enumerate(zip(times_ns, bodies, strict=False)):
        writer.add_message(channel, log_time=t_ns, publish_time=t_ns, sequence=sequence, data=data)
    writer.finish()
    return file.getvalue()


def _bodies(size_bytes: int, numbers: np.random.Generator) -> Iterator[bytes]:
    while True:
        yield numbers.bytes(size_bytes)
