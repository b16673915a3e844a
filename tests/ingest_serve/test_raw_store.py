"""The raw layout: written once, listed in order, read back as it was stored."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import obstore
import pytest

from dataset_catalog.errors import StorageError
from dataset_catalog.storage import Storage
from edge.wire import MCAP_TYPE, RobotClock, SegmentId
from ingest_serve.bucket import Bucket
from ingest_serve.errors import DamagedObject, NotStored, StorageUnavailable
from ingest_serve.raw_store import AlreadyStored, Conflict, RawObject, RawStore, Stored

RECORDING = "01J00000000000000000000000"


def raw_object(body: bytes, *, robot: str = "g1-001", stream: str = "telemetry", seq: int = 0) -> RawObject:
    return RawObject(
        segment=SegmentId(robot, RECORDING, stream, seq),
        kind="telemetry",
        content_type=MCAP_TYPE,
        bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        start_ns=10,
        end_ns=20,
        robot_time_ns=None,
        key_id="00112233aabbccdd",
        received_ns=30,
    )


def put(store: RawStore, body: bytes, raw: RawObject | None = None) -> Stored | AlreadyStored | Conflict:
    return asyncio.run(store.put_once(raw or raw_object(body), body))


@pytest.fixture
def store(storage: Storage) -> RawStore:
    return RawStore.open(storage)


@pytest.mark.parametrize("robot_time_ns", [None, 1_760_000_000_000_000_001])
@pytest.mark.parametrize("robot_clock", [None, RobotClock(-5, 6, 7, 8, "0a-1b").as_field()])
def test_a_segment_reads_back_with_all_that_is_known_of_it(
    store: RawStore, robot_time_ns: int | None, robot_clock: str | None
) -> None:
    raw = replace(raw_object(b"abc"), robot_time_ns=robot_time_ns, robot_clock=robot_clock)
    assert put(store, b"abc", raw) == Stored(raw)
    assert store.head(raw.segment) == raw
    assert store.read(raw.segment) == (raw, b"abc")
    assert store.get(raw.segment) == b"abc"


def test_the_same_bytes_again_find_the_first_object(store: RawStore) -> None:
    first = raw_object(b"abc")
    put(store, b"abc", first)
    assert put(store, b"abc", replace(first, received_ns=99)) == AlreadyStored(first)


def test_other_bytes_are_kept_beside_what_is_stored(store: RawStore, bucket: Bucket) -> None:
    first, other = raw_object(b"abc"), raw_object(b"other")
    put(store, b"abc")
    kept_at = f"conflicts/g1-001/{RECORDING}/telemetry/0000000000/{other.sha256}"
    for _ in range(2):
        assert put(store, b"other") == Conflict(first.sha256, kept_at)
    assert store.get(first.segment) == b"abc"
    kept = bucket.read(kept_at)
    assert kept is not None
    assert kept[1] == b"other"


def test_what_an_upload_would_find_is_foreseen(store: RawStore, bucket: Bucket) -> None:
    raw, other = raw_object(b"abc"), raw_object(b"other")
    assert asyncio.run(store.foresee(raw.segment, sha256=raw.sha256)) is None
    put(store, b"abc")
    assert asyncio.run(store.foresee(raw.segment, sha256=raw.sha256)) == AlreadyStored(raw)
    assert asyncio.run(store.foresee(raw.segment, sha256=other.sha256)) == Conflict(raw.sha256, None)
    assert bucket.names("conflicts") == []


def test_one_of_many_writers_of_a_segment_stores_it(store: RawStore) -> None:
    bodies = [b"%d" % number for number in range(4)]

    async def race() -> list[Stored | AlreadyStored | Conflict]:
        return await asyncio.gather(*(store.put_once(raw_object(body), body) for body in bodies))

    outcomes = asyncio.run(race())
    winners = [body for body, outcome in zip(bodies, outcomes, strict=True) if isinstance(outcome, Stored)]
    assert len(winners) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 3
    assert store.get(raw_object(b"").segment) == winners[0]


def test_a_write_under_way_elsewhere_is_looked_at_again(store: RawStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3's 409: the key is neither free nor there; the other writer then fails, and ours must land."""
    create, refusals = store._bucket.create_async, [False, False]

    async def busy(key: str, body: bytes, attributes: dict[str, str]) -> bool:
        return refusals.pop() if refusals else await create(key, body, attributes)

    monkeypatch.setattr(store._bucket, "create_async", busy)
    assert isinstance(put(store, b"abc"), Stored)
    assert store.get(raw_object(b"").segment) == b"abc"


def test_a_conflict_that_somebody_else_keeps_just_now_is_looked_at_again(
    store: RawStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other replica then dies: it must be kept all the same before it is said to be."""
    put(store, b"abc")
    create, under_way = store._bucket.create_async, [True]

    async def busy(key: str, body: bytes, attributes: dict[str, str]) -> bool:
        if key.startswith("conflicts/") and under_way:
            return not under_way.pop()
        return await create(key, body, attributes)

    monkeypatch.setattr(store._bucket, "create_async", busy)
    outcome = put(store, b"other")
    assert isinstance(outcome, Conflict)
    assert outcome.kept_at is not None
    assert bucket.read(outcome.kept_at) is not None


def test_a_key_that_stays_neither_free_nor_there_is_no_promise(
    store: RawStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(key: str, body: bytes, attributes: dict[str, str]) -> bool:
        return False

    monkeypatch.setattr(store._bucket, "create_async", never)
    with pytest.raises(StorageUnavailable, match="neither created nor there"):
        put(store, b"abc")


def test_a_stored_object_that_changed_is_not_handed_out(store: RawStore, bucket: Bucket) -> None:
    raw = raw_object(b"abc")
    obstore.put(bucket._store, raw.key, b"abd", attributes=raw.attributes())
    with pytest.raises(DamagedObject, match="its bytes now have another"):
        store.get(raw.segment)


def test_an_object_without_our_metadata_is_damaged_and_never_overwritten(store: RawStore, bucket: Bucket) -> None:
    raw = raw_object(b"abc")
    bucket.create(raw.key, b"by hand")
    with pytest.raises(DamagedObject, match="does not carry"):
        store.head(raw.segment)
    assert isinstance(put(store, b"abc"), Conflict)


def test_what_is_not_stored_is_said_so(store: RawStore) -> None:
    with pytest.raises(NotStored):
        store.head(SegmentId("g1-001", RECORDING, "telemetry", 7))
    with pytest.raises(NotStored):
        store.get(SegmentId("g1-001", RECORDING, "telemetry", 7))


def test_only_what_came_after_a_position_is_listed(store: RawStore, bucket: Bucket) -> None:
    assert store.list_after("g1-001", RECORDING, "telemetry", -1) == []
    for seq in (0, 2, 9, 10, 11, 10**10 - 1):
        put(store, b"abc", raw_object(b"abc", seq=seq))
    put(store, b"abc", raw_object(b"abc", stream="telemetry2", seq=4))
    bucket.create(f"raw/g1-001/{RECORDING}/telemetry/notes.txt", b"not ours")
    every = [0, 2, 9, 10, 11, 10**10 - 1]
    for after in (-1, 0, 1, 2, 9, 10, 11, 10**10 - 1):
        assert store.list_after("g1-001", RECORDING, "telemetry", after) == [seq for seq in every if seq > after]


def test_streams_are_listed_in_order_and_foreign_names_left_out(store: RawStore, bucket: Bucket) -> None:
    assert store.list_streams() == []
    for robot in ("g1-002", "g1-001"):
        for stream in ("telemetry", "_agent", "head_camera"):
            put(store, b"abc", raw_object(b"abc", robot=robot, stream=stream))
    bucket.create("raw/Not A Robot/x/y/0000000000", b"")
    bucket.create("raw/g1-001/not-a-recording/y/0000000000", b"")
    streams = [
        (robot, RECORDING, stream)
        for robot in ("g1-001", "g1-002")
        for stream in ("_agent", "head_camera", "telemetry")
    ]
    assert store.list_streams() == streams


def test_a_store_travels_to_a_worker(store: RawStore) -> None:
    put(store, b"abc")
    assert pickle.loads(pickle.dumps(store)).get(raw_object(b"").segment) == b"abc"  # noqa: S301 - our own bytes


def test_a_folder_cannot_hold_raw_segments(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="s3://"):
        RawStore.open(Storage.open(str(tmp_path)))


def test_jobs_need_neither_ray_nor_fastapi_to_read() -> None:
    look = "import sys, ingest_serve.raw_store; print({'ray', 'fastapi', 'starlette'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
