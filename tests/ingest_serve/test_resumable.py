"""Resumable uploads as robots meet them: whatever is lost, repeated or done at once, the whole arrives once."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from dataset_catalog.storage import Storage
from edge import wire
from edge.segment import MAGIC
from ingest_serve.bucket import Bucket
from ingest_serve.errors import StorageUnavailable
from ingest_serve.pieces import Pieces
from ingest_serve.raw_store import RawObject, RawStore
from ingest_serve.settings import IngestSettings
from tests.ingest_serve.conftest import RECORDING, Robot, Server, refusal, serve, wait_until
from tests.ingest_serve.resuming import BODY, SIZE, Resuming, digest_of, half_sent

KEY = f"raw/g1-001/{RECORDING}/telemetry/0000000000"
CUTS = [0, 100, 101, 600, SIZE]
CLOCK = wire.RobotClock(5, 6, 7, 8, "0a-1b").as_field()
LATER_CLOCK = wire.RobotClock(50, 6, 7, 8, "0a-1b").as_field()


@pytest.fixture
def upload(robot: Robot) -> Resuming:
    return Resuming(robot, BODY)


def stored(server: Server, seq: int = 0) -> tuple[RawObject, bytes]:
    return RawStore.open(server.storage).read(wire.SegmentId("g1-001", RECORDING, "telemetry", seq))


def assert_stored_alone(server: Server, upload: Resuming, response: requests.Response, *, status: int = 201) -> None:
    """The answer is the receipt of what the bucket holds whole, and nothing else is left there."""
    assert response.status_code == status, response.text
    assert response.headers["Upload-Complete"] == "?1"
    receipt = wire.Receipt.from_json(response.json())
    sha256 = hashlib.sha256(upload.body).hexdigest()
    assert (receipt.key, receipt.sha256, receipt.bytes) == (KEY, sha256, len(upload.body))
    assert receipt.already_stored == (status == 200)
    assert stored(server)[1] == upload.body
    assert server.stored() == [KEY]


class TestTheWay:
    def test_pieces_become_one_raw_object(self, server: Server, upload: Resuming) -> None:
        created = upload.create(BODY[:100])
        assert created.status_code == 201
        assert created.json() == {"upload": upload.id, "offset": 100}
        assert created.headers["Location"] == upload.address
        for start, end in ((100, 101), (101, 600)):
            response = upload.append(start, end)
            assert (response.status_code, response.content) == (204, b"")
            assert response.headers["Upload-Offset"] == str(end)
            assert response.headers["Upload-Complete"] == "?0"
        assert_stored_alone(server, upload, upload.append(600, SIZE, complete=True))
        assert upload.offset() is None

    def test_the_offset_is_told_as_the_draft_wants(self, upload: Resuming) -> None:
        limit = IngestSettings().max_video_bytes
        for response in (upload.create(BODY[:100]), upload.ask()):
            assert response.headers["Upload-Offset"] == "100"
            assert response.headers["Upload-Complete"] == "?0"
            assert response.headers["Upload-Limit"] == f"max-size={limit}, max-append-size={limit}"
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["Upload-Length"] == str(SIZE)
        assert response.headers["Cache-Control"] == "no-store"

    def test_empty_pieces_change_nothing_and_may_end_an_upload(self, server: Server, upload: Resuming) -> None:
        assert upload.create().json()["offset"] == 0
        assert upload.append(0, 0).status_code == 204
        assert upload.offset() == 0
        assert upload.append(0, SIZE).headers["Upload-Offset"] == str(SIZE)
        assert upload.append(SIZE, SIZE).status_code == 204
        assert server.stored()[0].startswith("uploads/")  # all is there, and the robot has not said that it is the end
        assert_stored_alone(server, upload, upload.append(SIZE, SIZE, complete=True))

    def test_a_large_body_in_large_pieces_arrives_whole(self, server: Server, robot: Robot) -> None:
        upload = Resuming(robot, MAGIC + bytes(range(256)) * 40_000 + MAGIC)
        size, cut = len(upload.body), 7_000_001
        assert upload.create(upload.body[:5]).status_code == 201
        assert upload.append(5, cut).status_code == 204
        assert_stored_alone(server, upload, upload.append(cut, size, complete=True))

    def test_the_object_tells_of_the_creation_and_of_the_request_that_brought_its_end(
        self, server: Server, upload: Resuming
    ) -> None:
        at_first = {wire.ROBOT_CLOCK_HEADER: CLOCK, wire.ROBOT_TIME_HEADER: "1"}
        at_last = {wire.ROBOT_CLOCK_HEADER: LATER_CLOCK, wire.ROBOT_TIME_HEADER: "2"}
        upload.create(BODY[:5], **at_first)
        upload.append(5, SIZE, complete=True, **at_last)
        raw, _ = stored(server)
        assert (raw.kind, raw.content_type, raw.bytes) == ("video", wire.MCAP_TYPE, SIZE)
        assert (raw.robot_clock, raw.robot_time_ns, raw.key_id) == (LATER_CLOCK, 2, upload.robot.kid)

    def test_the_clock_of_the_creation_counts_where_the_last_piece_tells_none(
        self, server: Server, upload: Resuming
    ) -> None:
        upload.create(BODY[:5], **{wire.ROBOT_CLOCK_HEADER: CLOCK, wire.ROBOT_TIME_HEADER: "1"})
        upload.append(5, SIZE, complete=True)
        raw, _ = stored(server)
        assert (raw.robot_clock, raw.robot_time_ns) == (CLOCK, None)

    def test_telemetry_mp4_and_gaps_resume_too(self, server: Server, robot: Robot) -> None:
        target_ns = {"start_ns": 1_760_000_000_000_000_000, "end_ns": 1_760_000_010_000_000_000}
        gap = wire.Gap(2, 4, cause="lost", reason="x", size_bytes=1, counts={}, **target_ns).as_bytes()
        uploads = [
            Resuming(robot, BODY, kind="telemetry", seq=0),
            Resuming(robot, b"\x00\x00\x00\x18ftypisom", seq=1, content_type=wire.MP4_TYPE),
            Resuming(robot, gap, kind="telemetry", seq=2, content_type=wire.GAP_TYPE),
        ]
        for upload in uploads:
            upload.create(upload.body[:3])
            assert upload.append(3, len(upload.body), complete=True).status_code == 201
            raw, body = stored(server, upload.seq)
            assert (raw.kind, raw.content_type, body) == (upload.kind, upload.content_type, upload.body)

    def test_two_uploads_of_one_robot_do_not_mix(self, server: Server, robot: Robot) -> None:
        one, other = Resuming(robot, BODY, seq=0), Resuming(robot, BODY, seq=1)
        one.create(BODY[:10])
        other.create(BODY[:20])
        assert (one.offset(), other.offset()) == (10, 20)
        other.cancel()
        assert one.append(10, SIZE, complete=True).status_code == 201
        assert server.stored() == [KEY]


class TestWholeInOne:
    def test_a_whole_body_that_says_it_is_complete_is_a_whole_upload(self, server: Server, upload: Resuming) -> None:
        for status in (201, 200):
            assert_stored_alone(server, upload, upload.create(BODY, Upload_Complete="?1"), status=status)

    def test_length_and_digest_of_the_whole_need_not_be_told_twice(self, server: Server, upload: Resuming) -> None:
        response = upload.create(BODY, Upload_Complete="?1", Upload_Length=None, Repr_Digest=None)
        assert_stored_alone(server, upload, response)

    @pytest.mark.parametrize(
        ("headers", "code"),
        [
            ({"Upload_Length": str(SIZE + 1)}, "upload_length"),
            ({"Upload_Length": "all"}, "bad_parameter"),
            ({"Repr_Digest": digest_of(b"other")}, "digest_mismatch"),
            ({"Repr_Digest": "md5=:AAAA:"}, "bad_digest"),
        ],
    )
    def test_a_whole_upload_that_contradicts_itself_is_refused(
        self, server: Server, upload: Resuming, headers: dict[str, str], code: str
    ) -> None:
        assert refusal(upload.create(BODY, Upload_Complete="?1", **headers)) == (400, code)
        assert server.stored() == []


class TestTwoReplicas:
    def test_replicas_take_turns_on_one_upload(self, server: Server, storage: Storage, upload: Resuming) -> None:
        with serve(storage) as second:
            ways = [upload, upload.at(second)]
            assert ways[0].create(BODY[: CUTS[1]]).status_code == 201
            for turn, (start, end) in enumerate(itertools.pairwise(CUTS[1:]), 1):
                assert [way.offset() for way in ways] == [start, start]
                last = ways[turn % 2].append(start, end, complete=end == SIZE)
            assert_stored_alone(server, upload, last)
            assert [way.offset() for way in ways] == [None, None]
            assert ways[1].create().status_code == 200

    def test_both_replicas_may_be_asked_to_end_one_upload(
        self, server: Server, storage: Storage, upload: Resuming
    ) -> None:
        """Each either stores it, finds it stored, or finds the upload gone: then its creation is answered 200."""
        with serve(storage) as second, ThreadPoolExecutor(2) as pool:
            ways = [upload, upload.at(second)]
            upload.create(BODY)
            ends = list(pool.map(lambda way: way.append(SIZE, SIZE, complete=True).status_code, ways))
            assert 201 in ends
            assert set(ends) <= {200, 201, 404}
            assert [way.create().status_code for way in ways] == [200, 200]
        assert server.stored() == [KEY]


class TestLostReplies:
    def test_a_repeated_creation_finds_what_is_there_and_stores_no_piece_twice(
        self, server: Server, upload: Resuming
    ) -> None:
        for body in (BODY[:100], BODY[:100], BODY[:50], b"", BODY[:200]):
            response = upload.create(body)
            assert (response.status_code, response.json()["offset"]) == (201, 100)
        assert len(server.stored()) == 2  # what was said, and one piece

    def test_a_repeated_creation_is_answered_before_its_body_has_come(self, server: Server, upload: Resuming) -> None:
        creation = upload.creation(BODY[:100])
        assert upload.robot.send(creation).status_code == 201
        with half_sent(creation, server, sent=10) as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 201")

    def test_a_creation_without_a_piece_may_be_repeated_with_one(self, upload: Resuming) -> None:
        assert [upload.create(body).json()["offset"] for body in (b"", b"", BODY[:7], b"")] == [0, 0, 7, 7]

    def test_a_repeated_piece_is_told_where_to_go_on(self, upload: Resuming) -> None:
        upload.create()
        assert upload.append(0, 100).status_code == 204
        response = upload.append(0, 100)
        assert refusal(response) == (409, "offset_mismatch")
        assert response.json()["expected_offset"] == 100
        assert response.headers["Upload-Offset"] == "100"
        assert response.headers["Upload-Complete"] == "?0"
        assert upload.append(100, 200).status_code == 204

    def test_after_the_lost_receipt_the_creation_brings_it_again(self, server: Server, upload: Resuming) -> None:
        upload.create()
        upload.append(0, SIZE, complete=True)
        assert refusal(upload.append(0, SIZE, complete=True)) == (404, "upload_unknown")
        for body in (b"", BODY[:100]):
            response = upload.create(body)
            assert response.status_code == 200
            assert wire.Receipt.from_json(response.json()).already_stored
        assert server.stored() == [KEY]

    def test_every_request_of_an_upload_may_be_sent_three_times(self, server: Server, upload: Resuming) -> None:
        steps = [upload.creation(BODY[:100]), *(upload.piece(s, e) for s, e in ((100, 600), (600, SIZE)))]
        steps += [upload.piece(SIZE, SIZE, complete=True)]
        answers = [upload.robot.send(step) for step in steps for _ in range(3)]
        assert [one.status_code for one in answers] == [201] * 3 + [204, 409, 409] * 2 + [201, 404, 404]
        assert server.stored() == [KEY]

    def test_a_cancelled_upload_is_gone_and_may_begin_again(self, server: Server, upload: Resuming) -> None:
        upload.create(BODY[:100])
        upload.append(100, 200)
        assert (upload.cancel().status_code, upload.cancel().status_code) == (204, 404)
        assert (upload.offset(), server.stored()) == (None, [])
        assert refusal(upload.append(200, 300)) == (404, "upload_unknown")
        assert upload.create().json()["offset"] == 0


class TestCrashes:
    def test_a_replica_that_dies_before_it_joins_leaves_an_upload_that_needs_only_its_end(
        self, server: Server, upload: Resuming, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload.create(BODY[:100])
        with monkeypatch.context() as patched:
            patched.setattr("ingest_serve.pieces.Pieces.join", unreachable)
            assert refusal(upload.append(100, SIZE, complete=True)) == (503, "storage_unavailable")
        assert refusal(upload.append(100, SIZE, complete=True)) == (409, "offset_mismatch")
        assert upload.offset() == SIZE
        assert_stored_alone(server, upload, upload.append(SIZE, SIZE, complete=True))

    @pytest.fixture
    def joined(self, server: Server, upload: Resuming, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """An upload whose replica died after it had stored the whole and before it removed a piece: what is there."""
        upload.create(BODY[:100])
        with monkeypatch.context() as patched:
            patched.setattr(Bucket, "delete", unreachable_now)
            assert upload.append(100, SIZE, complete=True).status_code == 201  # the whole is durable all the same
        left = server.stored()
        assert len(left) == 4
        return left

    def test_pieces_that_outlived_their_whole_still_end_in_its_receipt(
        self, server: Server, upload: Resuming, joined: list[str]
    ) -> None:
        assert upload.offset() == SIZE
        assert refusal(upload.append(100, SIZE, complete=True)) == (409, "offset_mismatch")
        assert_stored_alone(server, upload, upload.append(SIZE, SIZE, complete=True), status=200)

    def test_a_creation_clears_the_pieces_that_outlived_their_whole(
        self, server: Server, upload: Resuming, joined: list[str]
    ) -> None:
        assert upload.create().status_code == 200
        assert server.stored() == [KEY]

    def test_a_removal_cut_off_in_the_middle_leaves_no_upload(
        self, server: Server, upload: Resuming, joined: list[str]
    ) -> None:
        server.bucket.delete(f"uploads/g1-001/{upload.id}/creation")
        assert upload.offset() is None
        assert refusal(upload.append(SIZE, SIZE, complete=True)) == (404, "upload_unknown")
        assert upload.create().status_code == 200
        assert server.stored() == [KEY]

    def test_pieces_of_an_upload_that_was_half_removed_count_again_when_it_begins_again(
        self, server: Server, upload: Resuming
    ) -> None:
        upload.create(BODY[:100])
        upload.append(100, 200)
        server.bucket.delete(f"uploads/g1-001/{upload.id}/creation", f"uploads/g1-001/{upload.id}/{0:012d}")
        assert upload.offset() is None
        assert upload.create(BODY[:50]).json()["offset"] == 50
        assert upload.append(50, 100).status_code == 204
        assert upload.offset() == 200  # the piece from 100 on had stayed
        assert_stored_alone(server, upload, upload.append(200, SIZE, complete=True))

    def test_a_creation_cut_off_before_its_piece_was_stored_goes_on_from_0(
        self, server: Server, upload: Resuming, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Bucket, "create_or_head", unreachable)
            assert refusal(upload.create(BODY[:100])) == (503, "storage_unavailable")
        assert upload.offset() == 0
        assert upload.create(BODY[:100]).json()["offset"] == 100

    def test_a_piece_that_the_bucket_did_not_take_is_not_acknowledged(
        self, upload: Resuming, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload.create()
        with monkeypatch.context() as patched:
            patched.setattr(Bucket, "create_async", unreachable)
            assert refusal(upload.append(0, 100)) == (503, "storage_unavailable")
        assert upload.offset() == 0
        assert upload.append(0, 100).status_code == 204

    def test_a_piece_stored_by_a_try_that_the_bucket_s_client_lost_counts(
        self, upload: Resuming, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client repeats a PUT whose answer was lost, and is told that the object exists: it is its own."""
        create = Bucket.create_async

        async def twice(bucket: Bucket, key: str, body: bytes, attributes: dict[str, str]) -> bool:
            await create(bucket, key, body, attributes)
            return await create(bucket, key, body, attributes)

        upload.create()
        with monkeypatch.context() as patched:
            patched.setattr(Bucket, "create_async", twice)
            response = upload.append(0, 100)
        assert (response.status_code, response.headers["Upload-Offset"]) == (204, "100")


async def unreachable(*_: object, **__: object) -> bool:
    raise StorageUnavailable("connection refused")


def unreachable_now(*_: object) -> None:
    raise StorageUnavailable("connection refused")


class TestExpiry:
    """`fleetfeed ingest expire` may come at any moment of an upload; the robot does as after every 404."""

    def test_an_upload_that_is_removed_between_two_pieces_begins_anew(self, server: Server, upload: Resuming) -> None:
        upload.create(BODY[:100])
        assert expire_all(server) == 1
        assert refusal(upload.append(100, 200)) == (404, "upload_unknown")
        assert upload.create(BODY[:100]).json()["offset"] == 100
        assert_stored_alone(server, upload, upload.append(100, SIZE, complete=True))

    @pytest.mark.parametrize("complete", [False, True])
    def test_an_upload_that_is_removed_while_a_piece_comes_is_stored_whole_or_begins_anew(
        self, held: Callable[[], int], server: Server, upload: Resuming, complete: bool
    ) -> None:
        upload.create(BODY[:100])
        piece = upload.piece(100, SIZE, complete=complete)
        with half_sent(piece, server, sent=10) as connection:
            wait_until(lambda: held() > 0, limit_s=20)  # it knows where the upload stands, and has begun to read
            assert expire_all(server) == 1
            connection.sendall(piece.body[10:])
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 404" if complete else b"HTTP/1.1 204")
        assert upload.offset() is None  # the robot asks, or its next piece is answered 404: it creates anew
        assert upload.create(BODY[:100]).json()["offset"] == SIZE  # the piece that came last had stayed
        assert_stored_alone(server, upload, upload.append(SIZE, SIZE, complete=True))

    def test_an_upload_that_is_removed_while_its_pieces_are_joined_begins_anew(
        self, server: Server, upload: Resuming, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload.create(BODY[:100])
        join = Pieces.join

        async def late(*arguments: object) -> object:
            await asyncio.to_thread(expire_all, server)
            return await join(*arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr(Pieces, "join", late)
            assert refusal(upload.append(100, SIZE, complete=True)) == (404, "upload_unknown")
        upload.create(BODY[:100])
        assert_stored_alone(server, upload, upload.append(100, SIZE, complete=True))


def expire_all(server: Server) -> int:
    return Pieces(server.bucket).expire(before_ns=time.time_ns() + 3600 * 10**9)


class TestConcurrency:
    def test_of_pieces_with_other_bytes_at_one_offset_one_wins_and_the_others_are_told(
        self, server: Server, storage: Storage, upload: Resuming
    ) -> None:
        with serve(storage) as second, ThreadPoolExecutor(6) as pool:
            upload.create()
            ways = [upload.at(one) for one in (server, second) for _ in range(3)]
            sizes = [100 + number for number in range(6)]  # each also ends elsewhere
            answers = list(pool.map(lambda pair: pair[0].append(0, pair[1]), zip(ways, sizes, strict=True)))
        won = [size for size, answer in zip(sizes, answers, strict=True) if answer.status_code == 204]
        lost = [answer for answer in answers if answer.status_code != 204]
        assert (len(won), len(lost)) == (1, 5)
        assert {refusal(answer) for answer in lost} == {(409, "offset_mismatch")}
        assert {answer.headers["Upload-Offset"] for answer in lost} == {str(won[0])}
        assert upload.offset() == won[0]

    def test_the_same_piece_sent_at_once_is_stored_once(self, server: Server, upload: Resuming) -> None:
        upload.create()
        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(lambda _: upload.append(0, 100).status_code, range(4)))
        assert 204 in statuses
        assert set(statuses) <= {204, 409}
        assert upload.offset() == 100
        assert len(server.stored()) == 2

    def test_creations_at_once_begin_one_upload(self, server: Server, upload: Resuming) -> None:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda size: upload.create(BODY[:size]), [10, 20, 30, 40]))
        assert {answer.status_code for answer in answers} == {201}
        offset = upload.offset()
        assert offset in (10, 20, 30, 40)
        assert {answer.json()["offset"] for answer in answers} == {offset}
