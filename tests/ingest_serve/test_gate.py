"""What is ambiguous or encoded is refused before a handler sees it; whoever is answered early hears it, and no more."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
import requests
from starlette.types import Message, Receive, Scope, Send

from ingest_serve.errors import Refused
from ingest_serve.gate import LINGER_BYTES, Gate, check_fields
from tests.ingest_serve.conftest import BODY, Robot, Server, Upload, refusal, wait_until
from tests.ingest_serve.resuming import Resuming

ONCE = [
    "Authorization",
    "Content-Digest",
    "Content-Type",
    "Fleetfeed-Robot-Clock",
    "Fleetfeed-Robot-Time-Ns",
    "Host",
    "Repr-Digest",
    "Upload-Complete",
    "Upload-Length",
    "Upload-Offset",
]


def sent(server: Server, upload: Upload, *, lines: list[str], body: bytes) -> bytes:
    """All that comes back for a request with these lines added to its head."""
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(head_of(upload, lines=lines) + body)
        return connection.makefile("rb").read()


def head_of(upload: Upload, *, lines: list[str]) -> bytes:
    head = [
        f"{upload.method} {upload.target} HTTP/1.1",
        *(f"{name}: {value}" for name, value in upload.headers.items()),
    ]
    return "\r\n".join([*head, *lines, "", ""]).encode()


class TestFields:
    @pytest.mark.parametrize("name", ONCE)
    def test_a_field_that_comes_twice_is_refused_whatever_it_says(
        self, server: Server, robot: Robot, name: str
    ) -> None:
        piece = Resuming(robot, BODY).piece(0, 10)
        value = piece.headers.get(name, "x")
        lines = [f"Content-Length: {len(piece.body)}", "Host: x", "Connection: close"]
        lines += [f"{name}: {value}"] * (1 if name in piece.headers or name == "Host" else 2)
        answer = sent(server, piece, lines=lines, body=piece.body)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b'"code":"bad_parameter"' in answer
        assert f'"parameter":"{name.lower()}"'.encode() in answer
        assert server.stored() == []

    def test_two_lengths_are_refused_by_the_http_parser(self, server: Server, robot: Robot) -> None:
        upload = robot.upload()
        lengths = [f"Content-Length: {len(BODY)}"] * 2
        assert sent(server, upload, lines=["Host: x", *lengths], body=BODY).startswith(b"HTTP/1.1 400")
        assert server.stored() == []

    def test_a_digest_field_with_two_digests_is_refused(self, server: Server, robot: Robot) -> None:
        upload = robot.upload()
        two = f"{upload.headers['Content-Digest']}, {robot.upload(b'other').headers['Content-Digest']}"
        assert refusal(robot.send(robot.signed(upload.changed(Content_Digest=two)))) == (400, "bad_digest")
        resumed = Resuming(robot, BODY)
        assert refusal(resumed.create(Repr_Digest=two)) == (400, "bad_digest")
        assert server.stored() == []

    @pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "GZIP", "identity, gzip", "", "x" * 10_000])
    def test_an_encoded_body_is_refused(self, server: Server, robot: Robot, coding: str) -> None:
        assert refusal(robot.send(robot.upload().changed(Content_Encoding=coding))) == (415, "unsupported_encoding")
        assert server.stored() == []

    def test_a_body_encoded_as_itself_is_taken(self, robot: Robot) -> None:
        assert robot.send(robot.upload().changed(Content_Encoding="Identity")).status_code == 201

    def test_other_fields_may_come_twice(self) -> None:
        check_fields([(b"x-forwarded-for", b"1"), (b"x-forwarded-for", b"2"), (b"content-type", b"a")])
        with pytest.raises(Refused):
            check_fields([(b"content-type", b"a"), (b"x-forwarded-for", b"1"), (b"content-type", b"a")])


class TestContinue:
    def test_a_robot_that_asks_first_is_told_to_go_on(self, server: Server, robot: Robot) -> None:
        upload = robot.upload()
        with socket.create_connection(server.address, timeout=20) as connection:
            lines = ["Host: x", f"Content-Length: {len(BODY)}", "Expect: 100-continue"]
            connection.sendall(head_of(upload, lines=lines))
            file = connection.makefile("rb")
            assert [file.readline(), file.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
            connection.sendall(BODY)
            assert file.readline().startswith(b"HTTP/1.1 201")

    def test_a_robot_that_asks_first_is_refused_without_its_body(
        self, server: Server, robot: Robot, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ingest_serve.gate.LINGER_S", 3600)  # nobody waits for what will not come
        upload = robot.upload().changed(Authorization=None)
        lines = ["Host: x", f"Content-Length: {len(BODY)}", "Expect: 100-continue"]
        answer = sent(server, upload, lines=lines, body=b"")  # ends: the connection is closed
        assert answer.startswith(b"HTTP/1.1 401")
        assert b"100 Continue" not in answer


class TestAnsweredEarly:
    def test_a_client_that_sends_on_sees_the_answer_and_not_a_reset(self, server: Server, robot: Robot) -> None:
        upload = robot.upload(bytes(3 << 20), kind="video").changed(Authorization=None)
        lines = ["Host: x", f"Content-Length: {len(upload.body)}"]
        answer = sent(server, upload, lines=lines, body=upload.body)  # raises where the connection is reset
        assert answer.startswith(b"HTTP/1.1 401")
        assert b"\r\nconnection: close\r\n" in answer
        response = requests.post(server.url + upload.target, data=upload.body, headers=upload.headers, timeout=20)
        assert refusal(response) == (401, "no_token")

    def test_a_client_that_sends_without_end_is_cut_off(self, server: Server, robot: Robot) -> None:
        lines = ["Host: x", f"Content-Length: {1 << 40}"]
        with socket.create_connection(server.address, timeout=20) as connection:
            connection.sendall(head_of(robot.upload(), lines=lines))
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 413")
            assert pushed(connection) < 8 * LINGER_BYTES

    def test_a_connection_whose_body_was_read_is_kept(self, server: Server, robot: Robot) -> None:
        with requests.Session() as session:
            for seq in (0, 0, 1):
                upload = robot.upload(seq=seq)
                response = session.post(
                    server.url + upload.target, data=upload.body, headers=upload.headers, timeout=20
                )
                assert response.status_code in (200, 201)
                assert "Connection" not in response.headers

    def test_a_client_that_vanishes_frees_what_it_held_at_once(
        self, held: Callable[[], int], server: Server, robot: Robot
    ) -> None:
        upload = robot.upload(bytes(1 << 20), kind="video")
        with socket.create_connection(server.address, timeout=20) as connection:
            connection.sendall(head_of(upload, lines=["Host: x", f"Content-Length: {1 << 20}"]) + bytes(1 << 19))
            wait_until(lambda: held() >= 1 << 19, limit_s=20)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close: RST
        wait_until(lambda: held() == 0, limit_s=2)


def pushed(connection: socket.socket) -> int:
    """How many bytes of a body without end go before the other side closes."""
    sent = 0
    try:
        while sent < 1 << 30:
            sent += connection.send(bytes(1 << 16))
    except ConnectionError:
        pass
    return sent


class TestSlowReaders:
    def test_an_answer_that_nobody_reads_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ingest_serve.gate.ANSWER_S", 0.05)
        begun = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            begun.append(True)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

        async def unread(message: Message) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        async def never() -> Message:
            raise AssertionError("there is no body to read")

        with pytest.raises(TimeoutError):
            asyncio.run(Gate(answer, retry_after_s=1)({"type": "http", "headers": []}, never, unread))
        assert begun
