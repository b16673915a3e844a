"""Hints tell of every stream that was stored into a moment ago, cost one object, and are never relied on."""

from __future__ import annotations

import asyncio

import pytest

from dataset_catalog.storage import Storage
from edge.wire import SegmentId
from ingest_serve.arrivals import MINUTE_NS, SKEW_NS, ArrivalLog, Arrivals
from ingest_serve.bucket import Bucket
from ingest_serve.errors import StorageUnavailable
from tests.ingest_serve.conftest import serve, wait_until

NOW_NS = 1_760_000_000_000_000_000
RECORDING = "01J00000000000000000000000"
EVERY_S = 0.05


def segment(robot: str, seq: int = 0, *, stream: str = "telemetry") -> SegmentId:
    return SegmentId(robot, RECORDING, stream, seq)


def hint(bucket: Bucket, *segments: SegmentId, now_ns: int = NOW_NS) -> None:
    """As a replica does, and wait until it is written."""

    async def noting() -> None:
        arrivals = Arrivals(bucket, clock=lambda: now_ns, every_s=EVERY_S)
        for one in segments:
            arrivals.note(one)
        if arrivals._writing:
            await arrivals._writing

    asyncio.run(noting())


def test_streams_are_hinted_at_once_each_by_one_object(bucket: Bucket) -> None:
    hint(bucket, *(segment("g1-001", seq) for seq in range(50)), segment("g1-002", stream="head"), segment("g1-002"))
    assert len(bucket.names("arrivals")) == 1
    assert ArrivalLog(bucket).since(NOW_NS) == {
        ("g1-001", RECORDING, "telemetry"),
        ("g1-002", RECORDING, "head"),
        ("g1-002", RECORDING, "telemetry"),
    }


def test_what_comes_after_a_hint_was_written_is_in_the_next_one(bucket: Bucket) -> None:
    async def noting() -> None:
        arrivals = Arrivals(bucket, clock=lambda: NOW_NS, every_s=EVERY_S)
        for robot in ("g1-001", "g1-002"):
            arrivals.note(segment(robot))
            assert arrivals._writing
            await arrivals._writing
        assert arrivals._writing is None

    asyncio.run(noting())
    assert len(bucket.names("arrivals")) == 2
    assert {stream[0] for stream in ArrivalLog(bucket).since(NOW_NS)} == {"g1-001", "g1-002"}


@pytest.mark.parametrize("behind_ns", [0, MINUTE_NS, SKEW_NS - MINUTE_NS])
def test_a_hint_of_a_clock_that_is_behind_is_still_heard(bucket: Bucket, behind_ns: int) -> None:
    hint(bucket, segment("g1-001"), now_ns=NOW_NS - behind_ns)
    assert ArrivalLog(bucket).since(NOW_NS)


def test_old_hints_are_neither_read_nor_kept(bucket: Bucket) -> None:
    hint(bucket, segment("g1-001"), now_ns=NOW_NS - 100 * MINUTE_NS)
    hint(bucket, segment("g1-002"))
    log = ArrivalLog(bucket)
    assert {stream[0] for stream in log.since(NOW_NS)} == {"g1-002"}
    assert log.clear(before_ns=NOW_NS - 50 * MINUTE_NS) == 1
    assert len(bucket.names("arrivals")) == 1
    assert log.clear(before_ns=NOW_NS - 50 * MINUTE_NS) == 0


def test_a_damaged_hint_hints_at_nothing(bucket: Bucket, storage: Storage) -> None:
    for number, body in enumerate((b"", b"[1, null, {}]", b'["a/b", "a/b/c/d", "//"]', b"{}", b"\xff")):
        bucket.create(f"arrivals/202510090853/{NOW_NS:020d}-{number}.json", body)
    assert ArrivalLog.open(storage).since(NOW_NS) == set()


def test_a_bucket_that_is_away_costs_hints_and_nothing_else(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*_: object) -> bool:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "create_async", away)
        hint(bucket, segment("g1-001"))
    assert "1 streams are hinted at by the hourly look alone" in caplog.text
    assert bucket.names("arrivals") == []


def test_an_acknowledged_upload_is_hinted_at(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest_serve.arrivals.EVERY_S", EVERY_S)
    with serve(storage) as server:
        robot = server.new_robot("g1-007")
        for _ in range(2):
            assert robot.send(robot.upload(seq=3)).ok
        wait_until(lambda: ArrivalLog(server.bucket).since(server.clock()) != set(), limit_s=20)
        assert ArrivalLog(server.bucket).since(server.clock()) == {("g1-007", RECORDING, "telemetry")}
