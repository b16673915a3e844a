"""What the robot takes for an answer: whole, small, and in time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests

from edge.answer import MAX_ANSWER_BYTES, read_answer

Answer = Callable[[socket.socket], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server that answers one request in this way, at the URL that is yielded."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                try:
                    answer(connection)
                except OSError:
                    return  # the client has gone, as it should

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        finally:
            thread.join(20)


def ask(url: str, *, limit_s: float = 20.0) -> requests.Response:
    return read_answer(requests.get(url, stream=True, timeout=10), limit_s=limit_s)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nkept",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nke\r\n2\r\npt\r\n0\r\n\r\n",
        b"HTTP/1.0 201 Created\r\n\r\nkept",
    ],
)
def test_an_answer_is_read_whole_however_it_tells_its_length(answer: bytes) -> None:
    with answering(lambda connection: connection.sendall(answer)) as url:
        response = ask(url)
    assert (response.status_code, response.content, response.text) == (201, b"kept", "kept")


def test_an_answer_to_head_is_empty_though_it_tells_a_length() -> None:
    told = b"HTTP/1.1 204 No Content\r\nUpload-Offset: 7\r\n\r\n"
    with answering(lambda connection: connection.sendall(told)) as url:
        response = read_answer(requests.head(url, stream=True, timeout=10), limit_s=20)
    assert (response.headers["Upload-Offset"], response.content) == ("7", b"")


def test_a_torn_answer_is_none() -> None:
    torn = b"HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\nkept"
    with (
        answering(lambda connection: connection.sendall(torn)) as url,
        pytest.raises(requests.ConnectionError, match="cut off"),
    ):
        ask(url)


def test_an_endless_answer_is_cut_off_after_64_kib() -> None:
    sent = 0

    def for_ever(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent += connection.send(b"x" * 4096)

    with answering(for_ever) as url, pytest.raises(requests.ConnectionError, match=f"longer than {MAX_ANSWER_BYTES}"):
        ask(url)
    assert sent < 64 << 20, "the connection was closed, whatever its buffers had taken"


def test_an_answer_that_trickles_is_cut_off_in_time() -> None:
    """Each byte comes well within the limit between two bytes; there are more than 200 s of them."""

    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        gone = threading.Event()
        while not gone.wait(0.02):
            connection.sendall(b"x")

    with answering(trickle) as url, pytest.raises(requests.ConnectionError, match="did not end in time"):
        ask(url, limit_s=0.3)
