"""A replica's memory under attack: the most that its process ever held is what it may, by its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge.segment import MAGIC
from fleetfeed.demo.work import storage_of
from fleetfeed.stack import StackInfo
from tests.faults.campaign import is_soak
from tests.faults.hostile_clients import CHUNK, Address, Met, all_at_once, head, pushing
from tests.faults.redeploying import replicas
from tests.faults.replica import Replicas, new_lake
from tests.faults.storage_proxy import Asked, Hang, StorageProxy
from tests.ingest_serve.conftest import Clock, Robot, Server, Upload, wait_until

MB = 1 << 20
LARGEST = 64 * MB if is_soak() else 8 * MB
CAP = 256 * MB if is_soak() else 32 * MB
BODY_BYTES = CAP - max(LARGEST, CAP // 4)
CONNECTIONS = 500 if is_soak() else 100
LIMIT_S = 60.0  # a client ends before, when it is closed
STALLED_S = 20.0 if is_soak() else 5.0
PER_CONNECTION = 320 << 10  # uvicorn reads 64 KiB ahead, and what it gets in one piece on top of it
OVERHEAD = 64 * MB
ROBOTS = 32
BODY = MAGIC + bytes(3 * MB) + MAGIC


@dataclass
class Watched:
    """One replica in a process of its own."""

    server: Server
    pid: int
    robots: list[Robot]

    @property
    def address(self) -> Address:
        return Address(*self.server.address)

    def now(self, what: str = "VmRSS") -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{what}:"))

    def most_while(self, attack: Callable[[], list[Met]]) -> tuple[int, list[Met]]:
        """How much more than before its process held at the worst moment of an attack, in bytes; what clients met."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # the worst moment begins anew
        before = self.now()
        met = attack()
        return self.now("VmHWM") - before, met


@pytest.fixture(scope="module")
def proxy(s3_endpoint: str) -> Iterator[StorageProxy]:
    with StorageProxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def watched(s3_endpoint: str, proxy: StorageProxy) -> Iterator[Watched]:
    """Its S3 goes by way of `proxy`."""
    lake = new_lake(s3_endpoint)
    settings = {"max_telemetry_bytes": LARGEST, "max_video_bytes": LARGEST, "max_bytes_in_flight": CAP}
    with Replicas(lake, endpoint_url=proxy.url, settings=settings) as started:
        pid = started.start()
        yield warmed_up(Watched(Server(started.url, lake, Clock()), pid, []))


@pytest.fixture
def watched_serve(stack: StackInfo) -> Watched:
    """The replica under Serve, with its defaults."""
    (replica,) = replicas(stack)
    return warmed_up(Watched(Server(stack.http_url, storage_of(stack), Clock()), replica.pid, []))


def warmed_up(watched: Watched) -> Watched:
    watched.robots += [watched.server.new_robot(f"g1-{number:03d}") for number in range(ROBOTS)]
    one = watched.robots[0]
    assert one.send(one.upload(BODY, kind="video")).status_code in (200, 201)
    return watched


def head_of(upload: Upload, **fields: str) -> bytes:
    return head(upload.method, upload.target, {**upload.headers, **fields})


def attack(
    watched: Watched,
    openings: Sequence[bytes],
    *,
    bytes_each: int = 1 << 40,
    chunk: bytes = CHUNK,
    limit_s: float = LIMIT_S,
) -> list[Met]:
    """Each over a connection of its own: an opening, and then so many bytes as fast as they are taken."""
    limits = {"limit_s": limit_s, "bytes_max": bytes_each}
    return all_at_once([pushing(watched.address, opening, chunk=chunk, **limits) for opening in openings])  # type: ignore[arg-type]


UNSIGNED = {
    "without a length": {"Transfer-Encoding": "chunked"},
    "of a terabyte": {"Content-Length": str(1 << 40)},
    "without a token": {"Content-Length": str(LARGEST)},
    "by a stranger": {"Content-Length": str(LARGEST), "Authorization": "Bearer e30.e30.e30"},
}


@pytest.mark.parametrize("case", UNSIGNED)
def test_a_body_that_nobody_may_send_fills_no_memory(watched: Watched, case: str) -> None:
    upload = watched.robots[0].upload(kind="video").changed(Authorization=None)
    openings = [head_of(upload, **UNSIGNED[case])] * CONNECTIONS
    chunk = b"10000\r\n" + CHUNK + b"\r\n" if case == "without a length" else CHUNK
    most, met = watched.most_while(lambda: attack(watched, openings, chunk=chunk))
    assert most < OVERHEAD + CONNECTIONS * PER_CONNECTION
    assert {one.status for one in met} & {401, 411, 413}
    assert {one.status for one in met} <= {0, 401, 411, 413}  # 0: a reset came before the answer was read
    assert all(one.closed for one in met)


def test_more_bytes_than_were_declared_fill_no_memory(watched: Watched) -> None:
    uploads = [robot.upload(seq=seq, kind="video") for robot in watched.robots for seq in (1, 2, 3)]
    openings = [head_of(one, **{"Content-Length": str(len(one.body))}) + one.body for one in uploads]
    most, met = watched.most_while(lambda: attack(watched, openings))
    assert most < OVERHEAD + len(openings) * PER_CONNECTION
    assert {one.status for one in met} & {201, 400}
    assert all(one.closed for one in met)


def test_bodies_that_come_while_a_key_is_looked_up_wait_outside(watched: Watched, proxy: StorageProxy) -> None:
    proxy.schedule = stalled("GET")
    strangers = [Robot(watched.server, f"h1-{number:03d}", watched.robots[0].key) for number in range(CONNECTIONS)]
    openings = [head_of(one.upload(kind="video"), **{"Content-Length": str(LARGEST)}) for one in strangers]
    most, met = watched.most_while(lambda: attack(watched, openings, limit_s=STALLED_S))
    proxy.heal()
    assert most < OVERHEAD + CONNECTIONS * PER_CONNECTION
    assert {one.status for one in met} <= {0, 503}


def test_bodies_that_wait_for_a_stalled_s3_hold_no_more_than_they_may(watched: Watched, proxy: StorageProxy) -> None:
    """The last one, for the process keeps some of what it has held."""
    proxy.schedule = stalled("PUT")
    uploads = large_uploads(watched)
    most, met = watched.most_while(lambda: attack(watched, uploads, bytes_each=0, limit_s=STALLED_S))
    proxy.heal()
    statuses = Counter(one.status for one in met)
    assert statuses[503] + statuses[429] >= 1
    assert statuses[201] == 0
    assert BODY_BYTES // 2 < most < CAP + OVERHEAD + len(uploads) * PER_CONNECTION
    robot = watched.robots[1]
    later = robot.upload(BODY, seq=100, kind="video")
    wait_until(lambda: robot.send(later).status_code == 201, limit_s=60)  # what it had sent before may still be tried


@pytest.mark.stack
@pytest.mark.skipif(not is_soak(), reason="a soak's: with the defaults, 800 MB are sent")
def test_more_bodies_than_a_replica_may_hold_do_not_fill_it_under_serve(watched_serve: Watched) -> None:
    uploads = large_uploads(watched_serve)
    most, met = watched_serve.most_while(lambda: attack(watched_serve, uploads, bytes_each=0))
    print(f"{len(uploads)} bodies: {Counter(one.status for one in met)}; at most {most >> 20} MiB more")
    assert most < CAP + OVERHEAD + len(uploads) * PER_CONNECTION
    assert len(uploads) * len(BODY) > 1.5 * (CAP + OVERHEAD + len(uploads) * PER_CONNECTION)


def large_uploads(watched: Watched) -> list[bytes]:
    uploads = [
        robot.upload(BODY, seq=seq, kind="video")
        for robot in watched.robots
        for seq in range(11, 19 if is_soak() else 14)
    ]
    return [head_of(one, **{"Content-Length": str(len(BODY))}) + BODY for one in uploads]


def stalled(method: str) -> Callable[[Asked], Hang | None]:
    return lambda asked: Hang() if asked.method == method else None
