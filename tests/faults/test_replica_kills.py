"""A replica dies at any request of a robot's, or at any that it makes of S3: what was acknowledged is there.

The robot is the edge's own code, each replica a process of its own, S3 a real one; the moments are requests, not times.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from dataset_catalog.storage import Storage
from edge.segment import sha256_of
from ingest_serve.bucket import Bucket
from ingest_serve.pieces import Pieces
from ingest_serve.registry import Registry, invite
from tests.edge.delivering import QuickDisk
from tests.faults.audited_robot import AuditedRobot
from tests.faults.campaign import is_soak, run_trials
from tests.faults.http_tap import PHASES, HttpTap, Phase, Strike, Tapped, any_request, nth, that
from tests.faults.replica import Replicas, new_lake
from tests.ingest_serve.conftest import s3_endpoint as s3_endpoint

PIECE = 1 << 16
LARGE = 4 * PIECE + 10_000
LIMIT_S = 20.0
A, T = TypeVar("A"), TypeVar("T")
Side = Literal["front", "behind"]  # between robots and replicas; between replicas and S3
SIDES: tuple[Side, ...] = ("front", "behind")
Scenario = Callable[["Field", AuditedRobot], Iterator[None]]


@dataclass
class Field:
    """Replicas between two taps, and a bucket that is looked at past all of it."""

    bucket: Bucket
    front: HttpTap
    behind: HttpTap
    replicas: Replicas
    kills: Counter[str] = field(default_factory=Counter)

    def robot(self, folder: Path, name: str) -> AuditedRobot:
        return AuditedRobot(folder, name, url=self.front.url, bucket=self.bucket, disk=QuickDisk())

    def tap(self, side: Side) -> HttpTap:
        return {"front": self.front, "behind": self.behind}[side]

    def kill(self, request: Tapped) -> None:
        """The replica whose request it is, or to which it went; another one takes its place."""
        self.kills[request.method] += 1
        self.replicas.replace(self.replicas.with_port(request.client_port, request.server_port))

    def have(self, number: int) -> None:
        """Let just so many replicas live."""
        for _ in range(number - len(self.replicas.pids)):
            self.replicas.start()
        for pid in self.replicas.pids[number:]:
            self.replicas.kill(pid)

    def disarm(self) -> None:
        self.front.disarm()
        self.behind.disarm()


@pytest.fixture(scope="module")
def lake(s3_endpoint: str) -> Storage:
    return new_lake(s3_endpoint)


@pytest.fixture(scope="module")
def field_(lake: Storage, s3_endpoint: str) -> Iterator[Field]:
    with (
        HttpTap(s3_endpoint) as behind,
        Replicas(lake, endpoint_url=behind.url, settings={"retry_after_s": 1}) as replicas,
        HttpTap(replicas.url) as front,
    ):
        yield Field(Bucket.open(lake), front, behind, replicas)


# -- what a robot does. A scenario yields before replicas die, and again when none does any more ---------------------


def whole(_: Field, robot: AuditedRobot) -> Iterator[None]:
    robot.enrol()
    robot.seal(300, seq=0, seed=0)
    robot.seal(PIECE, seq=1, seed=0)
    robot.seal_gap(seq=2)
    yield
    robot.deliver()
    yield
    robot.check()


def in_pieces(field_: Field, robot: AuditedRobot) -> Iterator[None]:
    """What was said to be durable stays so: each death costs one piece at most, which is sent again."""
    robot.enrol()
    robot.seal(LARGE, seq=0, stream="head", kind="video", seed=0)
    requests, deaths = len(field_.front.requests), field_.kills.total()
    yield
    robot.deliver()
    yield
    robot.check()
    sent = sum(one.length for one in field_.front.requests[requests:])
    assert sent <= LARGE + (field_.kills.total() - deaths) * PIECE


def conflicting(field_: Field, robot: AuditedRobot) -> Iterator[None]:
    """Another folder with the same identity, whose segment has the name of one that is stored."""
    robot.enrol()
    robot.seal(5000, seq=0, seed=0)
    robot.deliver()
    twin = field_.robot(robot.folder / "twin", robot.name)
    twin.enrol_as(robot)
    other = twin.seal(6000, seq=0, seed=1)
    yield
    twin.deliver()
    yield
    robot.check()
    ((item, reason),) = twin.spool.quarantined()
    assert item.sha256 == other.sha256
    assert "conflict" in reason
    kept = f"conflicts/{other.named(robot.name).key.removeprefix('raw/')}/{other.sha256}"
    assert robot.stored("conflicts") == [kept]
    found = field_.bucket.read(kept)
    assert found is not None
    assert sha256_of(found[1]) == found[0].attributes["sha256"] == other.sha256


def enrolling(field_: Field, robot: AuditedRobot) -> Iterator[None]:
    token = invite(Registry(field_.bucket), robot.name, now_ns=time.time_ns())
    yield
    identity = robot.enrol_with(token)
    yield
    assert Registry(field_.bucket).robots()[robot.name] == [identity.key_id]
    robot.seal(300, seq=0, seed=0)
    robot.deliver()
    robot.check()


def rotating(field_: Field, robot: AuditedRobot) -> Iterator[None]:
    old = robot.enrol()
    yield
    new = robot.rotate()
    yield
    assert Registry(field_.bucket).robots()[robot.name] == [new.key_id]
    robot.seal(300, seq=0, seed=0)
    robot.deliver()
    robot.check()
    for pid in list(field_.replicas.pids):
        field_.replicas.replace(pid)  # what a replica has looked up a moment ago it may trust a little longer
    assert robot.status_for(old) == 401
    assert robot.status_for(new) == 404, "an upload that there is not"


# -- when replicas die -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """When a replica is to die: at a phase of the request of that number, from 0 on, among those that match."""

    side: Side
    phase: Phase
    number: int = 0
    method: str = ""
    part: str = ""

    def arm(self, field_: Field) -> Strike:
        matches = that(self.method, self.part) if self.method else any_request
        return field_.tap(self.side).strike(nth(self.number, matches), self.phase, field_.kill)


def behind(phase: Phase, method: str, part: str, number: int = 0) -> Moment:
    return Moment("behind", phase, number, method, part)


CHOSEN: dict[Scenario, list[Moment]] = {
    whole: [
        Moment("front", "within", 2),
        Moment("front", "after", 1),
        behind("before", "PUT", "/raw/"),
        behind("within", "PUT", "/raw/", 2),
        behind("sent", "PUT", "/raw/", 2),
        behind("after", "PUT", "/raw/", 1),
    ],
    in_pieces: [
        Moment("front", "within", 2),
        Moment("front", "before", 3),  # between two pieces
        behind("after", "PUT", "/creation"),
        behind("after", "PUT", "/uploads/", 2),
        behind("within", "PUT", "/uploads/", 3),
        behind("within", "GET", "/0000000"),  # in the join
        behind("before", "PUT", "/raw/"),
        behind("sent", "PUT", "/raw/"),
        behind("before", "POST", "?delete"),  # between storing the whole and removing the pieces
        behind("before", "POST", "?delete", 1),
        behind("after", "POST", "?delete", 1),
    ],
    conflicting: [behind(phase, "PUT", "/conflicts/") for phase in ("before", "within", "after")],
    enrolling: [behind("after", "PUT", "/registry/", n) for n in (0, 1)],
    rotating: [behind("after", "PUT", "/registry/", n) for n in (0, 1)],
}


def every_moment(scenario: Scenario, field_: Field, folder: Path) -> list[Moment]:
    """All phases of all requests that a scenario comes to where nothing dies."""

    def counts() -> list[int]:
        return [len(field_.tap(side).requests) for side in SIDES]

    def made(before: list[int]) -> list[int]:
        return [after - first for first, after in zip(before, counts(), strict=True)]

    field_.have(1)
    robot = field_.robot(folder / "robot", name_for(scenario, folder.name))
    numbers = zip(SIDES, play(scenario, field_, robot, arm=counts, done=made), strict=True)
    return [Moment(side, phase, n) for side, number in numbers for n in range(number) for phase in PHASES]


def play(scenario: Scenario, field_: Field, robot: AuditedRobot, *, arm: Callable[[], A], done: Callable[[A], T]) -> T:
    """Run a scenario and check it. `arm` is called just before replicas may die, `done` just after, with its result."""
    acts = scenario(field_, robot)
    next(acts)
    armed = arm()
    next(acts)
    result = done(armed)
    field_.disarm()
    assert next(acts, None) is None
    check_nothing_is_left(field_, robot)
    return result


def check_nothing_is_left(field_: Field, robot: AuditedRobot) -> None:
    """No pieces of an upload that is done, but for one that S3 had taken from a dead replica, until it expires."""
    left = robot.stored("uploads")
    assert len(left) <= 1, left
    Pieces(field_.bucket).expire(before_ns=time.time_ns() + 2_000_000_000)
    assert robot.stored("uploads") == []


def name_for(scenario: Scenario, trial: object) -> str:
    return f"{scenario.__name__.replace('_', '-')}-{trial}"


@pytest.mark.parametrize("scenario", CHOSEN, ids=lambda one: one.__name__)
def test_a_replica_dies_at_a_request(field_: Field, tmp_path: Path, scenario: Scenario) -> None:
    """In a soak at every phase of every request, with one replica and with two."""
    moments = every_moment(scenario, field_, tmp_path / "rehearsal") if is_soak() else CHOSEN[scenario]
    for number, moment in enumerate(moments * (1 + is_soak())):
        field_.have(1 + number // len(moments))
        robot = field_.robot(tmp_path / str(number), name_for(scenario, number))
        try:
            strike = play(scenario, field_, robot, arm=lambda at=moment: at.arm(field_), done=lambda armed: armed)
        except Exception as error:
            raise AssertionError(f"{moment}, with {len(field_.replicas.pids)} replicas: {error}") from error
        assert strike.struck.wait(LIMIT_S), f"there was no such request: {moment}"
    print(f"{field_.kills.total()} kills until now: {dict(field_.kills)}")


def test_replicas_die_again_and_again(field_: Field, tmp_path: Path) -> None:
    """One to four times in a trial, one replica or two, at requests that a seed draws."""
    every = {scenario: every_moment(scenario, field_, tmp_path / scenario.__name__) for scenario in CHOSEN}

    def trial(seed: int, folder: Path) -> None:
        dice = random.Random(seed)
        field_.have(dice.randint(1, 2))
        scenario = dice.choice(list(CHOSEN))
        moments = dice.choices(every[scenario], k=dice.randint(1, 4))
        robot = field_.robot(folder / "robot", name_for(scenario, f"seed-{seed}"))
        play(scenario, field_, robot, arm=lambda: [one.arm(field_) for one in moments], done=lambda _: None)

    run_trials(trial, tmp_path, test=6, soak=300)
    print(f"{field_.kills.total()} kills until now: {dict(field_.kills)}")
