"""One bit changes between server and S3, or in an answer: nothing wrong is stored, nothing right is given up."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge import wire
from edge.segment import MAGIC
from ingest_serve.settings import IngestSettings
from tests.edge.delivering import QuickDisk
from tests.faults.audited_robot import AuditedRobot
from tests.faults.campaign import run_trials
from tests.faults.flipped_requests import Right, bits
from tests.faults.storage_proxy import FORBIDDEN, Asked, Fault, Flip, FlipAnswer, LoseAnswer, StorageProxy
from tests.ingest_serve.conftest import RECORDING, START_NS, Robot, Server, serve
from tests.ingest_serve.conftest import storage as storage
from tests.ingest_serve.resuming import Resuming

PIECE = 1 << 14
HEAD = 1200  # more bytes than the head of a request here has
ANSWER = 700  # and more than an answer of the server has


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[StorageProxy]:
    with StorageProxy(s3_endpoint) as one:
        yield one


@pytest.fixture
def server(storage: Any, proxy: StorageProxy) -> Iterator[Server]:
    """A server that reaches S3 through the proxy; its own `bucket` is S3 itself."""
    behind = replace(storage, settings=storage.settings.model_copy(update={"endpoint_url": proxy.url}))
    with serve(behind, IngestSettings(storage_timeout_s=2.0)) as running:
        yield Server(running.url, storage, running.clock)


def facts_of(robot: Robot, body: bytes, kind: wire.Kind) -> dict[str, str]:
    return {
        "Content-Type": wire.MCAP_TYPE,
        "kind": kind,
        "sha256": hashlib.sha256(body).hexdigest(),
        "start-ns": str(START_NS),
        "end-ns": str(START_NS + 10_000_000_000),
        "key-id": robot.kid,
    }


def first_put(flip: Fault, what: str) -> Callable[[Asked], Fault | None]:
    """The first write of each object comes to this, if its key is a match."""
    return lambda asked: flip if asked.method == "PUT" and re.search(what, asked.key) and asked.nth == 0 else None


def test_a_bit_that_changes_on_the_way_to_s3_is_never_stored(server: Server, proxy: StorageProxy) -> None:
    robot, right = server.new_robot(), Right()
    refused = 0
    for n, bit in enumerate(bits(HEAD, test=60)):
        body = MAGIC + b"%08d" % n + MAGIC
        key = wire.SegmentId(robot.name, RECORDING, "telemetry", n).key
        right.add(key, body, facts=facts_of(robot, body, "telemetry"))
        proxy.schedule = first_put(Flip(bit.at, bit.bit), "/raw/")
        first = robot.send(robot.upload(body, seq=n)).status_code
        refused += first == 503
        assert first in (201, 503)
        assert any(robot.send(robot.upload(body, seq=n)).status_code in (200, 201) for _ in range(3)), (
            "then it is right"
        )
    assert refused > 30
    assert len(right.check(server.bucket, roots=("raw", "conflicts", "uploads"))) == n + 1


def finish(upload: Resuming) -> None:
    """As a robot does: ask where it stands, and go on from there."""
    statuses = []
    for _ in range(5):
        offset = upload.offset()
        begin = offset is None
        response = upload.create() if begin else upload.append(offset or 0, len(upload.body), complete=True)
        statuses.append(response.status_code)
        if response.status_code in ((200,) if begin else (200, 201)):
            return
    raise AssertionError(f"not finished: {statuses}")


@pytest.mark.parametrize("what", ["/creation$", "/0{12}$"], ids=["the creation", "a piece"])
def test_a_bit_of_a_piece_that_changes_on_the_way_to_s3_is_never_stored(
    server: Server, proxy: StorageProxy, what: str
) -> None:
    robot, right = server.new_robot(), Right()
    for n, bit in enumerate(bits(HEAD, test=15)):
        upload = Resuming(robot, MAGIC + b"%08d" % n + MAGIC, seq=n)
        proxy.schedule = first_put(Flip(bit.at, bit.bit), what)
        right.add(
            wire.SegmentId(robot.name, RECORDING, "telemetry", n).key,
            upload.body,
            facts=facts_of(robot, upload.body, "video"),
        )
        assert any(upload.create(upload.body[:10]).status_code == 201 for _ in range(4))
        assert upload.offset() in (0, 10)
        finish(upload)
    right.check(server.bucket, roots=("raw", "conflicts", "uploads"))


def test_a_key_that_changed_on_the_way_from_s3_is_not_kept(server: Server, proxy: StorageProxy) -> None:
    """A replica keeps keys for an hour: with a wrong one it would lock the robot out for as long."""
    chosen = list(bits(ANSWER, test=25))
    robots = [server.new_robot(f"robot-{n}") for n in range(len(chosen))]
    for robot, bit in zip(robots, chosen, strict=True):
        flip = FlipAnswer(bit.at, bit.bit)
        name = f"/{robot.name}/keys/"
        first = len(proxy.seen)
        proxy.schedule = lambda asked, flip=flip, name=name: flip if name in asked.key else None  # type: ignore[misc]
        assert robot.send(robot.upload()).status_code in (201, 503)
        assert any(one.fault for one in proxy.seen[first:]), "the key was to be looked up"
        proxy.heal()
        assert any(robot.send(robot.upload(seq=1)).status_code == 201 for _ in range(3))


def test_a_piece_that_changed_on_the_way_from_s3_is_never_joined(
    server: Server, proxy: StorageProxy, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The joined whole has another digest: it is refused, its pieces go, and the robot begins anew."""
    monkeypatch.setattr("edge.retry.retry_after", lambda _: 0.01)
    robot = AuditedRobot(memory_path / "robot", "robot", url=server.url, bucket=server.bucket, disk=QuickDisk())
    robot.enrol()
    changed = 0
    for n, bit in enumerate(bits(PIECE, test=6)):
        robot.seal(2 * PIECE, seq=n, kind="video", seed=n)
        flip, first = FlipAnswer(ANSWER + bit.at, bit.bit), len(proxy.seen)
        proxy.schedule = lambda asked, flip=flip: (  # type: ignore[misc]
            flip if asked.method == "GET" and re.search(r"/\d{12}$", asked.key) and asked.nth == 0 else None
        )
        robot.deliver(piece_bytes=PIECE)
        changed += any(one.fault for one in proxy.seen[first:])
    assert changed == n + 1
    assert robot.answers.counts[400] > 0, "the digest was compared"
    robot.check()
    assert robot.stored("uploads") == []


# -- what comes back ---------------------------------------------------------------------------------------------------


class Behind:
    """A robot with the edge's code, whose way to the server is a proxy of its own."""

    def __init__(self, folder: Path, server: Server, front: StorageProxy, name: str = "robot") -> None:
        self.robot = AuditedRobot(folder, name, url=server.url, bucket=server.bucket, disk=QuickDisk())
        self.robot.enrol()
        self.robot.url = front.url


@pytest.fixture
def front(server: Server) -> Iterator[StorageProxy]:
    with StorageProxy(server.url) as one:
        yield one


def test_a_receipt_of_which_a_bit_has_changed_frees_nothing_by_mistake(
    server: Server, front: StorageProxy, memory_path: Path
) -> None:
    robot = Behind(memory_path / "robot", server, front).robot
    for n, bit in enumerate(bits(ANSWER, test=30)):
        robot.seal(500, seq=n, seed=n)
        number = len(front.seen)
        front.schedule = lambda _, bit=bit, number=number: (  # type: ignore[misc]
            FlipAnswer(bit.at, bit.bit) if len(front.seen) == number else None
        )
        robot.deliver(limit_s=20)
    robot.check()
    for item in robot.spool.acknowledged(RECORDING):
        assert robot.expected[item.named(robot.name).key] == item


def test_a_refusal_of_the_moment_of_which_a_bit_has_changed_gives_nothing_up(
    server: Server, proxy: StorageProxy, front: StorageProxy, memory_path: Path
) -> None:
    robot = Behind(memory_path / "robot", server, front).robot
    proxy.schedule = lambda asked: FORBIDDEN if asked.method == "PUT" else None
    item = robot.seal(500, seq=0, seed=0)
    for bit in bits(ANSWER, test=25):
        front.schedule = lambda _, bit=bit: FlipAnswer(bit.at, bit.bit)  # type: ignore[misc]
        outcome = robot.uploader()._try(item.stem)  # one try, without what a robot waits after it
        assert outcome.end == "again"
        assert list(robot.spool.waiting()) == [item]
    assert robot.spool.data_path(item).exists()
    assert not robot.spool.quarantined()


# -- all of it at once -------------------------------------------------------------------------------------------------


def changes(seed: int, share: float) -> Callable[[Asked], Fault | None]:
    """A bit of some requests or answers changes, of two alike that follow each other at most one's."""

    def draw(asked: Asked) -> Fault | None:
        dice = random.Random(f"{seed} {asked.method} {asked.key} {asked.query} {asked.nth}")
        if asked.nth % 2 or dice.random() > share:
            return None
        head = dice.random() < 0.5
        at, bit = dice.randrange(ANSWER if head else HEAD + asked.length), dice.randrange(8)
        return dice.choice([FlipAnswer(at, bit), Flip(at, bit), LoseAnswer()])

    return draw


def test_whatever_bits_change_all_arrives_as_it_was(
    server: Server,
    proxy: StorageProxy,
    front: StorageProxy,
    memory_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.retry.retry_after", lambda _: 0.01)  # a robot that does not wait for seconds

    def trial(seed: int, folder: Path) -> None:
        robot = Behind(folder / "robot", server, front, f"robot-{seed}").robot
        for seq in range(4):
            robot.seal(600, seq=seq, seed=seed)
        robot.seal_gap(seq=4)
        robot.seal(3 * PIECE - 100, seq=0, stream="head", kind="video", seed=seed)
        front.schedule, proxy.schedule = changes(seed, 0.5), changes(seed, 0.5)
        robot.deliver(limit_s=60, piece_bytes=PIECE)
        front.heal()
        proxy.heal()
        robot.check()

    run_trials(trial, memory_path, test=2, soak=200)
