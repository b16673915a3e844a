"""The layout of unfinished uploads: pieces that follow one another from 0 on count, whatever else lies there."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire import MCAP_TYPE, SegmentId
from ingest_serve.bucket import Bucket, Entry
from ingest_serve.errors import DamagedObject, StorageUnavailable
from ingest_serve.pieces import JOIN_READS, Creation, Pieces, Unfinished, _chain
from ingest_serve.raw_store import RawStore

RECORDING = "01J00000000000000000000000"
ID = "0123456789abcdef" * 2
CREATION = Creation(
    segment=SegmentId("g1-001", RECORDING, "head_camera", 7),
    kind="video",
    content_type=MCAP_TYPE,
    length=10,
    sha256=hashlib.sha256(b"0123456789").hexdigest(),
    start_ns=10,
    end_ns=20,
    robot_clock='offset-ns=1, boot="é"',
)


@pytest.fixture
def pieces(bucket: Bucket) -> Pieces:
    return Pieces(bucket)


def create(pieces: Pieces, robot: str, upload: str, creation: Creation) -> bool:
    return asyncio.run(pieces.create(robot, upload, creation))


def find(pieces: Pieces, robot: str, upload: str) -> Unfinished | None:
    return asyncio.run(pieces.find(robot, upload))


def add(pieces: Pieces, body: bytes, offset: int, *, upload: str = ID) -> bool:
    sha256 = hashlib.sha256(body).hexdigest()
    return asyncio.run(pieces.add("g1-001", upload, body, offset=offset, sha256=sha256))


def test_what_was_said_at_the_creation_comes_back_and_stands(pieces: Pieces) -> None:
    assert find(pieces, "g1-001", ID) is None
    assert create(pieces, "g1-001", ID, CREATION)
    later = replace(CREATION, length=11)
    assert Creation.parse(later.as_bytes()) == later
    assert not create(pieces, "g1-001", ID, later)
    assert find(pieces, "g1-001", ID) == Unfinished(CREATION, ())


def test_pieces_in_order_are_joined(pieces: Pieces, bucket: Bucket) -> None:
    create(pieces, "g1-001", ID, CREATION)
    for offset, body in ((0, b"0123"), (4, b"4"), (5, b"56789")):
        assert add(pieces, body, offset)
    found = find(pieces, "g1-001", ID)
    assert found == Unfinished(CREATION, (4, 1, 5))
    assert found.offset == 10
    assert asyncio.run(pieces.join("g1-001", ID, found.sizes)) == b"0123456789"
    assert bucket.names(f"uploads/g1-001/{ID}") == ["000000000000", "000000000004", "000000000005", "creation"]


def test_a_piece_is_stored_once_and_knows_its_own_bytes_again(pieces: Pieces) -> None:
    create(pieces, "g1-001", ID, CREATION)
    assert [add(pieces, body, 0) for body in (b"0123", b"0123", b"012", b"0124")] == [True, True, False, False]
    found = find(pieces, "g1-001", ID)
    assert found is not None
    assert found.offset == 4


@given(st.dictionaries(st.integers(0, 40), st.integers(0, 10)))
def test_the_offset_is_where_a_walk_from_0_comes_to_a_hole(sizes: dict[int, int]) -> None:
    entries = [Entry(f"{offset:012d}", size, 0) for offset, size in sizes.items()]
    chain = list(_chain([*entries, Entry("creation", 5, 0), Entry("7", 3, 0), Entry("notes", 3, 0)]))
    end = sum(chain)
    assert all(sizes[sum(chain[:n])] == size > 0 for n, size in enumerate(chain))
    assert not sizes.get(end)  # nothing, or an empty piece, stands where the chain ends


def test_a_piece_that_is_gone_or_changed_when_the_whole_is_joined_is_noticed(pieces: Pieces, bucket: Bucket) -> None:
    create(pieces, "g1-001", ID, CREATION)
    add(pieces, b"01234", 0)
    add(pieces, b"56789", 5)
    bucket.delete(f"uploads/g1-001/{ID}/{5:012d}")
    assert asyncio.run(pieces.join("g1-001", ID, (5, 5))) is None
    add(pieces, b"5678", 5)
    assert asyncio.run(pieces.join("g1-001", ID, (5, 5))) is None


def test_a_removed_upload_leaves_nothing_and_may_be_removed_again(pieces: Pieces, bucket: Bucket) -> None:
    other = ID.replace("0", "f")
    for upload in (ID, other):
        create(pieces, "g1-001", upload, CREATION)
        add(pieces, b"0123", 0, upload=upload)
    for _ in range(2):
        pieces.remove("g1-001", ID)
        assert find(pieces, "g1-001", ID) is None
    assert bucket.names("uploads") == [f"g1-001/{other}/000000000000", f"g1-001/{other}/creation"]


def test_a_removal_that_is_cut_off_leaves_no_upload_that_has_lost_its_beginning(
    pieces: Pieces, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, calls = bucket.delete, itertools.count(1)

    def cut_off(*keys: str) -> None:
        if next(calls) > 1:
            raise StorageUnavailable("connection refused")
        delete(*keys)

    create(pieces, "g1-001", ID, CREATION)
    add(pieces, b"0123", 0)
    with monkeypatch.context() as patched:
        patched.setattr(bucket, "delete", cut_off)
        with pytest.raises(StorageUnavailable):
            pieces.remove("g1-001", ID)
    assert find(pieces, "g1-001", ID) is None
    pieces.remove("g1-001", ID)
    assert bucket.names("uploads") == []


def test_more_pieces_than_one_listing_names_are_found_and_removed(pieces: Pieces, bucket: Bucket) -> None:
    async def many() -> None:
        sha256 = hashlib.sha256(b"x").hexdigest()
        adding = (pieces.add("g1-001", ID, b"x", offset=offset, sha256=sha256) for offset in range(1010))
        assert all(await asyncio.gather(*adding))

    create(pieces, "g1-001", ID, CREATION)
    asyncio.run(many())
    found = find(pieces, "g1-001", ID)
    assert found is not None
    assert found.offset == 1010
    pieces.remove("g1-001", ID)
    assert bucket.names("uploads") == []


def test_only_uploads_that_nobody_goes_on_with_expire(pieces: Pieces, bucket: Bucket) -> None:
    create(pieces, "g1-001", ID, CREATION)
    add(pieces, b"0123", 0)
    now_ns = time.time_ns()
    assert pieces.expire(before_ns=now_ns - 3600 * 10**9) == 0
    assert find(pieces, "g1-001", ID) is not None
    assert pieces.expire(before_ns=now_ns + 3600 * 10**9) == 1
    assert bucket.names("uploads") == []
    assert pieces.expire(before_ns=now_ns + 3600 * 10**9) == 0


def test_an_upload_that_goes_on_while_the_others_are_listed_does_not_expire(
    pieces: Pieces, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All had been listed as old; before this one is removed, it has a new piece."""
    create(pieces, "g1-001", ID, CREATION)
    add(pieces, b"0123", 0)
    now_ns = time.time_ns() + 3600 * 10**9
    entries = bucket.entries

    def listed_long_ago(prefix: str) -> list[Entry]:
        return [replace(entry, modified_ns=now_ns - 1 if prefix == "uploads" else now_ns) for entry in entries(prefix)]

    monkeypatch.setattr(bucket, "entries", listed_long_ago)
    assert pieces.expire(before_ns=now_ns) == 0
    assert find(pieces, "g1-001", ID) == Unfinished(CREATION, (4,))


def test_pieces_are_read_several_at_a_time(pieces: Pieces, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = 0, 0

    async def read_into(key: str, target: memoryview) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        target[:] = key[-1:].encode() * len(target)
        at_once -= 1
        return True

    monkeypatch.setattr(bucket, "read_into", read_into)
    whole = asyncio.run(pieces.join("g1-001", ID, (1,) * 30))
    assert whole == b"0123456789" * 3
    assert most == JOIN_READS


def test_a_join_that_fails_ends_all_that_it_had_begun(
    pieces: Pieces, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = 0

    async def read_into(key: str, target: memoryview) -> bool:
        nonlocal under_way
        if key.endswith("3"):
            raise StorageUnavailable("connection refused")
        under_way += 1
        await asyncio.sleep(0.01)
        target[:] = b"x" * len(target)
        under_way -= 1
        return True

    async def fail() -> None:
        with pytest.raises(StorageUnavailable):
            await pieces.join("g1-001", ID, (1,) * 30)
        assert under_way == 0

    monkeypatch.setattr(bucket, "read_into", read_into)
    asyncio.run(fail())


@pytest.mark.parametrize(("offset", "most"), [(0, 64), (64, 64), (1 << 20, 128), (1 << 26, 4096)])
def test_small_pieces_are_few_and_those_of_robots_are_not_small(offset: int, most: int) -> None:
    assert Unfinished(CREATION, (offset,)).max_pieces == most


@pytest.mark.parametrize("upload", ["", "..", ID.upper(), ID[:-1], ID + "0", f"../g1-002/{ID}", ID + "\n"])
def test_an_id_of_another_form_never_becomes_a_path(pieces: Pieces, upload: str) -> None:
    assert find(pieces, "g1-001", upload) is None


LINE = CREATION.as_bytes().partition(b"\n")[0]


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"{}", LINE.replace(b'"kind"', b'"sort"')])
def test_a_creation_that_cannot_be_read_is_damaged(line: bytes) -> None:
    for body in (line, line + b"\n" + hashlib.sha256(line).hexdigest().encode()):
        with pytest.raises(DamagedObject):
            Creation.parse(body)


def test_a_creation_of_which_a_bit_has_changed_is_nothing_to_go_by(pieces: Pieces, bucket: Bucket) -> None:
    body = CREATION.as_bytes()
    for at in range(len(body)):
        with pytest.raises(DamagedObject):
            Creation.parse(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
    bucket.create(f"uploads/g1-001/{ID}/creation", body.replace(b'"length": 10', b'"length": 11'))
    with pytest.raises(StorageUnavailable):
        find(pieces, "g1-001", ID)


def test_unfinished_uploads_are_no_streams(pieces: Pieces, bucket: Bucket) -> None:
    create(pieces, "g1-001", ID, CREATION)
    add(pieces, b"0123", 0)
    assert RawStore(bucket).list_streams() == []
