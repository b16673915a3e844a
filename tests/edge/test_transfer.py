"""Large items go in pieces and resume where the server is; whatever goes wrong, the item ends in one place."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge import wire
from edge.disk import Disk
from edge.identity import Identity
from edge.recovery import repair
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled
from edge.status import status
from edge.uploader import SMALLEST_PIECE, Uploader

if TYPE_CHECKING:
    from tests.edge.conftest import Answer, Request, ScriptedServer, SpoolView

RECORDING = "01J00000000000000000000000"
View = Callable[[Path], "SpoolView"]


@dataclass
class PieceServer:
    """The server's side of resumable uploads, in memory. `drop` names requests whose answer is lost on the way."""

    pieces: dict[str, bytearray] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    targets: dict[str, tuple[str, int]] = field(default_factory=dict)
    methods: list[tuple[str, int]] = field(default_factory=list)
    drop: Callable[[int], bool] = lambda _: False
    cannot_join: int = 0  # so many times

    def __post_init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                number = len(server.methods)
                server.methods.append((self.command, len(body)))
                code, headers, answer = server.answer(self.command, self.path, self.headers, body)
                if server.drop(number):
                    self.connection.shutdown(2)
                    return
                self.send_response(code)
                for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_PATCH = handle_any

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        assert wire.parse_content_digest(headers["Content-Digest"]) == hashlib.sha256(body).digest()
        if method == "POST" and headers.get("Upload-Complete") is None:
            return self._receipt(path, body)
        if method == "POST":
            sha256 = wire.parse_content_digest(headers["Repr-Digest"]).hex()
            upload = wire.upload_id(path, sha256)
            if path in self.stored:
                return self._receipt(path, self.stored[path])
            self.targets[upload] = (path, int(headers["Upload-Length"]))
            return 201, {"Upload-Offset": str(len(self.pieces.setdefault(upload, bytearray())))}, b"{}"
        upload = path.rsplit("/", 1)[1]
        have, offset = self.pieces[upload], int(headers["Upload-Offset"])
        if offset != len(have):
            problem = b'{"code": "offset_mismatch", "detail": "go on where I am"}'
            return 409, {"Upload-Offset": str(len(have))}, problem
        have += body
        target, length = self.targets[upload]
        assert (headers["Upload-Complete"] == "?1") == (len(have) == length)
        return (
            self._receipt(target, bytes(have)) if len(have) == length else (204, {"Upload-Offset": str(len(have))}, b"")
        )

    def _receipt(self, target: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        known = target in self.stored
        self.stored[target] = body
        receipt = wire.Receipt(target, hashlib.sha256(body).hexdigest(), len(body), 1, known)
        return 200 if known else 201, {"Content-Type": "application/json"}, json.dumps(receipt.as_json()).encode()


@pytest.fixture
def pieces() -> Iterator[PieceServer]:
    server = PieceServer()
    yield server
    server.http.shutdown()
    server.http.server_close()


def uploader(spool: Spool, robot: Identity, url: str, **changed: Any) -> Uploader:
    settings = EdgeSettings(folder=spool.folder, url=url, scan_s=0.01, max_backoff_s=0.02, timeout_s=5, **changed)
    return Uploader(spool, robot, settings=settings)


def empty(one: Uploader, *, limit_s: float = 20.0) -> None:
    stop = threading.Event()
    working = threading.Thread(target=one.run, args=(stop,), kwargs={"until_empty": True})
    working.start()
    working.join(limit_s)
    hangs = working.is_alive()
    stop.set()
    working.join(limit_s)
    assert not hangs, f"still trying: {one.state.last_error}"


def large(seen: SpoolView, *, messages: int = 20_000) -> Spooled:
    added = seen.add(0, messages=messages)
    assert added.bytes > 3 * SMALLEST_PIECE
    return added


@pytest.mark.parametrize("lost", [None, 0, 1, 2, 3])
def test_a_large_item_arrives_whole_whichever_answer_is_lost(
    tmp_path: Path, view: View, robot: Identity, pieces: PieceServer, lost: int | None
) -> None:
    seen = view(tmp_path)
    added = large(seen)
    body = seen.body(added)
    pieces.drop = lambda number: number == lost
    empty(uploader(seen.spool, robot, pieces.url, piece_bytes=SMALLEST_PIECE))
    assert list(pieces.stored.values()) == [body]
    assert [one.stem for one in seen.spool.acknowledged(RECORDING)] == [added.stem]
    sent = sum(size for method, size in pieces.methods)
    assert sent == len(body), "nothing is sent twice where the server has it"


def test_pieces_that_could_not_be_joined_are_joined_later(
    tmp_path: Path, view: View, robot: Identity, pieces: PieceServer
) -> None:
    seen = view(tmp_path)
    body = seen.body(large(seen))
    pieces.cannot_join = 2
    empty(uploader(seen.spool, robot, pieces.url, piece_bytes=SMALLEST_PIECE))
    assert list(pieces.stored.values()) == [body]
    assert sum(size for _, size in pieces.methods) == len(body)


@pytest.mark.parametrize("code", ["offset_mismatch", "upload_unknown"])
def test_an_upload_that_somebody_else_changed_is_begun_again(
    tmp_path: Path, view: View, robot: Identity, server: ScriptedServer, code: str
) -> None:
    seen = view(tmp_path)
    added = seen.add(0)
    server.script = [lambda _: server.problem(404 if code == "upload_unknown" else 409, code, "not there")] * 2
    empty(uploader(seen.spool, robot, server.url))
    assert [one.stem for one in seen.spool.acknowledged(RECORDING)] == [added.stem]


def test_a_small_item_goes_whole(tmp_path: Path, view: View, robot: Identity, pieces: PieceServer) -> None:
    seen = view(tmp_path)
    added = seen.add(0)
    empty(uploader(seen.spool, robot, pieces.url))
    assert pieces.methods == [("POST", added.bytes)]


def test_after_a_cut_pieces_are_smaller_and_after_success_larger_again(
    tmp_path: Path, view: View, robot: Identity, pieces: PieceServer
) -> None:
    seen = view(tmp_path)
    large(seen)
    pieces.drop = lambda number: number == 0
    one = uploader(seen.spool, robot, pieces.url, piece_bytes=4 * SMALLEST_PIECE)
    empty(one)
    assert next(size for method, size in pieces.methods if method == "PATCH") == 2 * SMALLEST_PIECE
    assert one._piece_bytes == 4 * SMALLEST_PIECE


def test_one_item_that_always_fails_does_not_hold_up_the_others(
    tmp_path: Path, view: View, robot: Identity, server: ScriptedServer, until: Callable[..., None]
) -> None:
    seen = view(tmp_path)
    for seq in range(6):
        seen.add(seq)
    store = server.store

    def fail_the_first(request: Request) -> Answer:
        return server.problem(500, "internal_error", "x") if "&seq=0&" in request.target else store(request)

    server.script = [fail_the_first] * 10_000
    one, stop = uploader(seen.spool, robot, server.url, uploads_at_once=1), threading.Event()
    working = threading.Thread(target=one.run, args=(stop,))
    working.start()
    try:
        until(lambda: [item.seq for item in seen.spool.waiting()] == [0])
        server.script.clear()
        until(lambda: not list(seen.spool.waiting()))
    finally:
        stop.set()
        working.join(20)


def test_a_body_that_was_changed_on_its_way_is_sent_again(
    tmp_path: Path, view: View, robot: Identity, server: ScriptedServer
) -> None:
    seen = view(tmp_path)
    added = seen.add(0)
    server.script = [lambda _: server.problem(400, "digest_mismatch", "another sha-256 came")] * 2
    empty(uploader(seen.spool, robot, server.url))
    assert [one.stem for one in seen.spool.acknowledged(RECORDING)] == [added.stem]
    assert seen.spool.quarantined() == []


def test_a_body_that_rotted_on_the_disk_is_set_aside_and_told(
    tmp_path: Path, view: View, robot: Identity, server: ScriptedServer
) -> None:
    seen = view(tmp_path)
    added = seen.add(0)
    path = seen.spool.data_path(added)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    empty(uploader(seen.spool, robot, server.url))
    assert [item.stem for item, _ in seen.spool.quarantined()] == [added.stem]
    (gap,) = seen.spool.acknowledged(RECORDING)
    assert (gap.is_gap, gap.cause) == (True, "quarantined")
    (line,) = status(seen.spool)
    assert (line.recorded, line.quarantined) == (3, 3)


@pytest.mark.parametrize("spoil", [b"", b"{}", b"\0" * 300, b'{"recording": "x"}'])
def test_damaged_facts_are_made_again_from_the_bytes(
    tmp_path: Path, view: View, robot: Identity, server: ScriptedServer, spoil: bytes
) -> None:
    seen = view(tmp_path)
    added = [seen.add(seq) for seq in range(3)]
    seen.spool.facts_path(added[1]).write_bytes(spoil)
    empty(uploader(seen.spool, robot, server.url))
    assert {one.stem for one in seen.spool.acknowledged(RECORDING)} == {one.stem for one in added}


def test_one_bit_flipped_anywhere_in_the_facts_is_noticed_and_mended(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    added = seen.add(0)
    path = seen.spool.facts_path(added)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            found = seen.spool.read(added.stem)
            assert found in (None, added), f"byte {at}"
            if found is None:
                assert repair(seen.spool, added.stem) == added
        assert path.read_bytes() == whole


def test_one_bit_flipped_anywhere_in_the_ledger_costs_its_line_at_most(
    tmp_path: Path, view: View, robot: Identity, server: ScriptedServer
) -> None:
    seen = view(tmp_path)
    for seq in range(3):
        seen.add(seq)
    empty(uploader(seen.spool, robot, server.url, uploads_at_once=1))
    path = tmp_path / "ledger" / f"{RECORDING}.jsonl"
    whole = path.read_bytes()
    before = seen.spool.acknowledged(RECORDING)
    assert len(before) == 3
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        found = seen.spool.acknowledged(RECORDING)
        assert len(found) >= (1 if whole[at : at + 1] == b"\n" else 2), f"byte {at}"
        assert all(one in before for one in found), f"byte {at}"
        path.write_bytes(whole[:at])
        lines = [line for line in whole[:at].split(b"\n")[:-1] if line]
        assert seen.spool.acknowledged(RECORDING) == before[: len(lines)], f"cut at byte {at}"


@pytest.mark.parametrize("has_it", [True, False])
def test_missing_bytes_are_asked_for_at_the_server_first(
    tmp_path: Path, view: View, robot: Identity, pieces: PieceServer, has_it: bool
) -> None:
    seen = view(tmp_path)
    added = seen.add(0)
    if has_it:
        target = wire.upload_target(
            added.named(robot.robot), kind="telemetry", start_ns=added.start_ns, end_ns=added.end_ns
        )
        pieces.stored[target] = seen.body(added)
    seen.spool.data_path(added).unlink()
    empty(uploader(seen.spool, robot, pieces.url))
    (line,) = status(seen.spool)
    assert (line.uploaded, line.dropped) == ((3, 0) if has_it else (0, 3))
    assert list(seen.spool.waiting()) == []


def test_a_ledger_without_room_frees_the_bytes_it_has_a_receipt_for(
    tmp_path: Path, view: View, robot: Identity, server: ScriptedServer
) -> None:
    class FullDisk(Disk):
        """Takes nothing more until something is removed."""

        full = True

        def open_append(self, path: Path) -> Any:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().open_append(path)

        def unlink(self, path: Path) -> None:
            self.full = False
            super().unlink(path)

    added = view(tmp_path).add(0)
    spool = Spool(tmp_path, disk=FullDisk())
    empty(uploader(spool, robot, server.url))
    assert [one.stem for one in spool.acknowledged(RECORDING)] == [added.stem]
    assert not list((tmp_path / "sealed").rglob("*.*"))


def test_the_robots_clock_is_told_once_it_is_known(
    tmp_path: Path, view: View, robot: Identity, server: ScriptedServer
) -> None:
    seen = view(tmp_path)
    for seq in range(3):
        seen.add(seq)
    store = server.store

    def with_time(request: Request) -> Answer:
        answer = store(request)
        return type(answer)(
            answer.status, answer.body, {**answer.headers, wire.SERVER_TIME_HEADER: str(time.time_ns())}
        )

    server.script = [with_time] * 3
    empty(uploader(seen.spool, robot, server.url, uploads_at_once=1))
    told = [request.headers.get(wire.ROBOT_CLOCK_HEADER) for request in server.requests]
    assert told[0] is None
    for field_ in told[1:]:
        assert field_ is not None
        clock = wire.RobotClock.parse_field(field_)
        assert abs(clock.offset_ns) <= clock.uncertainty_ns


def test_a_capped_link_carries_whole_bodies(
    tmp_path: Path, view: View, robot: Identity, server: ScriptedServer
) -> None:
    seen = view(tmp_path)
    added = seen.add(0, messages=2000)
    body = seen.body(added)
    empty(uploader(seen.spool, robot, server.url, max_upload_rate=200_000))
    (request,) = server.requests
    assert (request.body, request.headers["Content-Length"]) == (body, str(len(body)))
    assert base64.b64encode(hashlib.sha256(body).digest()).decode() in request.headers["Content-Digest"]
