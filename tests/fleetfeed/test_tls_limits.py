"""What the TLS front bounds: slow headers, connections, requests, answers; and how it takes a new certificate."""

from __future__ import annotations

import selectors
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from fleetfeed import tls
from fleetfeed.certificates import Authority, ensure_server_certificate
from fleetfeed.processes import wait_until
from tests.fleetfeed.fronted import Front, heard
from tests.fleetfeed.witness import Witness, witness
from tests.front import front_process, running_front

SLOW = 500
LIMIT_S = 30.0
START = b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n"


@pytest.fixture
def behind() -> Iterator[Witness]:
    with witness() as one:
        yield one


def drip(connections: list[ssl.SSLSocket], *, limit_s: float) -> list[bytes]:
    """Send a byte on each every quarter of a second until it is closed; what each heard. Fails at the limit."""
    words = dict.fromkeys(connections, b"")
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
        deadline, next_s = time.monotonic() + limit_s, 0.0
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} connections are still open"
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + 0.25
                for key in list(selector.get_map().values()):
                    _send_one(key.fileobj)
            for key, _ in selector.select(0.05):
                if _is_closed(key.fileobj, words):
                    selector.unregister(key.fileobj)
    return list(words.values())


def _send_one(connection: object) -> None:
    assert isinstance(connection, ssl.SSLSocket)
    with suppress(OSError):  # closed: reading will tell
        connection.send(b"a")


def _is_closed(connection: object, words: dict[ssl.SSLSocket, bytes]) -> bool:
    assert isinstance(connection, ssl.SSLSocket)
    try:
        more = connection.recv(4096)
    except ssl.SSLWantReadError:
        return False
    except OSError:
        return True
    words[connection] += more
    return not more


def test_500_connections_whose_headers_come_byte_by_byte_are_closed_and_others_served(
    behind: Witness, tmp_path: Path
) -> None:
    with running_front(behind.port, tmp_path, headers_s=3, idle_s=60) as (url, ca_file), ExitStack() as opened:
        front = Front(url, ca_file, behind)
        context = ssl.create_default_context(cafile=ca_file)
        slow = [opened.enter_context(front.connect(context)) for _ in range(SLOW)]
        for connection in slow:
            connection.sendall(b"GET /slow HTTP/1.1\r\nX-A: ")
        assert front.request("GET", "/quick").status_code == 200
        answers = drip(slow, limit_s=LIMIT_S)
        assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers if answer)
        assert sum(bool(answer) for answer in answers) > SLOW / 2
    assert behind.targets == ["/quick"]


@pytest.mark.parametrize("speaks_tls", [False, True], ids=["before TLS", "after TLS"])
def test_a_connection_that_says_nothing_is_closed(behind: Witness, tmp_path: Path, speaks_tls: bool) -> None:
    with running_front(behind.port, tmp_path, headers_s=1, idle_s=1) as (url, ca_file):
        front = Front(url, ca_file, behind)
        with socket.create_connection(front.address) if not speaks_tls else front.connect() as silent:
            silent.settimeout(LIMIT_S)
            while silent.recv(4096):
                pass


def test_a_body_that_stops_coming_is_given_up(behind: Witness, tmp_path: Path) -> None:
    with running_front(behind.port, tmp_path, idle_s=1) as (url, ca_file):
        front = Front(url, ca_file, behind)
        with front.connect() as half:
            half.sendall(START + b"half")
            answer = heard(half)
    assert b"problem+json" in answer, answer
    assert behind.targets == ["/v1"]
    assert behind.seen[0].body == b"half"


def test_a_body_may_take_longer_than_an_answer(behind: Witness, tmp_path: Path) -> None:
    """The time for the answer begins when the request is there."""
    with (
        running_front(behind.port, tmp_path, answer_s=1, headers_s=1, idle_s=5) as (url, ca_file),
        Front(url, ca_file, behind).connect() as slow,
    ):
        slow.sendall(START)
        began = time.monotonic()
        for byte in b"slowly..":
            slow.sendall(bytes([byte]))
            time.sleep(0.2)  # the pace is what is tested
        assert time.monotonic() - began > 1.5
        assert slow.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert behind.seen[0].body == b"slowly.."


def is_let_in(front: Front) -> bool:
    try:
        with front.connect():
            return True
    except OSError:
        return False


def test_one_address_has_so_many_connections_and_gets_another_when_one_ends(behind: Witness, tmp_path: Path) -> None:
    with running_front(behind.port, tmp_path, connections_per_source=4) as (url, ca_file):
        front = Front(url, ca_file, behind)
        assert wait_until(lambda: is_let_in(front), limit_s=LIMIT_S)
        with ExitStack() as opened:
            for _ in range(4):
                opened.enter_context(front.connect())
            assert not is_let_in(front)
        assert wait_until(lambda: is_let_in(front), limit_s=LIMIT_S)


def test_one_address_sends_so_many_requests_and_then_is_told_to_wait(behind: Witness, tmp_path: Path) -> None:
    with running_front(behind.port, tmp_path, requests_per_source=5) as (url, ca_file):
        front = Front(url, ca_file, behind)
        statuses = [front.request("GET", f"/{number}").status_code for number in range(8)]
        assert statuses == [200] * 5 + [429] * 3
        refused = front.request("GET", "/again")
        assert refused.json()["code"] == "too_many_requests"
        assert int(refused.headers["Retry-After"]) > 0
    assert len(behind.seen) == 5


def test_more_connections_than_altogether_may_be_wait_for_one_to_end(behind: Witness, tmp_path: Path) -> None:
    with running_front(behind.port, tmp_path, connections=2) as (url, ca_file):
        front = Front(url, ca_file, behind)
        with ExitStack() as opened:
            for _ in range(2):
                opened.enter_context(front.connect())
            waiting = opened.enter_context(socket.create_connection(front.address))
            waiting.settimeout(0.5)
            with pytest.raises(TimeoutError):
                ssl.create_default_context(cafile=ca_file).wrap_socket(waiting, server_hostname="127.0.0.1")
        assert wait_until(lambda: is_let_in(front), limit_s=LIMIT_S)


def shown(front: Front) -> bytes | None:
    """The certificate that a new connection is shown."""
    with front.connect() as connection:
        return connection.getpeercert(binary_form=True)


def is_so_after_reload(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> bool:
    """Asked again where nothing comes of it: HAProxy's first process is deaf for a moment after it has started."""

    def asked() -> bool:
        tls.reload(process)
        return wait_until(condition, limit_s=3)

    return wait_until(asked, limit_s=LIMIT_S)


def test_a_new_certificate_is_taken_over_while_an_upload_goes_on(behind: Witness, tmp_path: Path) -> None:
    with front_process(behind.port, tmp_path) as (url, process):
        front = Front(url, tmp_path / "ca.pem", behind)
        with front.connect() as uploading:
            uploading.sendall(START + b"half")
            assert behind.came.wait(LIMIT_S)
            before = shown(front)
            (tmp_path / "server.pem").unlink()
            assert ensure_server_certificate(tmp_path)
            assert is_so_after_reload(process, lambda: shown(front) != before)
            uploading.sendall(b"rest")
            assert uploading.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert behind.seen[0].body == b"halfrest"


def test_a_certificate_that_cannot_be_read_leaves_the_front_as_it_was(behind: Witness, tmp_path: Path) -> None:
    with front_process(behind.port, tmp_path) as (url, process):
        front = Front(url, tmp_path / "ca.pem", behind)
        before = shown(front)
        (tmp_path / "server.pem").write_text("torn")
        log = tmp_path / "front.log"
        assert is_so_after_reload(process, lambda: "unable to load" in log.read_text())
        assert shown(front) == before
        assert Authority.in_folder(tmp_path)
