"""S3 is down, slow or wrong while a fleet records: nothing is acknowledged that is not there, nothing is lost.

The robots' code and the server's are the real ones, over real sockets; for both, five or ten seconds pass in one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import requests

from dataset_catalog.storage import Storage
from edge.segment import MAGIC
from ingest_serve.bucket import Bucket
from ingest_serve.errors import NotStored
from tests.edge.delivering import QuickDisk
from tests.faults.audited_robot import AuditedRobot
from tests.faults.campaign import is_soak
from tests.faults.replica import Replicas, new_lake
from tests.faults.simulated_fleet import SCALE, SERVER, Fleet
from tests.faults.storage_proxy import (
    CONFLICT,
    FORBIDDEN,
    INTERNAL_ERROR,
    PRECONDITION_FAILED,
    SLOW_DOWN,
    Asked,
    Cut,
    CutBefore,
    Delay,
    Hang,
    Lie,
    LoseAnswer,
    SayError,
    Schedule,
    StorageProxy,
    Throttle,
    Truncate,
    shares,
)
from tests.ingest_serve.conftest import Clock, Robot, Server, refusal, wait_until

ROBOTS = 200 if is_soak() else 40
FAULT_S = 600 if is_soak() else 80  # of the robots' seconds
RESUMES_S = 60.0  # a limit for a machine that has much else to do; the report tells what it took
REPEATED = 2  # tries of a segment that fail while S3 is there again, or errs by chance
MIB = 1 << 20
MANY = 60  # bodies of 1 MiB at once: more than a replica takes
OVERHEAD_BYTES = 48 * MIB  # what a replica may take beside the bodies, which are held and sent on,
CONNECTION_BYTES = 128 << 10  # and for each connection
LATE_SHARE = 0.005  # of the answers may come too late: the machine may have much else to do


def is_create(asked: Asked) -> bool:
    return asked.method == "PUT"


BAD = ("down", "hangs", "slow down", "conflicts", "forbidden")  # with these nothing gets through
FAULTS: dict[str, Schedule | None] = {
    "down": None,
    "hangs": lambda _: Hang(),
    "slow down": lambda _: SLOW_DOWN,
    "conflicts": shares(0, {CONFLICT: 1.0}, only=is_create),
    "forbidden": lambda _: FORBIDDEN,
    "slow": shares(0, {Delay(1.0): 0.5, Throttle(200_000.0): 0.5}),
    "anything": shares(
        0,
        {
            SLOW_DOWN: 0.1,
            INTERNAL_ERROR: 0.1,
            CONFLICT: 0.1,
            PRECONDITION_FAILED: 0.1,
            FORBIDDEN: 0.05,
            LoseAnswer(): 0.1,
            SayError(INTERNAL_ERROR): 0.05,
            SayError(SLOW_DOWN): 0.05,
            CutBefore(): 0.05,
            Cut(0.0): 0.05,
            Cut(0.5): 0.05,
            Truncate(0.5): 0.05,
            Delay(0.5): 0.05,
        },
        only=is_create,
    ),
}


@dataclass
class Memory:
    """The most that a process was seen to take above what it took at first."""

    process: psutil.Process
    first: int = 0
    most: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Memory:
        self.first = self.most = self.process.memory_info().rss
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    @property
    def grown(self) -> int:
        return self.most - self.first

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, self.process.memory_info().rss)


@dataclass
class Site:
    """One replica, its bad S3, and a bucket that is looked at past it."""

    lake: Storage
    storage: StorageProxy
    replicas: Replicas
    pid: int
    bucket: Bucket = field(init=False)
    max_bytes_in_flight: int = int(SERVER["max_bytes_in_flight"])

    def __post_init__(self) -> None:
        self.bucket = Bucket.open(self.lake)

    @property
    def url(self) -> str:
        return self.replicas.url

    def fail(self, name: str) -> None:
        schedule = FAULTS[name]
        if schedule is None:
            self.storage.refuse()
        else:
            self.storage.schedule = schedule

    def most_memory(self, connections: int) -> int:
        """How much a replica may grow that takes all it may."""
        return 2 * self.max_bytes_in_flight + OVERHEAD_BYTES + connections * CONNECTION_BYTES

    def memory(self) -> Memory:
        return Memory(psutil.Process(self.pid))


@pytest.fixture(scope="module")
def a_site(s3_endpoint: str) -> Iterator[Site]:
    lake = new_lake(s3_endpoint)
    with (
        StorageProxy(s3_endpoint) as storage,
        Replicas(lake, endpoint_url=storage.url, settings=SERVER) as replicas,
    ):
        yield Site(lake, storage, replicas, replicas.start())


@pytest.fixture
def site(a_site: Site) -> Iterator[Site]:
    yield a_site
    a_site.storage.heal()
    assert psutil.pid_exists(a_site.pid), "the replica was to live through all of it"


def live_through(site: Site, folder: Path, faults: Sequence[str]) -> Fleet:
    """Let a fleet record and upload while these faults come, one after another, and then until all is delivered."""
    folder.mkdir()
    probe = AuditedRobot(folder / "probe", f"{folder.name}-probe", url=site.url, bucket=site.bucket, disk=QuickDisk())
    probe.enrol()
    fleet = Fleet.enrolled(folder, robots=ROBOTS, url=site.url, bucket=site.bucket)
    with fleet.at_work(), site.memory() as memory:
        wait_until(lambda: fleet.delivered > ROBOTS or bool(fleet.failures), limit_s=60)
        for name in faults:
            site.fail(name)
            time.sleep(FAULT_S / SCALE / len(faults))  # so long it lasts: there is nothing to wait for
            site.storage.heal()
        probe.seal(1000, seq=0, seed=0)
        healed_s = time.monotonic()
        probe.deliver(limit_s=RESUMES_S)
        resumed_s = time.monotonic() - healed_s
        fleet.stop_recording()
        waited = fleet.recorded - fleet.delivered
        drained_s = fleet.wait_until_delivered(limit_s=1200 if is_soak() else 60)
    fleet.check()
    print(
        f"{', '.join(faults)}: {fleet.recorded} recorded, {waited} of them waited when S3 was back and were delivered"
        f" in {drained_s:.1f} s, what came new after {resumed_s:.2f} s;"
        f" answers {dict(fleet.answers)}; {memory.grown / MIB:.0f} MiB more memory"
    )
    assert memory.grown <= site.most_memory(2 * ROBOTS)
    return fleet


@pytest.mark.parametrize("name", FAULTS if is_soak() else [])
def test_ten_minutes_of_one_fault_lose_nothing(
    site: Site, memory_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet = live_through(site, memory_path / name.replace(" ", "-"), [name])
    _check_answers(fleet, capfd)


def test_one_fault_after_another_loses_nothing(
    site: Site, memory_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet = live_through(site, memory_path / "all", list(FAULTS))
    _check_answers(fleet, capfd)


def _check_answers(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    """The robots heard of every fault in time, from the server itself, and did not storm it."""
    answers = fleet.answers
    assert set(answers) <= {200, 201, 204, 404, 409, 429, 503, "broken"}
    assert answers["broken"] <= LATE_SHARE * answers.total()
    for robot in fleet.robots:
        tries = 2 * (12 + FAULT_S / 25)  # two at once; the wait grows to a minute
        assert robot.answers.failed <= tries + len(robot.expected) * REPEATED
    said = capfd.readouterr()
    if is_soak():
        with capfd.disabled():
            print(said.out)
    assert "Traceback" not in said.err


@pytest.mark.parametrize("name", BAD)
def test_who_asks_while_s3_is_bad_is_told_to_come_again(site: Site, name: str) -> None:
    by_hand = Server(site.url, site.lake, Clock()).new_robot(name.replace(" ", "-"))
    site.fail(name)
    with ThreadPoolExecutor(3) as pool:
        upload = pool.submit(by_hand.send, by_hand.upload())
        ready, alive = (pool.submit(requests.get, site.url + path, timeout=20) for path in ("/readyz", "/healthz"))
    assert refusal(upload.result()) == (503, "storage_unavailable")
    assert upload.result().headers["Retry-After"] == str(SERVER["retry_after_s"])
    assert ready.result().status_code == (200 if name == "conflicts" else 503), "nobody conflicts with a listing"
    assert alive.result().status_code == 200, "it needs no restart"
    site.storage.heal()
    assert by_hand.send(by_hand.upload()).status_code in (200, 201), "at once"


def test_bodies_that_wait_for_an_s3_that_hangs_stay_within_what_a_replica_may_hold(site: Site) -> None:
    server = Server(site.url, site.lake, Clock())
    robots = [server.new_robot(f"many-{n}") for n in range(MANY)]
    body = MAGIC + bytes(MIB - 2 * len(MAGIC)) + MAGIC
    uploads = [robot.upload(body) for robot in robots]
    site.storage.schedule = shares(0, {Hang(): 1.0}, only=is_create)
    with site.memory() as memory, ThreadPoolExecutor(MANY) as pool:
        answers = Counter(refusal(one) for one in pool.map(Robot.send, robots, uploads))
    print(f"{answers}, {memory.grown / MIB:.0f} MiB more memory")
    assert set(answers) == {(503, "busy"), (503, "storage_unavailable")}
    assert memory.grown <= site.most_memory(MANY)
    assert site.bucket.names("raw/many-0") == []


def test_an_s3_that_says_stored_and_stores_nothing_is_found_out(site: Site, memory_path: Path) -> None:
    """No S3 does that. It shows that every acknowledgement above was looked up."""
    robot = AuditedRobot(memory_path, "lied-to", url=site.url, bucket=site.bucket, disk=QuickDisk())
    robot.enrol()
    item = robot.seal(1000, seq=0, seed=0)
    site.storage.schedule = shares(0, {Lie(): 1.0}, only=is_create)
    with pytest.raises(NotStored):
        robot.deliver(limit_s=20)
    assert robot.spool.data_path(item).exists()
