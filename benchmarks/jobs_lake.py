"""The jobs benchmark's bucket, and recordings put into it as ingest does."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import secrets
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs_footage import (
    CAMERA,
    START_NS,
    TICK_NS,
    Built,
    Clip,
    Telemetry,
    closing_segment,
    events_segment,
    video_segment,
)
from benchmarks.measure import BenchmarkFailed
from benchmarks.robots import wait_until
from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from edge.topics import EVENTS_STREAM, TELEMETRY_STREAM
from edge.wire import MCAP_TYPE, Kind, SegmentId
from fleetfeed import servers
from fleetfeed.plan import BUCKET, Credentials, Plan
from fleetfeed.ports import choose_ports, url
from fleetfeed.settings import StackSettings
from ingest_serve.bucket import Bucket
from ingest_serve.raw_store import RawObject, RawStore, Stored

READY_S, END_S = 60.0, 20.0
AGENT = "_agent"


@dataclass(frozen=True)
class S3:
    """A running SeaweedFS; each name is a lake of its own in its one bucket."""

    pid: int
    url: str
    credentials: Credentials

    def lake(self, name: str) -> Storage:
        place = f"s3://{BUCKET}/{name}"
        settings = StorageSettings(
            url=place,
            endpoint_url=self.url,
            access_key_id=self.credentials.access_key_id,
            secret_access_key=self.credentials.secret_access_key,
        )
        return Storage.open(place, settings=settings)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """SeaweedFS on a free port of 127.0.0.1, its data in `folder`; ended with the block."""
    folder.mkdir()
    key = Credentials(access_key_id="benchmark", secret_access_key=secrets.token_hex(16), ray_token="")
    plan = _plan(folder, key)
    with (folder / "log").open("wb") as log:
        environment = os.environ | servers.seaweedfs_environment(plan)
        command = servers.seaweedfs(plan, data=folder)
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = url(plan.ports.s3)
    try:
        wait_until(lambda: _answers(f"{address}/{BUCKET}"), limit_s=READY_S, what="SeaweedFS answers")
        yield S3(server.pid, address, key)
    finally:
        server.terminate()
        try:
            server.wait(END_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        for path in servers.seaweedfs_sockets(plan):
            path.unlink(missing_ok=True)


def _plan(folder: Path, key: Credentials) -> Plan:
    settings = StackSettings(run_dir=folder, http_port=0, s3_port=0, dashboard_port=0)
    return Plan(
        stack_id=secrets.token_hex(8),
        run_dir=folder,
        link=folder,
        app=settings.app,
        num_cpus=settings.num_cpus,
        object_store_memory_bytes=settings.object_store_memory_bytes,
        start_timeout_s=settings.start_timeout_s,
        ports=choose_ports(settings, randomness=random.Random()),
        credentials=key,
    )


def _answers(address: str) -> bool:
    """403 is an answer too: the bucket is there and asks who we are."""
    try:
        urllib.request.urlopen(address, timeout=2).close()  # noqa: S310 - our own server
    except urllib.error.HTTPError as error:
        return error.code == 403
    except OSError:
        return False
    return True


def forget(storage: Storage, *prefixes: str) -> None:
    """Delete what jobs made, so that the next round makes it again; raw/ stays."""
    bucket = Bucket.open(storage)
    for prefix in prefixes:
        names = bucket.names(prefix)
        if names:
            bucket.delete(*(f"{prefix}/{name}" for name in names))


@dataclass(frozen=True, slots=True)
class Put:
    """A segment that is stored, its bytes, and how many messages are in it."""

    segment: SegmentId
    kind: Kind
    body: bytes
    messages: int


def count(puts: Sequence[Put], kind: Kind) -> int:
    """Frames, or messages of telemetry."""
    return sum(one.messages for one in puts if one.kind == kind)


class Writer:
    """Stores one recording, segment by segment."""

    def __init__(self, storage: Storage, robot: str, recording: str) -> None:
        self._store = RawStore.open(storage)
        self._robot, self._recording = robot, recording
        self.last_seq: dict[str, int] = {}

    def put(self, stream: str, built: Built, *, start_ns: int, end_ns: int, kind: Kind = "telemetry") -> Put:
        """The stream's next segment."""
        seq = self.last_seq.get(stream, -1) + 1
        segment = SegmentId(self._robot, self._recording, stream, seq)
        digest, size = hashlib.sha256(built.body).hexdigest(), len(built.body)
        raw = RawObject(segment, kind, MCAP_TYPE, size, digest, start_ns, end_ns, None, "benchmark", end_ns)
        outcome = asyncio.run(self._store.put_once(raw, built.body))
        if not isinstance(outcome, Stored):
            raise BenchmarkFailed(f"{segment.key} is stored already")
        self.last_seq[stream] = seq
        return Put(segment, kind, *built)

    def end(self, episode_id: str, start_ns: int, end_ns: int) -> list[Put]:
        """Label all of it as one episode, and close the recording."""
        labels = self.put(EVENTS_STREAM, events_segment(episode_id, start_ns, end_ns), start_ns=start_ns, end_ns=end_ns)
        closing = closing_segment({**self.last_seq, AGENT: 0}, end_ns)
        return [labels, self.put(AGENT, closing, start_ns=end_ns, end_ns=end_ns + 1)]


@dataclass(frozen=True, slots=True)
class Shape:
    """How much is recorded: robots with one recording each, of so many segments of so many ticks (20 a second).

    `film` is whether there is a camera and one labelled episode; else only telemetry is recorded.
    """

    recordings: int
    segments: int
    ticks: int
    film: bool = True


def record(storage: Storage, shape: Shape, telemetry: Telemetry, clips: Sequence[Clip]) -> list[Put]:
    """Store recordings of this shape; all that was stored, in order."""
    return [one for number in range(shape.recordings) for one in _record(storage, number, shape, telemetry, clips)]


def _record(storage: Storage, number: int, shape: Shape, telemetry: Telemetry, clips: Sequence[Clip]) -> Iterator[Put]:
    writer = Writer(storage, f"robot-{number:04d}", f"01J{number:023d}")
    length_ns = shape.ticks * TICK_NS
    for seq in range(shape.segments):
        at_ns, first = START_NS + seq * length_ns, seq * shape.ticks + number
        end_ns = at_ns + length_ns
        yield writer.put(TELEMETRY_STREAM, telemetry.segment(first, shape.ticks, at_ns), start_ns=at_ns, end_ns=end_ns)
        if shape.film:
            clip = clips[(number * shape.segments + seq) % len(clips)][: shape.ticks]
            yield writer.put(CAMERA, video_segment(clip, at_ns), start_ns=at_ns, end_ns=end_ns, kind="video")
    if shape.film:
        yield from writer.end(f"episode-{number:04d}", START_NS, START_NS + shape.segments * length_ns)
