"""Bodies that were made to hurt, among sound ones, in one run of index_segments: each is quarantined with a reason or
decodes wholly, the sound ones are taken, nobody is called, and no process grows beyond what it is given."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import psutil
import pytest
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from mcap.reader import NonSeekingReader

from dataset_catalog import versions
from dataset_catalog.tables import open_table
from edge.wire import MCAP_TYPE
from ray_jobs import index_segments
from ray_jobs.settings import JobsSettings
from tests.faults import hostile_media
from tests.faults.campaign import is_soak, trials
from tests.faults.hostile_media import Hostile
from tests.ray_jobs.conftest import Robot
from tests.ray_jobs.conftest import jobs as jobs
from tests.ray_jobs.conftest import ray_address as ray_address
from tests.ray_jobs.conftest import robot as robot
from tests.ray_jobs.conftest import s3_lake as s3_lake

MEMORY = 512 << 20  # what examining one segment may take
IMPORTED = 400 << 20  # what a process takes that has imported all that it needs
LIMIT_S = 20.0
PLACE = {"video": "head_camera", "telemetry": "telemetry"}


def test_hostile_bodies_harm_nobody(robot: Robot, jobs: JobsSettings) -> None:
    settings = jobs.model_copy(update={"examine_memory_bytes": MEMORY, "examine_limit_s": LIMIT_S})
    with _nobody_calls() as url, _PeakMemory() as peak:
        stored = {_store(robot, item): item for item in _corpus(url)}
        summary = index_segments.run(robot.storage, settings)
    rows = {row["key"]: row for row in _rows(robot)}
    assert rows.keys() == stored.keys()
    wrong = [
        f"{item.name}: {row['state']}, {row['reason']}" for item, row in _pairs(stored, rows) if not _fair(item, row)
    ]
    assert not wrong, "\n".join(wrong)
    quarantined = [row["reason"] for row in rows.values() if row["state"] == "quarantined"]
    assert all(quarantined)
    assert summary.counts["quarantined"] == len(quarantined)
    assert summary.counts["segments"] == len(stored)
    assert 0 < peak.bytes < MEMORY + IMPORTED
    print(f"{len(stored)} bodies, {len(quarantined)} quarantined; at most {peak.bytes >> 20} MB in a process")


def test_the_independent_reader_tells_a_damaged_body_from_a_whole_one() -> None:
    for item in hostile_media.sound():
        assert _readable(item) == (200 if item.kind == "telemetry" else 25), item.name
        half = Hostile(item.name, item.kind, item.content_type, item.body[: len(item.body) // 2], "either")
        assert _readable(half) != _readable(item), item.name


def _corpus(url: str) -> Iterator[Hostile]:
    """Sound ones before, between and behind."""
    yield from hostile_media.sound()
    if "FLEETFEED_SEED" not in os.environ:
        yield from hostile_media.by_hand(url, heavy=is_soak())
        yield from hostile_media.sound()
    yield from map(hostile_media.fuzzed, trials(test=30, soak=1000))
    yield from hostile_media.sound()


def _store(robot: Robot, item: Hostile) -> str:
    stream = PLACE[item.kind]
    return robot.store(stream, item.body, kind=item.kind, content_type=item.content_type).key


def _rows(robot: Robot) -> list[dict[str, Any]]:
    manifest = versions.newest(robot.storage, versions.SEGMENTS)
    assert manifest
    rows: list[dict[str, Any]] = (
        open_table(robot.storage, versions.SEGMENTS, manifest, "segments").to_table().to_pylist()
    )
    return rows


def _pairs(stored: dict[str, Hostile], rows: dict[str, Any]) -> Iterator[tuple[Hostile, dict[str, Any]]]:
    for key, item in stored.items():
        yield item, rows[key]


def _fair(item: Hostile, row: dict[str, Any]) -> bool:
    """Whether the row says what may be said of the body; `ok` only where all of it can be read in another way, too."""
    if item.may not in ("either", row["state"]):
        return False
    return bool(row["state"] == "quarantined" or _readable(item) == row["messages"])


def _readable(item: Hostile) -> int | None:
    """Messages, or pictures that one decoder gives for the whole file without marking one; None where it gives up."""
    try:
        if item.kind == "telemetry":
            return sum(1 for _ in _messages(item.body))
        return _pictures(item)
    except Exception:  # noqa: BLE001 - hostile bytes make libraries raise anything
        return None


def _messages(body: bytes) -> Iterator[bytes]:
    for _, _, message in NonSeekingReader(io.BytesIO(body), validate_crcs=True).iter_messages(log_time_order=False):
        yield message.data


def _pictures(item: Hostile) -> int | None:
    if item.content_type == MCAP_TYPE:
        decoder: Any = av.CodecContext.create("h264", "r")
        data = [CompressedVideo.FromString(message).data for message in _messages(item.body)]
        frames = _decoded(decoder, data)
    else:
        with av.open(io.BytesIO(item.body), format="mp4", options={"enable_drefs": "0"}) as container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = list(container.decode(video=0))
    return None if any(frame.is_corrupt for frame in frames) else len(frames)


def _decoded(decoder: Any, data: list[bytes]) -> list[Any]:
    """One decoder for the whole stream: nothing is cut into GOPs."""
    decoder.thread_count = 1
    packets = [av.Packet(len(one)) for one in data]
    for packet, one in zip(packets, data, strict=True):
        packet.update(one)
    return [frame for packet in [*packets, None] for frame in decoder.decode(packet)]


@contextmanager
def _nobody_calls() -> Iterator[str]:
    """The address of a server; fails if anybody has connected by the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


class _PeakMemory:
    """The largest resident size that any examining process below this one has had (proc(5), VmHWM)."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            for child in psutil.Process().children(recursive=True):
                self.bytes = max(self.bytes, _peak(child))


def _peak(process: psutil.Process) -> int:
    try:
        if "ray_jobs.sandbox" not in process.cmdline():
            return 0
        with open(f"/proc/{process.pid}/status") as status:
            return next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM")), 0)
    except (OSError, psutil.Error):
        return 0  # it has just ended
