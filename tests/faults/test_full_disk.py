"""Ten times more is recorded than the disk holds, without a link: the valuable stays, and the sums agree."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import requests

from edge import identity
from edge.agent import Agent
from edge.disk import DISK, Disk
from edge.errors import SpoolError
from edge.recorder import Recorder
from edge.segment import read_messages
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.status import StreamStatus, status
from edge.wire import GAP_TYPE, MP4_TYPE, Gap, SegmentId
from ingest_serve.raw_store import RawStore
from ingest_serve.registry import Registry, invite
from tests.faults.cutting_proxy import CuttingProxy
from tests.faults.failing_disk import SmallDisk
from tests.ingest_serve.conftest import Server, serve
from tests.ingest_serve.conftest import s3_endpoint as s3_endpoint
from tests.ingest_serve.conftest import storage as storage

ROBOT = "full-robot"
CAPACITY = 16 << 20
FREE = 4 << 20
OVERFILL = 10
LIMIT_S = 120.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MP4 file of about half a megabyte."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    noise = np.random.default_rng(1).integers(0, 255, (12, 240, 320, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "20"}
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def enrol(server: Server, folder: Path) -> None:
    token = invite(Registry(server.bucket), ROBOT, now_ns=server.clock())
    identity.enrol(folder, ROBOT, token, url=server.url, session=requests.Session())


def overfill(recorder: Recorder, film: Path) -> None:
    """Full video far beyond the disk, previews and telemetry a little, labels now and then."""
    dice = random.Random(5)
    films = OVERFILL * CAPACITY // film.stat().st_size
    for n in range(films):
        _until_taken(lambda n=n: recorder.video_file("head", 1 + n * 10**9, film))  # type: ignore[misc]
        if n % 60 == 0:
            _until_taken(lambda n=n: recorder.video_file("head_preview", 1 + n * 10**9, film))  # type: ignore[misc]
        if n % 20 == 0:
            recorder.text("info", f"film {n}")
        recorder.log("/blob", 1 + n * 10**9, {"data": dice.randbytes(1500).hex()})


def _until_taken(act: Callable[[], None]) -> None:
    """A robot's program that is told that there is no room tries again."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            return act()
        except SpoolError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_ten_times_more_than_the_disk_holds(
    storage: object, tmp_path: Path, small_folder: Path | None, film: Path
) -> None:
    folder = (small_folder or tmp_path) / "robot"
    disk: Disk = DISK if small_folder else SmallDisk(tmp_path, CAPACITY)
    if small_folder is None:
        folder.mkdir()
    with serve(storage) as server, CuttingProxy(server.url) as proxy:  # type: ignore[arg-type]
        enrol(server, folder)
        proxy.is_off = True
        settings = EdgeSettings(
            folder=folder,
            url=proxy.url,
            min_free_bytes=FREE,
            scan_s=0.02,
            max_backoff_s=0.1,
            segment_s=1,
        )
        agent, stop, said = Agent(settings, spool=Spool(folder, disk=disk)), threading.Event(), list[str]()
        running = threading.Thread(target=agent.run, args=(stop,), kwargs={"until_empty": False, "report": said.append})
        running.start()
        try:
            with Recorder(settings=settings, spool=Spool(folder, disk=disk)) as recorder:
                overfill(recorder, film)
            recorded, recording = recorder.recorded, recorder.recording_id
            assert recorder.dropped == {}
            wait_until(lambda: _sums_are(folder, recorded))  # the agent moves files while they are counted
            proxy.heal()
            wait_until(lambda: not any(True for _ in Spool(folder).waiting()))
        finally:
            stop.set()
            running.join(LIMIT_S)
        assert _sums_are(folder, recorded)
        delivered, dropped = _at_the_server(server, recording)
    assert any("had to go" in line for line in said)
    for stream, count in recorded.items():
        assert delivered.get(stream, 0) + dropped.get(stream, 0) == count, stream
    assert dropped.keys() == {"head"}, "only what is worth least had to go"
    assert dropped["head"] > delivered["head"]
    assert all(not line.waiting and not line.quarantined for line in status(Spool(folder)))


def _sums_are(folder: Path, recorded: dict[str, int]) -> bool:
    """Whether all that was recorded is somewhere, or told to have gone."""
    lines = {line.stream: line for line in status(Spool(folder))}
    return all(count == lines[stream].recorded == _accounted(lines[stream]) for stream, count in recorded.items())


def _accounted(line: StreamStatus) -> int:
    return line.uploaded + line.waiting + line.quarantined + line.dropped


def _at_the_server(server: Server, recording: str) -> tuple[dict[str, int], dict[str, int]]:
    """Messages by stream that arrived, and that gap records tell of; every seq must be one or the other."""
    store, delivered, dropped = RawStore(server.bucket), dict[str, int](), dict[str, int]()
    for robot, _, stream in store.list_streams():
        seqs = store.list_after(robot, recording, stream, -1)
        expected = 0
        for seq in seqs:
            raw, body = store.read(SegmentId(robot, recording, stream, seq))
            assert seq == expected, "a hole that no gap record tells of"
            if raw.content_type == GAP_TYPE:
                gap = Gap.parse(body)
                dropped[stream] = dropped.get(stream, 0) + sum(gap.counts.values())
                expected = gap.last_seq + 1
            else:
                delivered[stream] = delivered.get(stream, 0) + _messages(body, raw.content_type)
                expected = seq + 1
    return delivered, dropped


def _messages(body: bytes, content_type: str) -> int:
    if content_type == MP4_TYPE:
        with av.open(io.BytesIO(body)) as container:
            return sum(1 for packet in container.demux(video=0) if packet.pts is not None)
    return sum(1 for _ in read_messages(io.BytesIO(body)))
