"""What resumable uploads refuse, spoiled or foreign or malformed: each with a code, and nothing is stored by it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPResponse

import pytest
import requests

from dataset_catalog.storage import Storage
from edge import wire
from edge.segment import MAGIC
from ingest_serve.pieces import Pieces
from ingest_serve.settings import IngestSettings
from tests.ingest_serve.conftest import RECORDING, Robot, Server, Upload, refusal, serve, wait_until
from tests.ingest_serve.resuming import BODY, SIZE, Resuming, digest_of, half_sent

KEY = f"raw/g1-001/{RECORDING}/telemetry/0000000000"


@pytest.fixture
def upload(robot: Robot) -> Resuming:
    return Resuming(robot, BODY)


class TestSpoiled:
    def test_a_piece_that_changed_on_the_way_is_not_stored(self, server: Server, upload: Resuming) -> None:
        upload.create(BODY[:100])
        piece = upload.piece(100, 600)
        flipped = bytearray(piece.body)
        flipped[250] ^= 1
        response = upload.robot.send(replace(piece, body=bytes(flipped)))
        assert refusal(response) == (400, "digest_mismatch")
        assert "Upload-Complete" not in response.headers  # of the piece, not of the whole
        assert upload.offset() == 100
        assert upload.robot.send(piece).status_code == 204

    def test_a_first_piece_that_changed_on_the_way_leaves_nothing(self, server: Server, upload: Resuming) -> None:
        flipped = replace(upload.creation(BODY[:100]), body=b"\x00" * 100)
        assert refusal(upload.robot.send(flipped)) == (400, "digest_mismatch")
        assert server.stored() == []

    def test_a_whole_that_is_not_what_was_announced_is_not_stored_and_may_be_sent_anew(
        self, server: Server, upload: Resuming
    ) -> None:
        upload.create(BODY[:100])
        other = replace(upload, body=BODY[:300] + b"\x00" + BODY[301:])
        rotten = replace(other.piece(100, 600), target=upload.address)
        assert upload.robot.send(upload.robot.signed(rotten)).status_code == 204
        response = upload.append(600, SIZE, complete=True)
        assert refusal(response) == (400, "digest_mismatch")
        assert response.headers["Upload-Complete"] == "?1"
        assert (upload.offset(), server.stored()) == (None, [])
        upload.create(BODY[:100])
        assert upload.append(100, SIZE, complete=True).status_code == 201
        assert server.stored() == [KEY]

    def test_a_whole_that_is_no_segment_is_refused_and_removed(self, server: Server, robot: Robot) -> None:
        upload = Resuming(robot, b"not an MCAP file")
        upload.create(upload.body)
        response = upload.append(len(upload.body), len(upload.body), complete=True)
        assert refusal(response) == (400, "not_a_segment")
        assert response.headers["Upload-Complete"] == "?1"
        assert server.stored() == []

    def test_an_upload_under_a_name_that_is_taken_is_a_conflict_at_its_creation(
        self, server: Server, upload: Resuming
    ) -> None:
        other = MAGIC + b"other" + MAGIC
        upload.robot.send(upload.robot.upload(other))
        response = upload.create(BODY[:100])
        assert refusal(response) == (409, "conflict")
        assert response.json()["stored_sha256"] == hashlib.sha256(other).hexdigest()
        assert server.stored() == [KEY]

    def test_an_upload_whose_name_was_taken_meanwhile_is_a_conflict_at_its_end(
        self, server: Server, upload: Resuming
    ) -> None:
        upload.create(BODY[:100])
        upload.robot.send(upload.robot.upload(MAGIC + b"other" + MAGIC))
        response = upload.append(100, SIZE, complete=True)
        assert refusal(response) == (409, "conflict")
        assert response.headers["Upload-Complete"] == "?1"
        kept = f"conflicts/g1-001/{RECORDING}/telemetry/0000000000/{hashlib.sha256(BODY).hexdigest()}"
        assert server.stored() == [KEY, kept]

    def test_half_a_piece_stores_nothing(self, server: Server, upload: Resuming) -> None:
        upload.create(BODY[:100])
        piece = upload.piece(100, 600)
        with half_sent(piece, server, sent=250) as connection:
            connection.shutdown(socket.SHUT_WR)
            connection.recv(4096)
        assert upload.offset() == 100
        assert upload.robot.send(piece).status_code == 204


class TestReplays:
    @pytest.mark.parametrize(
        "headers",
        [{"Upload_Offset": "200"}, {"Upload_Offset": "0100"}, {"Upload_Complete": "?1"}],
    )
    def test_a_captured_piece_cannot_go_elsewhere(
        self, server: Server, upload: Resuming, headers: dict[str, str]
    ) -> None:
        upload.create(BODY[:100])
        captured = upload.piece(100, 200)
        upload.append(100, 200)
        assert refusal(upload.robot.send(captured.changed(**headers))) == (401, "bad_signature")
        assert upload.offset() == 200

    def test_a_captured_piece_cannot_carry_other_bytes(self, upload: Resuming) -> None:
        upload.create(BODY[:100])
        captured, other = upload.piece(100, 200), b"\x00" * 100
        for spoiled in (replace(captured, body=other), replace(captured.changed(Content_Digest=digest_of(other)))):
            assert upload.robot.send(replace(spoiled, body=other)).status_code in (400, 401)
        assert upload.offset() == 100

    def test_a_captured_question_cannot_cancel(self, upload: Resuming) -> None:
        upload.create(BODY[:100])
        captured = upload.question()
        assert refusal(upload.robot.send(replace(captured, method="DELETE"))) == (401, "bad_signature")
        assert upload.offset() == 100

    def test_a_captured_creation_is_no_whole_upload_and_the_other_way_round(
        self, server: Server, upload: Resuming
    ) -> None:
        creation = upload.creation(BODY)
        whole = upload.robot.upload(BODY, kind="video")
        as_whole = creation.changed(Upload_Complete=None, Upload_Length=None)
        as_creation = whole.changed(Upload_Complete="?0", Upload_Length=str(SIZE), Repr_Digest=digest_of(BODY))
        for spoiled in (as_whole, as_creation, creation.changed(Upload_Complete="?1")):
            assert refusal(upload.robot.send(spoiled)) == (401, "bad_signature")
        assert server.stored() == []


def requests_of(upload: Resuming) -> dict[str, Upload]:
    return {
        "creation": upload.creation(BODY[:100]),
        "question": upload.question(),
        "piece": upload.piece(100, 200),
        "end": upload.piece(100, SIZE, complete=True),
        "cancellation": upload.cancellation(),
    }


def answer_code(response: requests.Response) -> str:
    """The problem's code; a HEAD has no body, so its status must do."""
    return str(response.json()["code"]) if response.content else f"{response.status_code} without a body"


class TestForeign:
    @pytest.mark.parametrize("which", ["creation", "question", "piece", "end", "cancellation"])
    def test_another_robot_has_no_part_in_an_upload(self, server: Server, upload: Resuming, which: str) -> None:
        upload.create(BODY[:100])
        before = server.stored()
        thief = server.new_robot("g1-002")
        request = requests_of(upload)[which]
        under_its_own_name = thief.send(thief.signed(request))
        under_our_name = thief.send(replace(thief, name="g1-001").signed(request))
        nobody = thief.send(request.changed(Authorization=None))
        assert [one.status_code for one in (under_its_own_name, under_our_name, nobody)] == [403, 401, 401]
        codes = [answer_code(one) for one in (under_its_own_name, under_our_name, nobody)]
        if which != "question":
            assert codes == ["wrong_robot", "unknown_key", "no_token"]
        assert server.stored() == before

    def test_an_upload_is_unknown_below_another_robot(self, server: Server, upload: Resuming) -> None:
        upload.create(BODY[:100])
        other = Resuming(server.new_robot("g1-002"), BODY)
        address = wire.resume_target("g1-002", upload.id)
        for request in (upload.question(), upload.piece(100, SIZE, complete=True), upload.cancellation()):
            moved = other.robot.signed(replace(request, target=address))
            assert other.robot.send(moved).status_code == 404
        assert upload.offset() == 100

    @pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
    @pytest.mark.parametrize(
        "name",
        [
            "{upper}",
            "{short}",
            "{long}",
            "..%2f{id}",
            "{id}%2fcreation",
            "%2e%2e",
            "{id}%00",
            "{id}%0a",
            "creation",
            "%c3%a9",
        ],
    )
    def test_an_id_of_another_form_is_unknown(self, upload: Resuming, method: str, name: str) -> None:
        upload.create(BODY[:100])
        good = upload.id
        if name == "{upper}":
            assert good != good.upper()
        bad = name.format(upper=good.upper(), short=good[:-1], long=good + "0", id=good)
        request = replace(upload.piece(100, 200), target=f"/v1/robots/g1-001/uploads/{bad}", method=method)
        status, code = send_untidied(upload.robot, request)
        assert status == 404
        assert code in (("upload_unknown", "not_found") if method != "HEAD" else ("",))
        assert upload.offset() == 100

    @pytest.mark.parametrize("name", ["G1-001", "..", "%2e%2e", "g1%2f001"])
    def test_a_bad_robot_name_is_refused(self, upload: Resuming, name: str) -> None:
        request = replace(upload.piece(100, 200), target=f"/v1/robots/{name}/uploads/{upload.id}")
        assert send_untidied(upload.robot, request)[0] in (400, 404)


CREATION_FAULTS: dict[str, tuple[dict[str, str | None], int, str, str | None]] = {
    "no length of the whole": ({"Upload_Length": None}, 400, "bad_parameter", "Upload-Length"),
    "length is text": ({"Upload_Length": "all"}, 400, "bad_parameter", "Upload-Length"),
    "length is empty": ({"Upload_Length": ""}, 400, "bad_parameter", "Upload-Length"),
    "length is negative": ({"Upload_Length": "-1"}, 400, "bad_parameter", "Upload-Length"),
    "length is a fraction": ({"Upload_Length": "1.5"}, 400, "bad_parameter", "Upload-Length"),
    "length has 16 digits": ({"Upload_Length": "1" * 16}, 400, "bad_parameter", "Upload-Length"),
    "length has 5,000 digits": ({"Upload_Length": "1" * 5000}, 400, "bad_parameter", "Upload-Length"),
    "length in other digits": ({"Upload_Length": "²"}, 400, "bad_parameter", "Upload-Length"),
    "length over the limit": ({"Upload_Length": str((64 << 20) + 1)}, 413, "too_large", None),
    "length under the piece": ({"Upload_Length": "99"}, 400, "upload_length", None),
    "no word of the end": ({"Upload_Complete": None}, 400, "bad_parameter", "Upload-Complete"),
    "the end is 1": ({"Upload_Complete": "1"}, 400, "bad_parameter", "Upload-Complete"),
    "the end is true": ({"Upload_Complete": "true"}, 400, "bad_parameter", "Upload-Complete"),
    "the end is empty": ({"Upload_Complete": ""}, 400, "bad_parameter", "Upload-Complete"),
    "an offset": ({"Upload_Offset": "0"}, 400, "bad_parameter", "Upload-Offset"),
    "no digest of the whole": ({"Repr_Digest": None}, 400, "bad_digest", None),
    "digest of the whole is no sha-256": ({"Repr_Digest": "md5=:AAAA:"}, 400, "bad_digest", None),
    "no digest of the piece": ({"Content_Digest": None}, 400, "bad_digest", None),
    "another type": ({"Content_Type": wire.PIECE_TYPE}, 415, "unsupported_type", None),
    "a gap longer than gaps are": ({"Content_Type": wire.GAP_TYPE, "Upload_Length": "65537"}, 413, "too_large", None),
    "a clock of another form": ({wire.ROBOT_CLOCK_HEADER: "fast"}, 400, "bad_parameter", wire.ROBOT_CLOCK_HEADER),
    "a time of another form": ({wire.ROBOT_TIME_HEADER: "noon"}, 400, "bad_parameter", wire.ROBOT_TIME_HEADER),
}
PIECE_FAULTS: dict[str, tuple[dict[str, str | None], int, str, str | None]] = {
    "no offset": ({"Upload_Offset": None}, 400, "bad_parameter", "Upload-Offset"),
    "offset is text": ({"Upload_Offset": "here"}, 400, "bad_parameter", "Upload-Offset"),
    "offset is negative": ({"Upload_Offset": "-1"}, 400, "bad_parameter", "Upload-Offset"),
    "offset has 5,000 digits": ({"Upload_Offset": "1" * 5000}, 400, "bad_parameter", "Upload-Offset"),
    "offset too small": ({"Upload_Offset": "99"}, 409, "offset_mismatch", None),
    "offset too large": ({"Upload_Offset": "101"}, 409, "offset_mismatch", None),
    "offset far too large": ({"Upload_Offset": "9" * 15}, 409, "offset_mismatch", None),
    "no word of the end": ({"Upload_Complete": None}, 400, "bad_parameter", "Upload-Complete"),
    "the end is yes": ({"Upload_Complete": "yes"}, 400, "bad_parameter", "Upload-Complete"),
    "the end too early": ({"Upload_Complete": "?1"}, 400, "upload_length", None),
    "no digest": ({"Content_Digest": None}, 400, "bad_digest", None),
    "no type": ({"Content_Type": None}, 415, "unsupported_type", None),
    "the whole's type": ({"Content_Type": wire.MCAP_TYPE}, 415, "unsupported_type", None),
    "a clock of another form": ({wire.ROBOT_CLOCK_HEADER: "fast"}, 400, "bad_parameter", wire.ROBOT_CLOCK_HEADER),
    "a time of another form": ({wire.ROBOT_TIME_HEADER: "noon"}, 400, "bad_parameter", wire.ROBOT_TIME_HEADER),
}


class TestRefused:
    @pytest.mark.parametrize("case", CREATION_FAULTS)
    def test_a_creation_that_lacks_or_spoils_a_field_is_refused(
        self, server: Server, upload: Resuming, case: str
    ) -> None:
        headers, status, code, parameter = CREATION_FAULTS[case]
        response = upload.create(BODY[:100], **headers)
        assert refusal(response) == (status, code)
        assert response.json().get("parameter") == parameter
        assert server.stored() == []

    @pytest.mark.parametrize("case", PIECE_FAULTS)
    def test_a_piece_that_lacks_or_spoils_a_field_is_refused(self, upload: Resuming, case: str) -> None:
        upload.create(BODY[:100])
        headers, status, code, parameter = PIECE_FAULTS[case]
        response = upload.append(100, 200, **headers)
        assert refusal(response) == (status, code)
        assert response.json().get("parameter") == parameter
        assert upload.offset() == 100

    def test_a_piece_beyond_the_end_is_refused(self, robot: Robot) -> None:
        upload = Resuming(robot, BODY)
        upload.create(BODY[:100])
        longer = replace(upload, body=BODY + b"\x00")
        for complete in (False, True):
            piece = replace(longer.piece(100, SIZE + 1, complete=complete), target=upload.address)
            assert refusal(robot.send(robot.signed(piece))) == (400, "upload_length")
        assert upload.offset() == 100

    def test_a_creation_that_contradicts_the_first_is_refused(self, upload: Resuming) -> None:
        upload.create(BODY[:100])
        assert refusal(upload.create(Upload_Length=str(SIZE + 1))) == (400, "upload_length")
        assert upload.append(100, SIZE, complete=True).status_code == 201

    def test_a_piece_without_length_is_refused(self, server: Server, upload: Resuming) -> None:
        upload.create()
        piece = upload.piece(0, 100)
        chunked = requests.patch(server.url + piece.target, data=iter([piece.body]), headers=piece.headers, timeout=10)
        assert refusal(chunked) == (411, "length_required")

    def test_a_bad_target_of_a_creation_is_refused(self, server: Server, robot: Robot) -> None:
        for query, code in (({"seq": "one"}, "bad_parameter"), ({"stream": ".."}, "bad_name")):
            creation = replace(Resuming(robot, BODY).creation(), target=robot.target(**query))
            assert refusal(robot.send(robot.signed(creation))) == (400, code)
        assert server.stored() == []

    @pytest.mark.parametrize("name", ["MAX_PIECES", "FREE_PIECES"])
    def test_an_upload_takes_so_many_pieces_and_no_more(
        self, upload: Resuming, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(f"ingest_serve.pieces.{name}", 3)
        upload.create(BODY[:1])
        assert [upload.append(at, at + 1).status_code for at in (1, 2, 3)] == [204, 204, 400]
        assert refusal(upload.append(3, 4)) == (400, "too_many_pieces")


class TestBounds:
    """What is held in memory is bounded: a piece while it arrives, and the whole while it is joined."""

    @pytest.fixture
    def narrow(self, storage: Storage, held: Callable[[], int]) -> Iterator[Server]:
        """A server that may hold one whole body, and no byte more."""
        limits = IngestSettings(max_telemetry_bytes=SIZE, max_video_bytes=SIZE, max_bytes_in_flight=2 * SIZE)
        with serve(storage, limits) as running:
            yield running

    def test_a_piece_counts_while_it_arrives(self, narrow: Server, held: Callable[[], int]) -> None:
        robot, other = narrow.new_robot(), narrow.new_robot("g1-002")
        upload = Resuming(robot, BODY)
        with half_sent(upload.creation(BODY[:SIZE]), narrow, sent=10) as connection:
            wait_until(lambda: held() == SIZE, limit_s=20)
            assert refusal(Resuming(other, BODY).create(BODY[:1])) == (503, "busy")
            wait_until(lambda: held() == 10, limit_s=20)  # it has turned out to be slow
            connection.sendall(BODY[10:])
            assert connection.recv(4096).startswith(b"HTTP/1.1 201")
        with half_sent(robot.upload(BODY, kind="video", seq=9), narrow, sent=10):
            wait_until(lambda: held() == SIZE, limit_s=20)
            assert refusal(Resuming(robot, BODY, seq=2).create(BODY[:1])) == (429, "robot_busy")
        wait_until(lambda: held() == 0, limit_s=20)

    def test_a_slow_piece_makes_room(self, narrow: Server, held: Callable[[], int]) -> None:
        slow, healthy = narrow.new_robot(), narrow.new_robot("g1-002")
        with half_sent(Resuming(slow, BODY).creation(BODY), narrow, sent=SIZE - 1) as connection:
            wait_until(lambda: held() == SIZE, limit_s=20)
            wait_until(lambda: Resuming(healthy, BODY).create(BODY[:500]).status_code == 201, limit_s=20)
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"slow_body"' in answer
        assert Resuming(healthy, BODY).append(500, SIZE, complete=True).status_code == 201
        assert held() == 0

    def test_the_whole_has_room_of_its_own_while_it_is_joined(self, narrow: Server, held: Callable[[], int]) -> None:
        robot, other = narrow.new_robot(), narrow.new_robot("g1-002")
        upload = Resuming(robot, BODY)
        upload.create(BODY)
        with half_sent(other.upload(BODY), narrow, sent=SIZE - 1):
            wait_until(lambda: held() >= SIZE - 1, limit_s=20)
            assert upload.append(SIZE, SIZE, complete=True).status_code == 201
        wait_until(lambda: held() == 0, limit_s=20)

    def test_a_whole_that_waits_in_vain_for_its_turn_stands_as_it_stood(
        self, narrow: Server, held: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ingest_serve.in_flight.JOIN_WAIT_S", 0.1)
        joining = threading.Event()
        join = Pieces.join

        async def late(*arguments: object) -> object:
            while not joining.is_set():
                await asyncio.sleep(0.01)
            return await join(*arguments)  # type: ignore[arg-type]

        uploads = [Resuming(narrow.new_robot(f"g1-{number}"), BODY) for number in (1, 2)]
        for upload in uploads:
            upload.create(BODY)
        monkeypatch.setattr(Pieces, "join", late)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(uploads[0].append, SIZE, SIZE, complete=True)
            wait_until(lambda: held() == SIZE, limit_s=20)
            response = uploads[1].append(SIZE, SIZE, complete=True)
            assert refusal(response) == (503, "busy")
            assert "Upload-Complete" not in response.headers
            joining.set()
            assert first.result().status_code == 201
        assert uploads[1].append(SIZE, SIZE, complete=True).status_code == 201
        assert held() == 0

    def test_what_a_refused_upload_held_is_free_again(self, narrow: Server, held: Callable[[], int]) -> None:
        upload = Resuming(narrow.new_robot(), b"no segment".ljust(SIZE))
        flipped = replace(upload.creation(upload.body), body=b"\x00" * SIZE)
        assert refusal(upload.robot.send(flipped)) == (400, "digest_mismatch")
        upload.create(upload.body)
        assert refusal(upload.append(SIZE, SIZE, complete=True)) == (400, "not_a_segment")
        assert held() == 0


def send_untidied(robot: Robot, upload: Upload) -> tuple[int, str]:
    """Status and problem code of a request whose path no client library tidies up, signed as it is sent."""
    target = upload.target.encode().decode("latin-1")
    signed = robot.signed(replace(upload, target=target))
    with half_sent(signed, robot.server, sent=len(upload.body)) as connection:
        response = HTTPResponse(connection, method=upload.method)
        response.begin()
        body = response.read()
    return response.status, json.loads(body)["code"] if body else ""
