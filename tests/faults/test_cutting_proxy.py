"""The bad link cuts after the byte it was told, on both sides, and counts what it carries."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.faults.cutting_proxy import Cut, CuttingProxy, Direction

LIMIT_S = 10.0
MIB = 1 << 20


class TakingServer:
    """Takes `expects` bytes of each connection, answers with `answer`, and remembers what came and how it ended."""

    def __init__(self) -> None:
        self.expects, self.answer = 100_000, b"a" * 50_000
        self.reads = threading.Event()
        self.reads.set()
        self.came: list[bytearray] = []
        self.was_reset: list[bool | None] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # connections that it accepts have it too
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.came.append(bytearray())
            self.was_reset.append(None)
            threading.Thread(target=self._take, args=(connection, len(self.came) - 1), daemon=True).start()

    def _take(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(LIMIT_S)
        self.reads.wait(LIMIT_S)
        with connection:
            try:
                while len(self.came[number]) < self.expects and (piece := connection.recv(MIB)):
                    self.came[number] += piece
                connection.sendall(self.answer)
                while connection.recv(MIB):
                    pass
            except (ConnectionResetError, BrokenPipeError):
                self.was_reset[number] = True
            else:
                self.was_reset[number] = False

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed already
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def server() -> Iterator[TakingServer]:
    one = TakingServer()
    yield one
    one.close()


@pytest.fixture
def proxy(server: TakingServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(server.url) as one:
        yield one


def connect(proxy: CuttingProxy) -> socket.socket:
    parts = urlsplit(proxy.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=LIMIT_S)


def ask(proxy: CuttingProxy, body: bytes, *, answer_bytes: int = 50_000) -> tuple[bytes, bool]:
    """Send a body and read its answer: what came back, and whether the connection was reset."""
    came = bytearray()
    try:
        with connect(proxy) as client:
            with contextlib.suppress(OSError):  # the cut may come before all is sent
                client.sendall(body)
            while len(came) < answer_bytes and (piece := client.recv(MIB)):
                came += piece
    except ConnectionResetError:
        return bytes(came), True
    return bytes(came), False


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


def test_a_good_link_changes_nothing_and_counts_both_ways(server: TakingServer, proxy: CuttingProxy) -> None:
    body, server.answer = os.urandom(3 * MIB), os.urandom(2 * MIB)
    server.expects = len(body)
    for _ in range(2):
        assert ask(proxy, body, answer_bytes=2 * MIB) == (server.answer, False)
    assert server.came == [body, body]
    assert [(one.up, one.down, one.was_cut) for one in proxy.connections] == [(3 * MIB, 2 * MIB, False)] * 2
    assert (proxy.up_bytes, proxy.down_bytes) == (6 * MIB, 4 * MIB)
    until(lambda: server.was_reset == [False, False])


@pytest.mark.parametrize("after", [1, 511, 65_536, 70_001, 99_999])
def test_the_server_has_exactly_the_bytes_before_the_cut(server: TakingServer, proxy: CuttingProxy, after: int) -> None:
    body = os.urandom(100_000)
    proxy.cut(up=after)
    assert ask(proxy, body) == (b"", True)
    until(lambda: server.was_reset == [True])
    assert server.came == [body[:after]]
    assert [(one.up, one.down, one.was_cut) for one in proxy.connections] == [(after, 0, True)]
    assert ask(proxy, body) == (server.answer, False), "the next connection passes"


def test_a_cut_waits_for_a_server_that_is_slow_to_read(server: TakingServer, proxy: CuttingProxy) -> None:
    server.reads.clear()
    proxy.cut(up=90_000)
    with connect(proxy) as client:
        client.sendall(b"x" * 100_000)
        until(lambda: proxy.up_bytes == 90_000)
        server.reads.set()
        until(lambda: server.was_reset == [True])
    assert len(server.came[0]) == 90_000


@pytest.mark.parametrize("after", [0, 1, 12, 49_999])
def test_the_client_has_exactly_the_bytes_before_the_cut_and_the_server_all_of_its_own(
    server: TakingServer, proxy: CuttingProxy, after: int
) -> None:
    body = os.urandom(100_000)
    proxy.cut(down=after)
    assert ask(proxy, body) == (server.answer[:after], True)
    until(lambda: server.was_reset == [True])
    assert server.came == [body]
    assert [(one.up, one.down) for one in proxy.connections] == [(100_000, after)]
    assert ask(proxy, body) == (server.answer, False)


def test_the_end_of_one_direction_is_passed_on_while_the_other_goes_on(
    server: TakingServer, proxy: CuttingProxy
) -> None:
    with connect(proxy) as client:
        client.sendall(b"short")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(MIB, socket.MSG_WAITALL) == server.answer
    assert server.came == [b"short"]


def test_a_cut_at_the_first_byte_reaches_no_server(server: TakingServer, proxy: CuttingProxy) -> None:
    proxy.cut(up=0, connections=2)
    for _ in range(2):
        assert ask(proxy, b"x" * 100_000) == (b"", True)
    assert server.came == []
    assert ask(proxy, b"x" * 100_000) == (server.answer, False)


def test_a_link_may_cut_every_connection_by_its_number(server: TakingServer, proxy: CuttingProxy) -> None:
    places = [random.Random(number).randint(1, 100_000 - 1) for number in range(5)]
    proxy.cut_each(lambda number: Cut(up=places[number]))
    for _ in places:
        assert ask(proxy, b"x" * 100_000)[1]
    assert [one.up for one in proxy.connections] == places
    assert proxy.up_bytes == sum(places)
    proxy.heal()
    assert not ask(proxy, b"x" * 100_000)[1]


def test_a_connection_that_stays_open_is_cut_when_told(server: TakingServer, proxy: CuttingProxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x" * 10)
        until(lambda: server.came == [b"x" * 10])
        proxy.cut_now()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    until(lambda: server.was_reset == [True])
    assert not ask(proxy, b"x" * 100_000)[1]


def test_a_link_that_is_off_refuses_and_comes_back(server: TakingServer, proxy: CuttingProxy) -> None:
    proxy.is_off = True
    assert ask(proxy, b"x" * 100_000) == (b"", True)
    assert server.came == []
    proxy.is_off = False
    assert ask(proxy, b"x" * 100_000) == (server.answer, False)


def test_a_slow_link_is_still_carrying_when_the_first_bytes_are_there(
    server: TakingServer, proxy: CuttingProxy
) -> None:
    proxy.bytes_per_s = 2000
    with connect(proxy) as client:
        client.sendall(b"x" * 100_000)
        until(lambda: proxy.up_bytes)
        assert proxy.up_bytes <= 10_000, "100 kB take 50 s at this rate"
        proxy.heal()
        until(lambda: len(server.came[0]) == 100_000)


def test_a_delayed_piece_is_held_until_its_time(server: TakingServer, proxy: CuttingProxy) -> None:
    proxy.delay_s = 1000.0
    with connect(proxy) as client:
        client.sendall(b"x" * 100)
        until(lambda: proxy.held == 1)
        assert proxy.up_bytes == 0
        assert server.came == [b""]
        proxy.delay_s = 0.0
        until(lambda: server.came == [b"x" * 100])


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_side_that_resets_is_told_to_the_other(
    server: TakingServer, proxy: CuttingProxy, direction: Direction
) -> None:
    linger = b"\1\0\0\0\0\0\0\0"
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        CuttingProxy(f"http://127.0.0.1:{listening.getsockname()[1]}") as other,
        connect(other) as client,
    ):
        accepted, _ = listening.accept()
        with accepted:
            client.sendall(b"x")
            assert accepted.recv(1) == b"x"
            gone, left = (client, accepted) if direction == "up" else (accepted, client)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            gone.close()
            left.settimeout(LIMIT_S)
            with pytest.raises(ConnectionResetError):
                left.recv(1)


def test_no_server_behind_it_is_a_reset(server: TakingServer) -> None:
    server.close()
    with CuttingProxy(server.url) as proxy:
        assert ask(proxy, b"x") == (b"", True)


def test_a_target_without_a_port_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a URL with host and port, got 'nowhere'"):
        CuttingProxy("nowhere")


def test_many_connections_at_once_are_kept_apart(server: TakingServer, proxy: CuttingProxy) -> None:
    proxy.cut(up=10_000, connections=10)
    results: list[tuple[bytes, bool]] = []
    asking = [threading.Thread(target=lambda: results.append(ask(proxy, b"x" * 100_000))) for _ in range(30)]
    for one in asking:
        one.start()
    for one in asking:
        one.join(LIMIT_S)
    assert sorted(was_cut for _, was_cut in results) == [False] * 20 + [True] * 10
    assert sorted(one.up for one in proxy.connections) == [10_000] * 10 + [100_000] * 20
