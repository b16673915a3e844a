"""What an upload meets on the robot's own disk: full, failing, or without what is to be sent. Nothing is lost by it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import eviction, transfer, wire
from edge.backlog import Backlog
from edge.errors import BadName, SpoolError
from edge.link import Link
from edge.spool import Spool, Spooled
from edge.status import status
from tests.edge.cutting_disk import recorded_in
from tests.edge.delivering import DeliveringRobot
from tests.edge.ingest_double import Asked, Said, Stored
from tests.faults.failing_disk import FailingDisk

RECORDING = "01J00000000000000000000000"
HOUR_NS = 3_600 * 10**9
Until = Callable[..., None]


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def robot(tmp_path: Path, key: Ed25519PrivateKey, disk: FailingDisk) -> DeliveringRobot:
    folder = tmp_path / "robot"
    folder.mkdir()
    return DeliveringRobot(folder, key, spool=Spool(folder, disk=disk))


def gaps(robot: DeliveringRobot) -> list[wire.Gap]:
    """The gap records that the server holds."""
    stored = robot.server.stored(RECORDING, "telemetry").values()
    return [wire.Gap.parse(one.body) for one in stored if one.content_type == wire.GAP_TYPE]


# -- bytes that are not there ----------------------------------------------------------------------------------


def test_missing_bytes_that_the_server_has_count_as_delivered(robot: DeliveringRobot) -> None:
    added = robot.seen.add(0)
    robot.server.objects[added.named("g1-007").key] = Stored(wire.MCAP_TYPE, robot.seen.body(added))
    robot.spool.data_path(added).unlink()
    uploader = robot.deliver()
    assert robot.spool.acknowledged(RECORDING) == [added]
    assert [line.uploaded for line in status(robot.spool)] == [3]
    assert uploader.state.alarms == []


def test_missing_bytes_that_the_server_does_not_have_are_told(robot: DeliveringRobot) -> None:
    added = robot.seen.add(0)
    robot.spool.data_path(added).unlink()
    uploader = robot.deliver()
    (gap,) = gaps(robot)
    assert (gap.first_seq, gap.cause, gap.counts) == (0, "lost", added.counts)
    assert uploader.state.alarms == [f"{added.stem}: its bytes are missing on the disk"]
    assert [line.dropped for line in status(robot.spool)] == [3]


def test_missing_bytes_under_a_name_that_others_took_end_as_lost(robot: DeliveringRobot) -> None:
    added = robot.seen.add(0)
    other = robot.seen.body(added)[::-1]
    robot.server.objects[added.named("g1-007").key] = Stored(wire.MCAP_TYPE, other)
    robot.spool.data_path(added).unlink()
    robot.deliver()
    assert list(robot.spool.waiting()) == []
    assert [(line.recorded, line.dropped) for line in status(robot.spool)] == [(3, 3)]


@pytest.mark.parametrize("trouble", ["clock", "busy", "cut"])
def test_nothing_is_told_to_be_lost_before_the_server_was_heard(robot: DeliveringRobot, trouble: str) -> None:
    added = robot.seen.add(0)
    robot.server.objects[added.named("g1-007").key] = Stored(wire.MCAP_TYPE, robot.seen.body(added))
    robot.spool.data_path(added).unlink()
    if trouble == "clock":
        robot.clock = lambda: robot.server.clock() - 9 * HOUR_NS
    else:
        robot.server.script = [robot.server.refuse(503, "busy") if trouble == "busy" else robot.server.cut] * 3
    robot.deliver()
    assert robot.spool.acknowledged(RECORDING) == [added]


# -- a disk that takes nothing ---------------------------------------------------------------------------------


def test_a_ledger_without_room_gets_it_from_the_bytes_it_is_about(robot: DeliveringRobot, disk: FailingDisk) -> None:
    added = robot.seen.add(0)
    full = disk.fail("write", where=lambda path: path.suffix == ".jsonl" and robot.spool.data_path(added).exists())
    uploader = robot.deliver()
    assert full.fired
    assert robot.spool.acknowledged(RECORDING) == [added]
    assert (uploader.state.uploaded, len(robot.server.asked)) == (1, 1)


def test_a_ledger_that_takes_nothing_at_all_is_written_once_it_does(
    robot: DeliveringRobot, disk: FailingDisk, until: Until
) -> None:
    added = robot.seen.add(0)
    disk.fail("write", "sync", where=lambda path: path.suffix == ".jsonl", partial_bytes=20)
    with robot.running() as uploader:
        until(lambda: len(robot.server.asked) >= 4)
        assert robot.spool.acknowledged(RECORDING) == []
        assert list(robot.spool.waiting()) == [added]
        assert uploader.state.alarms
        disk.heal()
        until(lambda: robot.spool.acknowledged(RECORDING) == [added])
    assert uploader.state.uploaded == 1
    assert recorded_in(robot.spool.folder) == 3
    assert len(robot.server.objects) == 1


@pytest.mark.parametrize("fails", ["reason", "bytes", "gap record", "its facts"])
def test_a_quarantine_that_the_disk_did_not_take_whole_is_completed(
    robot: DeliveringRobot, disk: FailingDisk, until: Until, fails: str
) -> None:
    added = robot.seen.add(0)
    body = robot.seen.body(added)
    names = {
        "reason": "quarantine",
        "bytes": f"{added.seq:010d}.mcap",
        "gap record": ".gap.tmp",
        "its facts": ".json.tmp",
    }
    fault = disk.fail("create", "rename", where=lambda path: names[fails] in str(path), times=3)

    def refuse(asked: Asked) -> Said:
        is_segment = asked.headers["Content-Type"] == wire.MCAP_TYPE and asked.body
        return robot.server.problem(400, "not_a_segment", "no") if is_segment else robot.server.do(asked)

    robot.server.script = [refuse] * 1000
    with robot.running():
        until(lambda: list(robot.spool.waiting()) == [])
    assert fault.fired == 3
    assert [(item, reason) for item, reason in robot.spool.quarantined()] == [(added, "not_a_segment: no")]
    assert (robot.spool.folder / "quarantine" / f"{added.stem}.mcap").read_bytes() == body
    assert [(gap.cause, gap.reason) for gap in gaps(robot)] == [("quarantined", "not_a_segment: no")]
    (line,) = status(robot.spool)
    assert (line.recorded, line.quarantined) == (3, 3)


def test_a_disk_that_gives_nothing_now_costs_nothing(
    robot: DeliveringRobot, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item whose facts or bytes cannot be read waits for a better time; the others go."""
    added = [robot.seen.add(seq) for seq in range(3)]
    bad = {robot.spool.facts_path(added[0]), robot.spool.data_path(added[1])}
    read_bytes, read_text, failing = Path.read_bytes, Path.read_text, [True]

    def fail(path: Path) -> None:
        if failing[0] and path in bad:
            raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_bytes", lambda path: fail(path) or read_bytes(path))  # type: ignore[func-returns-value]
    monkeypatch.setattr(Path, "read_text", lambda path, **named: fail(path) or read_text(path, **named))  # type: ignore[func-returns-value]
    with robot.running() as uploader:
        until(lambda: robot.spool.acknowledged(RECORDING) == [added[2]])
        until(lambda: len(uploader.state.alarms) == 2)
        failing[0] = False
        until(lambda: not list(robot.spool.waiting()))
    assert {one.stem for one in robot.spool.acknowledged(RECORDING)} == {one.stem for one in added}
    assert robot.spool.quarantined() == []


def test_a_look_that_fails_ends_nothing(robot: DeliveringRobot, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    look, failures = Backlog.look, iter([True] * 3)

    def sometimes(backlog: Backlog) -> None:
        if next(failures, False):
            raise OSError(errno.EMFILE, "Too many open files")
        look(backlog)

    monkeypatch.setattr(Backlog, "look", sometimes)
    added = robot.seen.add(0)
    with robot.running() as uploader:
        until(lambda: robot.spool.acknowledged(RECORDING) == [added])
    assert uploader.state.alarms == ["disk: [Errno 24] Too many open files"]


@pytest.mark.parametrize("error", [BadName, SpoolError])
def test_an_item_that_cannot_be_sent_stops_no_other(
    robot: DeliveringRobot, until: Until, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    added, carry = [robot.seen.add(seq) for seq in range(2)], transfer.carry

    def sometimes(link: Link, spool: Spool, item: Spooled, *, piece_bytes: int) -> requests.Response:
        if item.seq == 0:
            raise error("the robot has no such name")
        return carry(link, spool, item, piece_bytes=piece_bytes)

    monkeypatch.setattr("edge.uploader.carry", sometimes)
    with robot.running() as uploader:
        until(lambda: robot.spool.acknowledged(RECORDING) == [added[1]])
    (alarm,) = uploader.state.alarms
    assert alarm.startswith(added[0].stem)
    assert alarm.endswith("the robot has no such name")
    assert list(robot.spool.waiting()) == [added[0]]


def test_facts_of_another_item_are_not_believed(robot: DeliveringRobot) -> None:
    added = [robot.seen.add(seq) for seq in range(2)]
    robot.spool.facts_path(added[1]).write_bytes(robot.spool.facts_path(added[0]).read_bytes())
    assert list(robot.spool.waiting()) == [added[0]]
    robot.deliver()
    assert robot.spool.acknowledged(RECORDING) == added


# -- what the server says of a gap record ----------------------------------------------------------------------


def test_what_is_refused_is_told_in_its_place(robot: DeliveringRobot) -> None:
    added = [robot.seen.add(seq) for seq in range(2)]
    robot.server.script = [robot.server.refuse(400, "not_a_segment")] * 2
    uploader = robot.deliver()
    assert [(gap.first_seq, gap.last_seq, gap.cause, gap.counts) for gap in gaps(robot)] == [
        (0, 0, "quarantined", added[0].counts)
    ]
    assert [one.name[2] for one in robot.server.asked] == [0, 0, 0, 1], "at once, before what is younger"
    assert uploader.state.uploaded == 2


def test_other_bytes_under_its_name_leave_no_gap(robot: DeliveringRobot) -> None:
    added = robot.seen.add(0)
    robot.server.objects[added.named("g1-007").key] = Stored(wire.MCAP_TYPE, b"others")
    robot.deliver()
    assert gaps(robot) == []
    assert [item for item, _ in robot.spool.quarantined()] == [added]
    assert len(robot.server.asked) == 2, "asked once more: a refusal may be a bit that changed on the way"


def test_a_gap_record_that_is_refused_is_kept_aside(robot: DeliveringRobot) -> None:
    (gap,) = eviction.evict(robot.spool, [robot.seen.add(seq).stem for seq in range(2)])
    body = robot.spool.data_path(gap).read_bytes()
    robot.server.script = [robot.server.refuse(400, "bad_gap")] * 2
    robot.deliver()
    kept = {path.name: path for path in (robot.spool.folder / "quarantine").rglob("*") if path.is_file()}
    assert kept.keys() == {"0000000000.gap", "0000000000.json"}
    assert kept["0000000000.gap"].read_bytes() == body
    assert not [path for path in (robot.spool.folder / "sealed").rglob("*") if path.is_file()]
    assert [(line.recorded, line.quarantined) for line in status(robot.spool)] == [(6, 6)]


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_gap_record_whose_bytes_were_lost_is_made_again_as_it_was(robot: DeliveringRobot, damage: str) -> None:
    """The server has it already, and only the receipt was lost: the same bytes are no conflict."""
    (gap,) = eviction.evict(robot.spool, [robot.seen.add(seq).stem for seq in range(2)])
    path = robot.spool.data_path(gap)
    robot.server.objects[gap.named("g1-007").key] = Stored(wire.GAP_TYPE, path.read_bytes())
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[::-1])
    robot.deliver()
    assert robot.spool.acknowledged(RECORDING) == [gap]
    assert [one.status for one in robot.server.said if one] == ([200] if damage == "missing" else [400, 200])
