"""Raw video segments in a lake, indexed as the job indexes them, and beside them the plain truth to compare with."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import lance
import numpy as np
import pyarrow as pa

from dataset_catalog import versions
from dataset_catalog.schema import DATA_STORAGE_VERSION, SEGMENTS
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest
from edge.segment import Message, Topic, build
from edge.topics import video_message, video_topic
from edge.video import Packet, VideoEncoder
from edge.wire import GAP_TYPE, MCAP_TYPE, MP4_TYPE, Gap, Kind, SegmentId
from ingest_serve.raw_store import RawObject
from ray_jobs.examine import Stored, examine

T0 = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
MS = 1_000_000
FRAME_NS = 50 * MS
RECORDING = "01J00000000000000000000000"
OTHER_RECORDING = "01J00000000000000000000001"

Picture = tuple[int, np.ndarray]  # capture time, (height, width, 3) RGB as it decodes


@dataclass
class Filmed:
    """A lake in the making. `rows` are those of the index, `pictures` every one that was stored, by stream."""

    storage: Storage
    robot: str = "h1"
    rows: list[dict[str, Any]] = field(default_factory=list)
    published: int = 0

    def add(
        self,
        body: bytes,
        *,
        seq: int,
        content_type: str = MCAP_TYPE,
        start_ns: int = T0,
        end_ns: int = T0 + 1,
        stream: str = "head",
        recording: str = RECORDING,
        kind: Kind = "video",
        stored: bytes | None = None,
    ) -> dict[str, Any]:
        """Store a segment (or, in its place, other bytes) and examine it; the row that the index gets."""
        segment = SegmentId(self.robot, recording, stream, seq)
        sha256 = hashlib.sha256(body).hexdigest()
        raw = RawObject(segment, kind, content_type, len(body), sha256, start_ns, end_ns, None, "key", T0)
        self.storage.filesystem().pipe_file(self.storage.path(segment.key), body if stored is None else stored)
        self.rows.append(examine(Stored(segment, raw, body), index_version=1))
        return self.rows[-1]

    def film(self, packets: Sequence[Packet], *, seq: int, codec: str = "h264", **more: Any) -> dict[str, Any]:
        """One MCAP segment of these packets, which the index finds sound."""
        row = self.add(as_mcap(packets, codec=codec), seq=seq, **more)
        assert row["state"] == "ok", row["reason"]
        return row

    def film_mp4(self, body: bytes, *, seq: int, start_ns: int, **more: Any) -> dict[str, Any]:
        row = self.add(body, seq=seq, content_type=MP4_TYPE, start_ns=start_ns, end_ns=start_ns + 1, **more)
        assert row["state"] == "ok", row["reason"]
        return row

    def gap(self, seq: int, *, start_ns: int, end_ns: int, stream: str = "head") -> dict[str, Any]:
        gap = Gap(seq, seq + 1, start_ns, end_ns, "evicted", "the disk is full", 1000, {})
        return self.add(gap.as_bytes(), seq=seq, content_type=GAP_TYPE, start_ns=start_ns, end_ns=end_ns, stream=stream)

    def publish(self) -> Storage:
        """Publish what was added since the last time."""
        self.published += 1
        rows = pa.Table.from_pylist(self.rows, schema=SEGMENTS)
        table = lance.write_dataset(
            rows,
            versions.table_uri(self.storage, versions.SEGMENTS, "segments"),
            mode="append",
            data_storage_version=DATA_STORAGE_VERSION,
            storage_options=self.storage.lance_options(),
        )
        manifest = Manifest(self.published, {"segments": int(table.version)}, created_ns=T0 + self.published)
        versions.publish(self.storage, versions.SEGMENTS, manifest)
        self.rows = []
        return self.storage


def gray_packets(
    start_ns: int, frames: int, *, gop: int = 10, size: tuple[int, int] = (64, 48), crf: int = 20, jitter: bool = True
) -> list[Packet]:
    """Gray pictures, each brighter than the last, as a robot encodes them; capture times wander by microseconds."""
    encoder = VideoEncoder(width=size[0], height=size[1], gop_frames=gop, crf=crf, max_bit_rate=4_000_000)
    wander = np.random.default_rng(frames).integers(0, 3 * MS, frames) if jitter else np.zeros(frames, np.int64)
    found = []
    for number in range(frames):
        gray = np.full((size[1], size[0], 3), 40 + number * 3 % 200, np.uint8)
        found.append(
            encoder.encode(start_ns + number * FRAME_NS + int(wander[number]), gray, color="rgb", keyframe=False)
        )
    return found


def as_mcap(packets: Iterable[Packet], *, codec: str = "h264") -> bytes:
    topic: Topic = video_topic("head")
    built = build(
        Message(topic, packet.t_ns, n, video_message(packet.t_ns, packet.data, stream="head", codec=codec))
        for n, packet in enumerate(packets)
    )
    assert built
    return built[1]


def hevc_packets(start_ns: int, frames: int) -> list[Packet]:
    codec: Any = av.CodecContext.create("libx265", "w")
    codec.width, codec.height, codec.pix_fmt, codec.framerate = 64, 64, "yuv420p", 20
    codec.options = {"x265-params": "keyint=10:bframes=0:open-gop=0:repeat-headers=1:scenecut=0:log-level=none"}
    found = []
    for number in range(frames):
        gray = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 + number * 3, np.uint8), format="rgb24")
        found += codec.encode(gray)
    found += codec.encode(None)
    return [Packet(start_ns + n * FRAME_NS, bytes(one), bool(one.is_keyframe)) for n, one in enumerate(found)]


def make_mp4(*, frames: int = 25, bframes: int = 0, gop: int = 10, first: int = 40, preset: str = "medium") -> bytes:
    """Gray pictures at 30 fps, each brighter than the last, by x264 in an mp4."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        parameters = f"keyint={gop}:bframes={bframes}:b-adapt=0:scenecut=0:log-level=0:open-gop=0"
        stream.options = {"preset": preset, "x264-params": parameters}
        for number in range(frames):
            gray = np.full((48, 64, 3), first + number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def decode_packets(packets: Iterable[Packet], *, codec: str = "h264") -> list[Picture]:
    """The slow reference: one decoder through everything."""
    packets = list(packets)
    context: Any = av.CodecContext.create(codec, "r")
    frames = [frame for packet in packets for frame in context.decode(av.Packet(packet.data))]
    frames += context.decode(None)
    return [(packet.t_ns, rgb(frame)) for packet, frame in zip(packets, frames, strict=True)]


def decode_file(body: bytes, *, start_ns: int = 0) -> list[Picture]:
    """Every frame of an MP4 as any player decodes it, and its presentation time in ns, exact, from `start_ns` on."""
    with av.open(io.BytesIO(body)) as container:
        return [
            (start_ns + round(frame.pts * frame.time_base * 1_000_000_000), rgb(frame))
            for frame in container.decode(video=0)
        ]


def rgb(frame: Any) -> np.ndarray:
    picture: np.ndarray = frame.to_ndarray(format="rgb24")
    return picture


def assert_same_pictures(found: Sequence[Picture], expected: Sequence[Picture], *, tolerance_ns: int = 500) -> None:
    """The same frames, byte for byte, each at its time."""
    assert len(found) == len(expected)
    for (found_ns, picture), (expected_ns, other) in zip(found, expected, strict=True):
        assert abs(found_ns - expected_ns) <= tolerance_ns
        assert np.array_equal(picture, other)
