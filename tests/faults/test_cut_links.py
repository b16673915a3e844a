"""The link is cut after any byte of an upload, on the way there or back: one whole object, and little is sent twice."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.chunks import MAGIC
from edge.identity import Identity
from edge.segment import SegmentFacts
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled
from edge.uploader import Uploader
from edge.wire import MCAP_TYPE, Kind
from ingest_serve.raw_store import RawStore
from tests.faults.campaign import is_soak, trials
from tests.faults.cutting_proxy import CuttingProxy
from tests.ingest_serve.conftest import Robot, Server, serve
from tests.ingest_serve.conftest import s3_endpoint as s3_endpoint
from tests.ingest_serve.conftest import storage as storage

RECORDING = "01J00000000000000000000000"
START_NS = 1_760_000_000_000_000_000
HEADERS = 4096  # more than the headers of one request or answer take
SMALL, LARGE, PIECE = 64_000, 20_000_000, 4 << 20


class CutRobot:
    """A robot whose only way to the server is the proxy."""

    def __init__(self, folder: Path, server: Server, proxy: CuttingProxy) -> None:
        self.robot: Robot = server.new_robot("cut-robot")
        self.spool, self.proxy, self.server = Spool(folder), proxy, server
        settings = EdgeSettings(
            folder=folder, url=proxy.url, scan_s=0.01, max_backoff_s=0.01, timeout_s=20, piece_bytes=PIECE
        )
        self.uploader = Uploader(self.spool, Identity("cut-robot", self.robot.key), settings=settings)
        self._seq = 0

    def seal(self, size: int, *, stream: str, kind: Kind, seed: int) -> Spooled:
        body = MAGIC + random.Random(seed).randbytes(size - 2 * len(MAGIC)) + MAGIC
        sha256 = hashlib.sha256(body).hexdigest()
        facts = SegmentFacts(START_NS, START_NS + 1, size, sha256, {"/t": 1})
        self._seq += 1
        return self.spool.add((RECORDING, stream, self._seq), facts, body, kind=kind, content_type=MCAP_TYPE)

    def upload(self, item: Spooled) -> int:
        """Deliver what waits; returns the bytes that went over the link for it."""
        before = self.proxy.up_bytes
        self.uploader.backlog.look()
        self.uploader.run(threading.Event(), until_empty=True)
        assert not list(self.spool.waiting()), self.uploader.state.last_error
        raw, body = RawStore(self.server.bucket).read(item.named("cut-robot"))
        assert (raw.sha256, hashlib.sha256(body).hexdigest()) == (item.sha256, item.sha256)
        return self.proxy.up_bytes - before

    def stored(self) -> list[str]:
        """Everything that the uploads have left in the bucket."""
        return self.server.stored() + [f"uploads/{name}" for name in self.server.bucket.names("uploads")]


@pytest.fixture
def cut_robot(storage: object, tmp_path: Path) -> Iterator[CutRobot]:
    with serve(storage) as server, CuttingProxy(server.url) as proxy:  # type: ignore[arg-type]
        yield CutRobot(tmp_path / "robot", server, proxy)


def _points(length: int, *, test: int) -> list[int]:
    """Every byte in a soak; else some, other ones in every region of the upload."""
    if is_soak():
        return list(range(length))
    width = length // test
    return [n * width + random.Random(n).randrange(width) for n in range(test)]


@pytest.mark.parametrize("direction", ["up", "down"])
def test_an_upload_cut_at_every_byte_arrives_once(cut_robot: CutRobot, direction: str) -> None:
    length = SMALL + 700 if direction == "up" else 400  # with the headers; an answer is about 400 bytes long
    points = _points(length, test=60)
    cuts = 0
    for point in points:
        item = cut_robot.seal(SMALL, stream="telemetry", kind="telemetry", seed=point)
        cut_robot.proxy.cut_now()
        first = len(cut_robot.proxy.connections)
        cut_robot.proxy.cut(**{direction: point})
        sent = cut_robot.upload(item)
        cuts += any(one.was_cut for one in cut_robot.proxy.connections[first:])
        assert sent <= 2 * (SMALL + HEADERS)
        cut_robot.proxy.heal()
    assert cuts >= len(points) * 0.6, "the proxy was to cut most of them"
    assert cut_robot.stored() == [f"raw/cut-robot/{RECORDING}/telemetry/{n + 1:010d}" for n in range(len(points))]


def test_a_large_upload_cut_anywhere_goes_on_where_it_was(cut_robot: CutRobot) -> None:
    seeds = trials(test=6, soak=500)
    for seed in seeds:
        dice = random.Random(seed)
        item = cut_robot.seal(LARGE, stream="head", kind="video", seed=seed)
        cut_robot.proxy.cut_now()
        cuts = sorted(dice.randrange(LARGE) for _ in range(dice.randint(1, 3)))
        for before, at in zip([0, *cuts], cuts, strict=False):
            cut_robot.proxy.cut(up=at - before + 1)
        sent = cut_robot.upload(item)
        made = (
            len(cuts) * (PIECE + HEADERS) + 60 * HEADERS
        )  # a cut costs a piece at most; and the headers of all pieces
        assert sent <= LARGE + made, f"seed {seed}: {sent - LARGE} bytes were sent twice for {len(cuts)} cuts"
        cut_robot.proxy.heal()
    assert cut_robot.stored() == [f"raw/cut-robot/{RECORDING}/head/{n + 1:010d}" for n in range(len(seeds))]
