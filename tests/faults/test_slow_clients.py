"""Slow clients in numbers: all are closed in time, and meanwhile healthy robots hardly notice."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from edge.segment import MAGIC
from fleetfeed.demo.work import storage_of
from fleetfeed.stack import StackInfo
from tests.faults.campaign import is_soak
from tests.faults.hostile_clients import Address, Met, all_at_once, head, silent, trickling
from tests.faults.replica import Replicas, new_lake
from tests.front import running_front
from tests.ingest_serve.conftest import Clock, Robot, Server

MB = 1 << 20
EACH = 500 if is_soak() else 60  # slow headers, and slow bodies
GRACE_S, HEADERS_S, IDLE_S = (10, 10, 30) if is_soak() else (2, 2, 4)
LINGER_S = 2.0
SLACK_S = 30.0 if is_soak() else 10.0  # for a machine that has other things to do
ATTACK_S = max(IDLE_S, GRACE_S + LINGER_S) + 2 * SLACK_S
DECLARED = 3 * MB
BODIES_PER_ROBOT = 8
HEALTHY, HEALTHY_PAUSE_S = 4, 0.25
HEALTHY_BODY = MAGIC + bytes(300_000) + MAGIC
HEALTHY_LIMIT_S = 60.0  # `FLEETFEED_EDGE_TIMEOUT_S`


@dataclass
class Attacked:
    """A replica in a process of its own behind the TLS front, and robots that are known there."""

    server: Server
    url: str
    ca_file: Path
    robots: list[Robot]
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        tls = ssl.create_default_context(cafile=self.ca_file)
        self.address = Address(parts.hostname or "", parts.port or 0, tls)


@pytest.fixture(scope="module")
def attacked(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    lake = new_lake(s3_endpoint)
    settings = {"body_grace_s": GRACE_S}
    limits = {"headers_s": HEADERS_S, "idle_s": IDLE_S, "connections_per_source": 4096, "requests_per_source": 100_000}
    with Replicas(lake, endpoint_url=s3_endpoint, settings=settings) as replicas:
        replicas.start()
        server = Server(replicas.url, lake, Clock())
        robots = [server.new_robot(f"slow-{number:03d}") for number in range(-(-EACH // BODIES_PER_ROBOT))]
        with running_front(server.address[1], tmp_path_factory.mktemp("front"), **limits) as (url, ca_file):
            yield Attacked(server, url, ca_file, robots)


@pytest.fixture
def attacked_stack(stack: StackInfo, tmp_path: Path) -> Iterator[Attacked]:
    """The same under Serve, with its defaults."""
    server = Server(stack.http_url, storage_of(stack), Clock())
    robots = [server.new_robot(f"slow-{number:03d}") for number in range(-(-EACH // BODIES_PER_ROBOT))]
    with running_front(server.address[1], tmp_path, connections_per_source=4096, requests_per_source=100_000) as front:
        yield Attacked(server, *front, robots)


@dataclass
class Healthy:
    """Robots that upload all the time, each upload once; how the first try of each ended."""

    attacked: Attacked
    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def uploading(self) -> Iterator[None]:
        with ThreadPoolExecutor(HEALTHY) as pool:
            robots = [self.attacked.server.new_robot(f"{self.name}-{number}") for number in range(HEALTHY)]
            done = [pool.submit(self._upload_on, robot) for robot in robots]
            try:
                yield
            finally:
                self._stop.set()
            for one in done:
                one.result()

    def _upload_on(self, robot: Robot) -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(self.attacked.ca_file)
            for seq in range(1_000_000):
                self.outcomes[self._first_try(session, robot, seq)] += 1
                if self._stop.wait(HEALTHY_PAUSE_S):
                    return

    def _first_try(self, session: requests.Session, robot: Robot, seq: int) -> str:
        upload = robot.upload(HEALTHY_BODY, seq=seq)
        url = self.attacked.url + upload.target
        began = time.monotonic()
        try:
            response = session.post(url, data=upload.body, headers=upload.headers, timeout=HEALTHY_LIMIT_S)
        except requests.RequestException as error:
            return type(error).__name__
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        return str(response.status_code)

    def assert_hardly_noticed(self) -> None:
        good = self.outcomes["201"] + self.outcomes["200"]
        print(f"healthy: {dict(self.outcomes)}, slowest {self.slowest_s:.1f} s")
        assert good >= 20
        assert good >= 0.95 * self.outcomes.total(), self.outcomes


Client = Coroutine[Any, Any, Met]


def slow_headers(attacked: Attacked) -> list[Client]:
    opening = head("POST", attacked.robots[0].target(kind="video"), {})[:-2] + b"X-Slow: "
    return [trickling(attacked.address, opening, drop=b"x", every_s=0.5, limit_s=ATTACK_S) for _ in range(EACH)]


def slow_bodies(attacked: Attacked) -> list[Client]:
    """Each is rightly signed, and comes with 20 bytes a second."""
    openings = [body_opening(attacked.robots[number // BODIES_PER_ROBOT], seq=number) for number in range(EACH)]
    return [trickling(attacked.address, opening, drop=bytes(10), every_s=0.5, limit_s=ATTACK_S) for opening in openings]


def body_opening(robot: Robot, *, seq: int, sent: int = 1000) -> bytes:
    upload = robot.upload(MAGIC + bytes(DECLARED), seq=seq, kind="video")
    fields = {**upload.headers, "Content-Length": str(len(upload.body))}
    return head(upload.method, upload.target, fields) + upload.body[:sent]


def test_many_slow_clients_are_closed_in_time_and_the_healthy_hardly_notice(attacked: Attacked) -> None:
    assert_borne(attacked)


@pytest.mark.stack
@pytest.mark.skipif(not is_soak(), reason="a soak's: the limits of a deployment take their time")
def test_many_slow_clients_are_closed_in_time_under_serve_too(attacked_stack: Attacked) -> None:
    assert_borne(attacked_stack)


def assert_borne(attacked: Attacked) -> None:
    healthy = Healthy(attacked, "patient")
    with healthy.uploading():
        met = all_at_once([*slow_headers(attacked), *slow_bodies(attacked)])
    headers, bodies = met[:EACH], met[EACH:]
    print(f"headers: {told(headers)}; bodies: {told(bodies)}")
    assert all(one.closed for one in met)
    assert max(one.seconds for one in headers) < HEADERS_S + SLACK_S
    assert max(one.seconds for one in bodies) < GRACE_S + LINGER_S + SLACK_S
    assert {one.status for one in headers} <= {0, 408}
    assert {one.status for one in bodies} <= {408, 503}
    assert Counter(one.status for one in bodies)[408] >= EACH // 2
    healthy.assert_hardly_noticed()


def told(met: list[Met]) -> str:
    return f"{dict(Counter(one.status for one in met))}, at most {max(one.seconds for one in met):.1f} s"


def test_clients_that_say_nothing_are_closed_in_time(attacked: Attacked) -> None:
    bare = replace(attacked.address, tls=None)
    met = all_at_once([silent(address, limit_s=ATTACK_S) for address in (attacked.address, bare) for _ in range(10)])
    assert all(one.closed for one in met)
    assert max(one.seconds for one in met) < max(HEADERS_S, IDLE_S) + SLACK_S


def test_one_robot_does_not_take_the_place_of_others(attacked: Attacked) -> None:
    greedy = attacked.server.new_robot("greedy")
    openings = [body_opening(greedy, seq=number) for number in range(40)]
    healthy = Healthy(attacked, "modest")
    with healthy.uploading():
        met = all_at_once(
            [trickling(attacked.address, one, drop=b"x", every_s=0.5, limit_s=ATTACK_S) for one in openings]
        )
    statuses = Counter(one.status for one in met)
    assert statuses[429] >= 40 - 16
    assert statuses[408] >= 1
    healthy.assert_hardly_noticed()
