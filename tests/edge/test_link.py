"""The way to the server: what each request carries, what its answer tells, and who waits for what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import signing, wire
from edge.identity import KEY_FILE, NEXT_FILE, OLD_FILE, ROBOT_FILE, Identity, load
from edge.link import Link
from edge.pacing import BURST_S, Pacer
from edge.settings import EdgeSettings
from tests.edge.delivering import DeliveringRobot, enrol
from tests.edge.ingest_double import ROBOT, URL, Asked, IngestDouble, Said

RECORDING = "01J00000000000000000000000"
HOUR_NS = 3_600 * 10**9
TARGET = f"/v1/robots/{ROBOT}/uploads/{'0' * 32}"
Until = Callable[..., None]


@pytest.fixture
def robot(tmp_path: Path, key: Ed25519PrivateKey) -> DeliveringRobot:
    return DeliveringRobot(tmp_path / "robot", key)


def link_of(robot: DeliveringRobot, key: Ed25519PrivateKey, *, stop: threading.Event | None = None) -> Link:
    settings = EdgeSettings(folder=robot.spool.folder, url=URL)
    session = robot.server.session
    return Link(Identity(ROBOT, key), settings, stop=stop or threading.Event(), session=session, clock=robot.clock)


def key_ids(server: IngestDouble) -> list[str]:
    """Of the keys that signed the requests, in order."""
    tokens = (one.headers["Authorization"].removeprefix("Bearer ") for one in server.asked)
    return [signing.token_key_id(token) for token in tokens]


def kid(key: Ed25519PrivateKey) -> str:
    return signing.key_id(signing.public_bytes(key.public_key()))


# -- the robot's clock -----------------------------------------------------------------------------------------


def test_the_robots_clock_is_told_once_it_is_known(robot: DeliveringRobot, key: Ed25519PrivateKey) -> None:
    link = link_of(robot, key)
    robot.server.clock = lambda: time.time_ns() + 5 * 10**9
    for _ in range(3):
        link.send("HEAD", TARGET)
    first, *later = [one.headers.get(wire.ROBOT_CLOCK_HEADER) for one in robot.server.asked]
    assert first is None
    for told in later:
        assert told is not None
        clock = wire.RobotClock.parse_field(told)
        assert abs(clock.offset_ns - 5 * 10**9) <= clock.uncertainty_ns


def test_a_clock_that_the_server_calls_wrong_signs_by_the_servers(robot: DeliveringRobot) -> None:
    added = [robot.seen.add(seq) for seq in range(3)]
    robot.clock = lambda: time.time_ns() - 9 * HOUR_NS
    uploader = robot.deliver()
    assert [one.code for one in robot.server.said if one and one.status == 401] == ["clock"]
    assert robot.spool.acknowledged(RECORDING) == added
    assert uploader.state.clock_offset_ns == pytest.approx(9 * HOUR_NS, abs=60 * 10**9)
    assert uploader.state.alarms == [], "a clock that is wrong costs nothing, and is told elsewhere"


@pytest.mark.parametrize("step_ns", [2 * HOUR_NS, -30 * HOUR_NS, 9 * HOUR_NS])
def test_steps_of_the_robots_clock_do_not_matter_once_the_servers_time_is_known(
    robot: DeliveringRobot, step_ns: int
) -> None:
    """It was nine hours slow, and is then set: right, or anything else."""
    offset_ns = [-9 * HOUR_NS]
    robot.clock = lambda: time.time_ns() + offset_ns[0]

    def step(asked: Asked) -> Said:
        said = robot.server.do(asked)
        offset_ns[0] += step_ns
        return said

    for seq in range(4):
        robot.seen.add(seq)
    robot.server.script = [robot.server.do, robot.server.do, step]
    robot.deliver()
    assert [one.status for one in robot.server.said if one] == [401, 201, 201, 201, 201]


def test_the_servers_own_time_may_change_too(robot: DeliveringRobot) -> None:
    robot.clock = lambda: time.time_ns() - 9 * HOUR_NS
    for seq in range(2):
        robot.seen.add(seq)

    def step(asked: Asked) -> Said:
        said = robot.server.do(asked)
        robot.server.clock = lambda: time.time_ns() + HOUR_NS
        return said

    robot.server.script = [robot.server.do, step]
    robot.deliver()
    assert [one.status for one in robot.server.said if one] == [401, 201, 401, 201]


# -- the robot's key -------------------------------------------------------------------------------------------


def test_a_key_that_was_replaced_meanwhile_is_taken(robot: DeliveringRobot, key: Ed25519PrivateKey) -> None:
    added, new = robot.seen.add(0), Ed25519PrivateKey.generate()
    uploader = robot.uploader()
    enrol(robot.spool.folder, new)
    robot.server.keys = [new.public_key()]
    uploader.run(threading.Event(), until_empty=True)
    assert key_ids(robot.server) == [kid(key), kid(new)]
    assert robot.spool.acknowledged(RECORDING) == [added]


@pytest.mark.parametrize("other", [OLD_FILE, NEXT_FILE])
def test_a_key_that_the_server_does_not_know_gives_way_to_the_other_one(
    robot: DeliveringRobot, key: Ed25519PrivateKey, other: str
) -> None:
    added, unknown = robot.seen.add(0), Ed25519PrivateKey.generate()
    folder = robot.spool.folder
    (folder / KEY_FILE).rename(folder / other)
    enrol(folder, unknown)
    uploader = robot.uploader()
    uploader.link.identity = load(folder)
    uploader.run(threading.Event(), until_empty=True)
    assert key_ids(robot.server) == [kid(unknown), kid(key)]
    assert robot.spool.acknowledged(RECORDING) == [added]
    assert load(folder).key_id == kid(key)


def test_a_robot_without_a_key_that_counts_keeps_trying_and_tells(
    robot: DeliveringRobot, key: Ed25519PrivateKey, until: Until
) -> None:
    added = robot.seen.add(0)
    robot.server.keys = []
    (robot.spool.folder / ROBOT_FILE).unlink()
    with robot.running() as uploader:
        until(lambda: len(robot.server.asked) >= 4)
        assert list(robot.spool.waiting()) == [added]
        assert uploader.state.alarms == ["the server does not let this robot in: unknown_key: as told"]
        robot.server.keys = [key.public_key()]
        until(lambda: robot.spool.acknowledged(RECORDING) == [added])


# -- who waits -------------------------------------------------------------------------------------------------


def test_one_item_that_always_fails_does_not_hold_up_the_others(robot: DeliveringRobot, until: Until) -> None:
    added = [robot.seen.add(seq) for seq in range(12)]

    def fail_the_first(asked: Asked) -> Said:
        return robot.server.problem(500, "internal_error") if asked.name[2] == 0 else robot.server.do(asked)

    robot.server.script = [fail_the_first] * 10_000
    with robot.running() as uploader:
        until(lambda: list(robot.spool.waiting()) == [added[0]])
        until(lambda: sum(one.name[2] == 0 for one in robot.server.asked) >= 3)
        seqs = [one.name[2] for one in robot.server.asked]
        assert seqs[0] == 0
        assert max(seqs.index(seq) for seq in range(1, 12)) < 11 + seqs.count(0)
        robot.server.script.clear()
        until(lambda: not list(robot.spool.waiting()))
    assert uploader.state.uploaded == 12


def test_a_link_that_is_down_is_not_tried_with_every_item(robot: DeliveringRobot, until: Until) -> None:
    for seq in range(50):
        robot.seen.add(seq)
    robot.server.script = [robot.server.cut] * 10_000
    began_s = time.monotonic()
    with robot.running(max_backoff_s=60) as uploader:
        until(lambda: uploader.state.failures_in_a_row >= 3)
        tries, passed_s = len(robot.server.asked), time.monotonic() - began_s
    assert tries <= 3 + passed_s / 0.25, "each failure in a row waits longer: 0.25 s at least"
    assert len({one.name for one in robot.server.asked}) == 1, "the most valuable goes first, always"


def test_a_wait_that_was_asked_for_is_not_cut_short_by_another_failure(robot: DeliveringRobot, until: Until) -> None:
    """Two are on their way: the server asks the one to come back in an hour, and then fails with the other."""
    for seq in range(3):
        robot.seen.add(seq)
    uploader = robot.uploader(uploads_at_once=2)

    def fail_later(_: Asked) -> Said:
        until(lambda: uploader._link_free_s > time.monotonic() + 3000)
        return robot.server.problem(500, "internal_error")

    robot.server.script = [robot.server.refuse(503, "busy", Retry_After="3600"), fail_later]
    stop = threading.Event()
    working = threading.Thread(target=uploader.run, args=(stop,))
    working.start()
    try:
        until(lambda: len(robot.server.said) == 2 and not uploader._running)
        assert uploader._link_free_s > time.monotonic() + 3000
    finally:
        stop.set()
        working.join(20)
    assert len(robot.server.asked) == 2


@pytest.mark.parametrize("field", ["soon", "-5", "Wed, 21 Oct 2026 07:28:00 GMT", "1e9", "nan"])
def test_a_wait_that_makes_no_sense_is_the_usual_one(robot: DeliveringRobot, field: str) -> None:
    added = robot.seen.add(0)
    robot.server.script = [robot.server.refuse(503, "busy", Retry_After=field)]
    robot.deliver()
    assert robot.spool.acknowledged(RECORDING) == [added]


@pytest.mark.parametrize("code", ["not_found", "method_not_allowed"])
def test_a_server_without_our_routes_costs_nothing_and_is_told(robot: DeliveringRobot, code: str) -> None:
    """A wrong path in the URL, or a server that is too old: that is not the segments' fault."""
    added = [robot.seen.add(seq) for seq in range(2)]
    robot.server.script = [robot.server.refuse(404, code)] * 3
    uploader = robot.deliver()
    assert robot.spool.acknowledged(RECORDING) == added
    assert robot.spool.quarantined() == []
    assert uploader.state.alarms == [f"{URL} takes no uploads: {code}: as told"]


def test_an_answer_that_sends_us_elsewhere_is_not_followed(robot: DeliveringRobot) -> None:
    added = robot.seen.add(0)
    robot.server.script = [lambda _: Said(307, b"", {"Location": f"{URL}/elsewhere"})]
    robot.deliver()
    assert {one.target.partition("?")[0] for one in robot.server.asked} == {f"/v1/robots/{ROBOT}/telemetry"}
    assert robot.spool.acknowledged(RECORDING) == [added]


# -- how much --------------------------------------------------------------------------------------------------


def test_two_uploads_together_stay_below_the_cap(robot: DeliveringRobot) -> None:
    rate = 400_000
    added = [robot.seen.add(seq, messages=15_000) for seq in range(3)]
    assert sum(one.bytes for one in added) > rate // 2
    began_s = time.monotonic()
    robot.deliver(uploads_at_once=2, max_upload_rate=rate, piece_bytes=1 << 16)
    assert sorted(one.seq for one in robot.spool.acknowledged(RECORDING)) == [0, 1, 2]
    assert sum(size for _, size in robot.server.blocks) == sum(one.bytes for one in added)
    came, slack = 0, 2 * Pacer(rate).block_bytes
    for at_s, size in sorted(robot.server.blocks):
        came += size
        assert came <= rate * (at_s - began_s + BURST_S) + slack


def test_a_paced_upload_ends_soon_when_it_is_told_to_stop(robot: DeliveringRobot, until: Until) -> None:
    """At this rate it would take an hour."""
    robot.seen.add(0, messages=15_000)
    with robot.running(max_upload_rate=1_000 // 30) as uploader:
        until(lambda: robot.server.blocks)
    assert len(list(robot.spool.waiting())) == 1
    assert uploader._piece_bytes == uploader._settings.piece_bytes, "it is not the link that was cut"


# -- the session -----------------------------------------------------------------------------------------------


def test_each_thread_keeps_a_connection_of_its_own(robot: DeliveringRobot, key: Ed25519PrivateKey) -> None:
    made: list[requests.Session] = []

    def session() -> requests.Session:
        made.append(robot.server.session())
        return made[-1]

    settings = EdgeSettings(folder=robot.spool.folder, url=URL)
    link = Link(Identity(ROBOT, key), settings, stop=threading.Event(), session=session)
    together = threading.Barrier(3, timeout=20)

    def twice(_: int) -> None:
        together.wait()
        for _ in range(2):
            link.send("HEAD", TARGET)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(twice, range(3)))
    assert len(made) == 3
    assert len(robot.server.asked) == 6


def test_the_certificate_authority_of_the_settings_is_the_one_that_counts(
    robot: DeliveringRobot, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/somewhere/else.pem")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    told = []

    class Server(IngestDouble):
        def send(self, request: requests.PreparedRequest, *_: object, **named: object) -> requests.Response:
            told.append((named["verify"], named["proxies"]))
            return super().send(request)

    server = Server(key.public_key())
    settings = EdgeSettings(folder=robot.spool.folder, url=URL, ca_file=robot.spool.folder / "ca.pem")
    Link(Identity(ROBOT, key), settings, stop=threading.Event(), session=server.session).send("HEAD", TARGET)
    assert told == [(str(robot.spool.folder / "ca.pem"), {})]
