"""All uploads of a robot together keep under the cap, share it fairly, and stop when they are told to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from edge.pacing import BURST_S, MAX_BLOCK_BYTES, PacedBody, Pacer, UploadStopped

if TYPE_CHECKING:
    from tests.edge.conftest import ScriptedServer

LIMIT_S = 20.0
NEVER = threading.Event()


class Time:
    """A clock that runs on only when all `threads` wait for it."""

    def __init__(self, threads: int = 1) -> None:
        self.now_s = 0.0
        self._threads = threads
        self._deadlines: list[float] = []
        self._turn = threading.Condition()

    def wait(self, _stop: threading.Event, seconds: float) -> None:
        with self._turn:
            deadline = self.now_s + seconds
            self._deadlines.append(deadline)
            self._go_on()
            assert self._turn.wait_for(lambda: self.now_s >= deadline, LIMIT_S)

    def leave(self) -> None:
        """One thread will wait no more."""
        with self._turn:
            self._threads -= 1
            self._go_on()

    def _go_on(self) -> None:
        if self._deadlines and len(self._deadlines) == self._threads:
            self.now_s = min(self._deadlines)
            self._deadlines = [one for one in self._deadlines if one > self.now_s]
            self._turn.notify_all()

    def pacer(self, max_bytes_per_s: int) -> Pacer:
        return Pacer(max_bytes_per_s, clock=lambda: self.now_s, wait=self.wait)


def _read_all(body: PacedBody, size: int = 16384, each: Callable[[bytes], object] = lambda _: None) -> bytes:
    blocks: list[bytes] = []
    while block := body.read(size):
        each(block)
        blocks.append(block)
    return b"".join(blocks)


def _sent_at(time_: Time, pacer: Pacer, takes: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Take so many bytes after a pause each; when each went."""
    sent = []
    for pause_s, size in takes:
        time_.now_s += pause_s
        assert pacer.take(size)
        sent.append((time_.now_s, size))
    return sent


takes = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.03, 0.5, 7.0]), st.integers(0, 3000)), min_size=1, max_size=30)


@given(takes, st.sampled_from([1000, 10_000, 1_000_000]))
def test_in_any_stretch_of_time_no_more_goes_than_the_cap_allows(takes: list[tuple[float, int]], rate: int) -> None:
    time_ = Time()
    sent = _sent_at(time_, time_.pacer(rate), takes)
    for first in range(len(sent)):
        total = 0
        for at_s, size in sent[first:]:
            assert total <= rate * (at_s - sent[first][0] + BURST_S) + 1e-3
            total += size


@given(takes, st.sampled_from([1000, 10_000]))
def test_the_cap_is_used_to_the_full(takes: list[tuple[float, int]], rate: int) -> None:
    time_ = Time()
    sent = _sent_at(time_, time_.pacer(rate), [(0.0, size) for _, size in takes])
    before = sum(size for _, size in sent[:-1])
    assert sent[-1][0] == pytest.approx(max(0.0, before / rate - BURST_S))


def test_a_pause_earns_a_burst_of_a_tenth_of_a_second_and_no_more() -> None:
    time_ = Time()
    sent = _sent_at(time_, time_.pacer(1000), [(60.0, 100), (0.0, 100), (0.0, 100)])
    assert [at_s for at_s, _ in sent] == pytest.approx([60.0, 60.0, 60.1])


def test_without_a_cap_nothing_waits_and_no_clock_is_read() -> None:
    def never(*_: object) -> float:
        raise AssertionError("there is nothing to wait for")

    pacer = Pacer(0, clock=never, wait=never)
    body = PacedBody(bytes(200_000), pacer=pacer, stop=NEVER)
    assert len(body.read(1 << 20)) == MAX_BLOCK_BYTES
    assert len(_read_all(body, 1 << 20)) == 200_000 - MAX_BLOCK_BYTES


def test_two_threads_share_the_cap_evenly() -> None:
    time_ = Time(threads=2)
    pacer, rate = time_.pacer(10_000), 10_000
    gone: list[tuple[str, int]] = []

    def upload(name: str) -> None:
        _read_all(PacedBody(bytes(20_000), pacer=pacer, stop=NEVER), each=lambda block: gone.append((name, len(block))))
        time_.leave()

    threads = [threading.Thread(target=upload, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert sum(size for _, size in gone) == 40_000
    assert time_.now_s == pytest.approx(40_000 / rate - BURST_S, abs=0.2)
    # the bucket's time makes them take turns; the first few are what each finds in the full bucket
    turns = [name for name, _ in gone[4:-4]]
    assert sum(one == other for one, other in pairwise(turns)) <= len(turns) // 10


def test_a_low_cap_goes_in_small_blocks() -> None:
    time_ = Time()
    pacer = time_.pacer(10_000)
    sizes: list[int] = []
    data = bytes(range(256)) * 20
    assert _read_all(PacedBody(data, pacer=pacer, stop=NEVER), each=lambda block: sizes.append(len(block))) == data
    assert sizes == [1000] * 5 + [120]
    assert time_.now_s == pytest.approx(0.4)


@pytest.mark.parametrize(("rate", "block"), [(0, MAX_BLOCK_BYTES), (10**9, MAX_BLOCK_BYTES), (100_000, 10_000), (5, 1)])
def test_a_block_is_a_tenth_of_a_second_and_64_kib_at_most(rate: int, block: int) -> None:
    assert Pacer(rate).block_bytes == block


def test_a_cap_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes_per_s must be >= 0, got -1"):
        Pacer(-1)


def test_a_wait_that_ends_early_is_gone_on_with() -> None:
    now_s = 0.0

    def nap(_stop: threading.Event, seconds: float) -> None:
        nonlocal now_s
        now_s += max(seconds / 2, 1e-6)

    pacer = Pacer(1000, clock=lambda: now_s, wait=nap)
    pacer.take(1000)
    pacer.take(1)
    assert now_s >= 1.0 - BURST_S


# -- the body --------------------------------------------------------------------------------------------------


def test_a_range_of_a_file_is_read_without_moving_the_file(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(bytes(range(200)))
    with (tmp_path / "segment").open("rb") as file:
        file.seek(7)
        body = PacedBody(file, pacer=Pacer(0), stop=NEVER, start=50, size=100)
        assert len(body) == 100
        assert body.read(30) == bytes(range(50, 80))
        assert body.sent == 30
        assert _read_all(body, 30) == bytes(range(80, 150))
        assert (body.sent, len(body), file.tell()) == (100, 100, 7)


@pytest.mark.parametrize("make", [bytes, memoryview])
def test_a_range_of_memory_is_read(make: Callable[[bytes], bytes | memoryview]) -> None:
    body = PacedBody(make(bytes(range(100))), pacer=Pacer(0), stop=NEVER, start=90)
    assert len(body) == 10
    assert _read_all(body, 3) == bytes(range(90, 100))


@pytest.mark.parametrize(("start", "size"), [(-1, None), (0, 11), (5, 6), (11, None), (0, -1)])
def test_a_range_outside_of_the_source_is_refused(start: int, size: int | None) -> None:
    with pytest.raises(ValueError, match="must lie within 10 bytes"):
        PacedBody(bytes(10), pacer=Pacer(0), stop=NEVER, start=start, size=size)


def test_a_file_that_became_shorter_breaks_the_upload(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(bytes(100))
    with (tmp_path / "segment").open("rb+") as file:
        body = PacedBody(file, pacer=Pacer(0), stop=NEVER)
        file.truncate(40)
        with pytest.raises(OSError, match="ended 60 bytes before"):
            _read_all(body)


def test_requests_sends_it_whole_with_its_length(server: ScriptedServer, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "segment").write_bytes(data)
    server.script = [lambda _: server.json(200, {})]
    with requests.Session() as session, (tmp_path / "segment").open("rb") as file:
        body = PacedBody(file, pacer=Pacer(0), stop=NEVER, start=1000, size=200_000)
        assert session.post(f"{server.url}/x", data=body, timeout=LIMIT_S).status_code == 200
    assert server.requests[0].body == data[1000:201_000]
    assert server.requests[0].headers["Content-Length"] == "200000"
    assert "Transfer-Encoding" not in server.requests[0].headers
    assert body.sent == 200_000


def test_requests_sends_an_empty_body_with_its_length(server: ScriptedServer) -> None:
    server.script = [lambda _: server.json(200, {})]
    with requests.Session() as session:
        session.post(f"{server.url}/x", data=PacedBody(b"", pacer=Pacer(0), stop=NEVER), timeout=LIMIT_S)
    assert server.requests[0].headers["Content-Length"] == "0"


def test_a_stop_ends_the_wait_of_a_slow_upload(server: ScriptedServer, until: Callable[..., None]) -> None:
    stop = threading.Event()
    body = PacedBody(bytes(100_000), pacer=Pacer(10), stop=stop)  # by itself it would take hours
    failed: list[Exception] = []

    def upload() -> None:
        try:
            requests.post(f"{server.url}/x", data=body, timeout=LIMIT_S)
        except requests.ConnectionError as error:
            failed.append(error)

    thread = threading.Thread(target=upload)
    thread.start()
    until(lambda: body.sent >= 1)
    stop.set()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert "told to stop after" in str(failed[0])
    assert body.sent < 100


def test_nothing_more_is_read_once_the_upload_is_to_stop() -> None:
    stop = threading.Event()
    body = PacedBody(bytes(100), pacer=Pacer(0), stop=stop)
    body.read(10)
    stop.set()
    with pytest.raises(UploadStopped, match="told to stop after 10 of 100 bytes"):
        body.read(10)


def test_a_stop_ends_even_the_longest_wait_for_the_bucket() -> None:
    stop, pacer, may_go = threading.Event(), Pacer(1000), []
    pacer.take(10**9)  # the next byte may go in eleven days
    thread = threading.Thread(target=lambda: may_go.append(pacer.take(1, stop=stop)), daemon=True)
    thread.start()
    stop.set()
    thread.join(LIMIT_S)
    assert may_go == [False]
