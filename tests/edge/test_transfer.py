"""How one item goes: small whole, large in pieces; whatever happens on the way, it arrives once, and little is sent
twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import transfer, wire
from edge.chunks import MAGIC
from edge.segment import SegmentFacts, sha256_of
from edge.spool import Spooled
from edge.status import status
from edge.uploader import SMALLEST_PIECE
from tests.edge.delivering import DeliveringRobot
from tests.edge.ingest_double import Asked, Said, Stored, on_a_socket

RECORDING = "01J00000000000000000000000"
PIECE = SMALLEST_PIECE
LENGTH = 5 * PIECE + 1000
Until = Callable[..., None]


@pytest.fixture
def robot(tmp_path: Path, key: Ed25519PrivateKey) -> DeliveringRobot:
    return DeliveringRobot(tmp_path / "robot", key)


def seal(robot: DeliveringRobot, seq: int = 0, *, length: int = LENGTH) -> Spooled:
    body = MAGIC + random.Random(seq).randbytes(length - 2 * len(MAGIC)) + MAGIC
    facts = SegmentFacts(5, 9, length, sha256_of(body), {"/head": 3})
    return robot.spool.add((RECORDING, "head", seq), facts, body, kind="video", content_type=wire.MCAP_TYPE)


def is_delivered(robot: DeliveringRobot, *items: Spooled) -> bool:
    """Each is stored whole, under its name and type, and the robot remembers it and no more."""
    stored = robot.server.stored(RECORDING, "head")
    assert {seq: (one.sha256, one.content_type) for seq, one in stored.items()} == {
        item.seq: (item.sha256, item.content_type) for item in items
    }
    assert robot.spool.acknowledged(RECORDING) == list(items)
    assert list(robot.spool.waiting()) == []
    return True


def sent(robot: DeliveringRobot) -> int:
    return sum(len(one.body) for one in robot.server.asked)


def test_a_large_item_is_created_and_sent_piece_by_piece(robot: DeliveringRobot) -> None:
    item = seal(robot)
    robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    create, *pieces = robot.server.asked
    target = wire.upload_target(item.named("g1-007"), kind="video", start_ns=5, end_ns=9)
    assert (create.method, create.target, create.body) == ("POST", target, b"")
    assert create.headers["Content-Type"] == wire.MCAP_TYPE
    assert {one.target for one in pieces} == {
        wire.resume_target("g1-007", wire.upload_id(target, item.sha256)),
    }
    told = [(one.headers["Upload-Offset"], one.headers["Upload-Complete"], len(one.body)) for one in pieces]
    assert told == [*((str(n * PIECE), "?0", PIECE) for n in range(5)), (str(5 * PIECE), "?1", 1000)]


def test_a_small_item_goes_whole(robot: DeliveringRobot) -> None:
    item = seal(robot, length=PIECE)
    robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    (asked,) = robot.server.asked
    assert (asked.method, len(asked.body)) == ("POST", PIECE)
    assert not any(name.startswith("Upload-") for name in asked.headers)


@pytest.mark.parametrize("fault", ["cut", "lose_reply", "change"])
def test_a_fault_of_a_small_item_sends_it_again(robot: DeliveringRobot, fault: str) -> None:
    item = seal(robot, length=PIECE)
    robot.server.script = [getattr(robot.server, fault)] * 3
    uploader = robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    assert len(robot.server.asked) == 4
    assert robot.spool.quarantined() == []
    assert uploader.state.uploaded == 1


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("fault", ["do", "cut", "lose_reply"])
def test_it_is_the_same_over_a_real_connection(robot: DeliveringRobot, fault: str, number: int) -> None:
    """Paced in every other run: then the connection reads the body block by block."""
    item = seal(robot)
    robot.server.script = [*[robot.server.do] * number, getattr(robot.server, fault)]
    with on_a_socket(robot.server) as url:
        robot.deliver(url=url, piece_bytes=PIECE, max_upload_rate=number % 2 * 100_000_000)
    assert is_delivered(robot, item)
    assert sent(robot) <= LENGTH + PIECE


@pytest.mark.parametrize("length", [PIECE, PIECE + 1, 2 * PIECE])
def test_the_last_piece_is_marked_wherever_the_end_falls(robot: DeliveringRobot, length: int) -> None:
    item = seal(robot, length=length)
    robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    assert len(robot.server.asked_for("PATCH")) == (0 if length == PIECE else 2)


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("fault", ["cut", "lose_reply", "change"])
def test_a_fault_in_any_request_costs_that_piece_at_most(robot: DeliveringRobot, fault: str, number: int) -> None:
    item = seal(robot)
    robot.server.script = [*[robot.server.do] * number, getattr(robot.server, fault)]
    uploader = robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    assert sent(robot) <= LENGTH + PIECE
    assert (uploader.state.uploaded, uploader.state.uploaded_bytes) == (1, LENGTH)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(("do", "cut", "lose_reply", "change", "busy", "lost", "gone")), max_size=25))
def test_any_run_of_faults_ends_in_one_whole_object(
    tmp_path_factory: pytest.TempPathFactory, key: Ed25519PrivateKey, faults: list[str]
) -> None:
    robot = DeliveringRobot(tmp_path_factory.mktemp("robot") / "robot", key)

    def forget_uploads(asked: Asked) -> Said:
        robot.server.uploads.clear()
        return robot.server.do(asked)

    def lose_a_piece(asked: Asked) -> Said:
        for upload in robot.server.uploads.values():
            del upload.pieces[1:]
        return robot.server.do(asked)

    known = {"busy": robot.server.refuse(503, "busy"), "gone": forget_uploads, "lost": lose_a_piece}
    item = seal(robot)
    robot.server.script = [known.get(name) or getattr(robot.server, name) for name in faults]
    robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    assert sent(robot) <= LENGTH * (1 + len(faults))


def test_pieces_are_halved_by_a_cut_and_doubled_by_a_success(robot: DeliveringRobot) -> None:
    first = seal(robot, 0, length=17 * PIECE)
    robot.server.script = [robot.server.do, robot.server.cut]
    with robot.running(piece_bytes=8 * PIECE, until_empty=True) as uploader:
        pass
    sizes = [len(one.body) for one in robot.server.asked_for("PATCH")]
    assert sizes == [8 * PIECE, *[4 * PIECE] * 4, PIECE]
    assert uploader._piece_bytes == 8 * PIECE
    second = seal(robot, 1, length=17 * PIECE)
    robot.server.asked.clear()
    robot.deliver(piece_bytes=8 * PIECE)
    assert is_delivered(robot, first, second)
    assert [len(one.body) for one in robot.server.asked_for("PATCH")] == [8 * PIECE, 8 * PIECE, PIECE]


def test_pieces_do_not_become_smaller_than_they_may(robot: DeliveringRobot) -> None:
    item = seal(robot)
    robot.server.script = [robot.server.cut] * 12
    robot.deliver(piece_bytes=4 * PIECE)
    assert is_delivered(robot, item)
    assert {len(one.body) for one in robot.server.asked_for("PATCH")} == {PIECE, 1000}


def test_a_server_that_had_all_bytes_and_not_the_time_to_join_them_is_asked_to(robot: DeliveringRobot) -> None:
    """The replica that took the last piece was stopped before it answered."""
    item = seal(robot)

    def store_the_piece_and_die(asked: Asked) -> Said:
        (upload,) = robot.server.uploads.values()
        upload.pieces.append(asked.body)
        raise requests.ConnectionError("it was stopped")

    robot.server.script = [*[robot.server.do] * 6, store_the_piece_and_die]
    robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    last = robot.server.asked[-1]
    assert (last.body, last.headers["Upload-Offset"], last.headers["Upload-Complete"]) == (b"", str(LENGTH), "?1")


def test_an_upload_that_another_run_began_is_gone_on_with(robot: DeliveringRobot, until: Until) -> None:
    item = seal(robot)
    robot.server.script = [*[robot.server.do] * 4, *[robot.server.cut] * 1000]
    with robot.running(piece_bytes=PIECE) as uploader:
        until(lambda: uploader.state.failures_in_a_row >= 2)
    robot.server.script.clear()
    robot.server.asked.clear()
    robot.deliver(piece_bytes=2 * PIECE)
    assert is_delivered(robot, item)
    assert sent(robot) == LENGTH - 3 * PIECE


def test_what_is_stored_already_is_not_sent_again(robot: DeliveringRobot) -> None:
    item = seal(robot)
    robot.server.objects[item.named("g1-007").key] = Stored(wire.MCAP_TYPE, robot.seen.body(item))
    uploader = robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    assert (sent(robot), uploader.state.uploaded) == (0, 1)


def test_other_bytes_under_its_name_are_told_before_a_byte_is_sent(robot: DeliveringRobot) -> None:
    item = seal(robot)
    robot.server.objects[item.named("g1-007").key] = Stored(wire.MCAP_TYPE, MAGIC + b"of another robot" + MAGIC)
    robot.deliver(piece_bytes=PIECE)
    assert sent(robot) == 0
    assert [one for one, _ in robot.spool.quarantined()] == [item]
    assert len(robot.server.objects) == 1
    assert list(robot.spool.waiting()) == []


@pytest.mark.parametrize("code", ["offset_mismatch", "upload_unknown", "upload_length", "too_many_pieces"])
def test_trouble_with_a_piece_never_costs_the_item(robot: DeliveringRobot, code: str) -> None:
    item = seal(robot)
    refused = robot.server.refuse(404 if code == "upload_unknown" else 409, code)
    robot.server.script = [robot.server.do, *[refused, robot.server.do] * 3]
    robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    assert robot.spool.quarantined() == []


@pytest.mark.parametrize("told", ["same", "back", "beyond", "nothing", "nonsense"])
def test_a_server_that_tells_a_senseless_offset_is_left_alone_for_a_while(
    robot: DeliveringRobot, until: Until, told: str
) -> None:
    item = seal(robot)
    offsets = {"same": "0", "back": "0", "beyond": str(LENGTH + 1), "nonsense": "-5"}

    def tell(asked: Asked) -> Said:
        headers = {} if told == "nothing" else {wire.UPLOAD_OFFSET_HEADER: offsets[told]}
        if told == "back" and asked.headers["Upload-Offset"] == "0":
            return robot.server.do(asked)
        return Said(204, b"", headers)

    def tell_pieces(asked: Asked) -> Said:
        return tell(asked) if asked.method == "PATCH" else robot.server.do(asked)

    robot.server.script = [tell_pieces] * 10_000
    with robot.running(piece_bytes=PIECE) as uploader:
        until(lambda: uploader.state.failures_in_a_row >= 2)
        assert len(robot.server.asked) < 50
        robot.server.script.clear()
        until(lambda: list(robot.spool.waiting()) == [])
    assert is_delivered(robot, item)


def test_corrections_of_the_offset_are_bounded(robot: DeliveringRobot) -> None:
    """Two offsets in turn, for ever: the item is tried again later, not at once."""
    seal(robot)
    offsets = iter([str(n % 2 * PIECE) for n in range(1000)])

    def mismatch(_: Asked) -> Said:
        told = {wire.UPLOAD_OFFSET_HEADER: next(offsets)}
        return Said(409, robot.server.problem(409, "offset_mismatch").body, told)

    robot.server.script = [robot.server.do, *[mismatch] * 1000]
    uploader = robot.uploader(piece_bytes=PIECE)
    item = next(iter(robot.spool.waiting()))
    response = transfer.carry(uploader.link, robot.spool, item, piece_bytes=PIECE)
    assert response.status_code == 409
    assert len(robot.server.asked) == 1 + transfer.MAX_CORRECTIONS + 1


def test_a_body_that_was_changed_between_two_pieces_begins_anew(robot: DeliveringRobot) -> None:
    """The joined whole is not what was declared: its pieces are gone at the server, and the robot still has it."""
    item = seal(robot)

    def spoil(asked: Asked) -> Said:
        (upload,) = robot.server.uploads.values()
        upload.pieces[0] = bytes(len(upload.pieces[0]))
        return robot.server.do(asked)

    robot.server.script = [*[robot.server.do] * 3, spoil]
    robot.deliver(piece_bytes=PIECE)
    assert is_delivered(robot, item)
    assert robot.spool.quarantined() == []
    assert [line.quarantined for line in status(robot.spool)] == [0]
