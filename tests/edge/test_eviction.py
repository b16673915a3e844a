"""What a full disk gave up is told once, as ranges, with what was in them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import eviction, segment
from edge.records import Topic
from edge.segment import Message
from edge.spool import Spool, Spooled
from edge.status import status
from edge.wire import GAP_TYPE, MCAP_TYPE, Gap
from tests.edge.delivering import DeliveringRobot
from tests.edge.ingest_double import Stored
from tests.faults.failing_disk import FailingDisk

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

RECORDING = "01J00000000000000000000000"
START_NS = 1_760_000_000_000_000_000
View = Callable[[Path], "SpoolView"]


def told(spool: Spool) -> list[Gap]:
    gaps = sorted((one for one in spool.waiting() if one.is_gap), key=lambda one: one.stem)
    return [Gap.parse(spool.data_path(one).read_bytes()) for one in gaps]


def evict(folder: Path, added: list[Spooled]) -> list[Spooled]:
    return eviction.evict(Spool(folder), [one.stem for one in added])


def test_a_range_becomes_one_record_with_what_was_in_it(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    added = [seen.add(seq, messages=seq) for seq in (3, 4, 5)]
    other = seen.add(9, stream="head")
    evict(tmp_path, [*added, other])
    of_head, of_telemetry = told(seen.spool)
    assert of_telemetry == Gap(
        3,
        5,
        added[0].start_ns,
        added[2].end_ns,
        "evicted",
        eviction.REASON,
        sum(one.bytes for one in added),
        {"/t": 12},
    )
    assert (of_head.first_seq, of_head.last_seq, of_head.counts) == (9, 9, {"/t": 3})
    assert not list(tmp_path.rglob("*.mcap"))
    assert {line.stream: line.dropped for line in status(seen.spool)} == {"telemetry": 12, "head": 3}


def test_a_segment_that_stays_parts_two_ranges(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    added = [seen.add(seq) for seq in range(5)]
    evict(tmp_path, [added[0], added[1], added[3], added[4]])
    assert [(gap.first_seq, gap.last_seq) for gap in told(seen.spool)] == [(0, 1), (3, 4)]
    assert [one.seq for one in seen.spool.waiting() if not one.is_gap] == [2]


def test_a_range_is_never_longer_than_a_record_may_be(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "MAX_PARTS", 2)
    evict(tmp_path, [view(tmp_path).add(seq) for seq in range(5)])
    assert [(gap.first_seq, gap.last_seq) for gap in told(Spool(tmp_path))] == [(0, 1), (2, 3), (4, 4)]


def test_the_next_eviction_leaves_earlier_records_as_they_were(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    added = [seen.add(seq) for seq in range(4)]
    evict(tmp_path, added[:2])
    before = seen.files()
    evict(tmp_path, added[2:])
    assert [(gap.first_seq, gap.last_seq) for gap in told(seen.spool)] == [(0, 1), (2, 3)]
    assert {name: seen.files()[name] for name in before if ".gap" in name or ".parts" in name} == {
        name: data for name, data in before.items() if ".gap" in name or ".parts" in name
    }


def test_segments_that_had_arrived_after_all_count_as_delivered(tmp_path: Path, view: View) -> None:
    """The receipts of the first two were lost, and they were evicted: the server says so, one after the other."""
    seen = view(tmp_path)
    added = [seen.add(seq) for seq in range(4)]
    (gap,) = evict(tmp_path, added)
    rest = eviction.arrived_after_all(seen.spool, gap, stored_sha256=added[0].sha256)
    assert rest is not None
    rest = eviction.arrived_after_all(seen.spool, rest, stored_sha256=added[1].sha256)
    assert [(one.first_seq, one.last_seq, one.counts) for one in told(seen.spool)] == [(2, 3, {"/t": 6})]
    assert [one.stem for one in seen.spool.acknowledged(RECORDING)] == [one.stem for one in added[:2]]
    (line,) = status(seen.spool)
    assert (line.recorded, line.uploaded, line.dropped) == (12, 6, 6)


def test_a_range_of_one_that_had_arrived_leaves_nothing_to_tell(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    added = seen.add(0)
    (gap,) = evict(tmp_path, [added])
    assert eviction.arrived_after_all(seen.spool, gap, stored_sha256=added.sha256) is None
    assert list(seen.spool.waiting()) == []
    assert [line.uploaded for line in status(seen.spool)] == [3]


def test_bytes_of_somebody_else_under_its_name_take_nothing_from_the_rest_of_the_range(
    tmp_path: Path, view: View
) -> None:
    seen = view(tmp_path)
    (gap,) = evict(tmp_path, [seen.add(seq) for seq in range(3)])
    rest = eviction.arrived_after_all(seen.spool, gap, stored_sha256="00" * 32)
    assert rest is not None
    assert [(one.first_seq, one.last_seq, one.counts) for one in told(seen.spool)] == [(1, 2, {"/t": 6})]
    assert [(line.recorded, line.dropped) for line in status(seen.spool)] == [(9, 9)]


def test_a_record_without_its_parts_ends_where_other_bytes_stand(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    (gap,) = evict(tmp_path, [seen.add(seq) for seq in range(2)])
    seen.spool.data_path(gap).with_suffix(".parts").unlink()
    assert eviction.arrived_after_all(seen.spool, gap, stored_sha256="00" * 32) is None
    assert list(seen.spool.waiting()) == []
    assert [(line.recorded, line.dropped) for line in status(seen.spool)] == [(6, 6)]


def test_what_is_gone_already_is_not_evicted(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    added = seen.add(0)
    (gap,) = evict(tmp_path, [added])
    assert evict(tmp_path, [added]) == [], "a gap record stays"
    assert list(seen.spool.waiting()) == [gap]


def test_lost_bytes_are_told_with_what_was_in_them(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    added = seen.add(6)
    seen.spool.data_path(added).unlink()
    eviction.lost(seen.spool, added)
    (gap,) = told(seen.spool)
    assert (gap.first_seq, gap.cause, gap.counts, gap.size_bytes) == (6, "lost", added.counts, added.bytes)
    assert [(line.recorded, line.dropped) for line in status(seen.spool)] == [(3, 3)]


def test_a_range_of_more_topics_than_a_record_holds_is_told_with_their_sum(
    tmp_path: Path, view: View, key: Ed25519PrivateKey
) -> None:
    robot = DeliveringRobot(tmp_path, key)
    messages = [Message(Topic(f"/topic/of/a/long/name/{n:06d}", "json"), START_NS + n, 0, b"{}") for n in range(3000)]
    built = segment.build(messages)
    assert built is not None
    added = robot.spool.add((RECORDING, "telemetry", 0), *built, kind="telemetry", content_type=MCAP_TYPE)
    evict(tmp_path, [added])
    (gap,) = told(robot.spool)
    assert (gap.counts, gap.size_bytes) == ({"?": 3000}, added.bytes)
    robot.deliver()
    assert robot.server.stored(RECORDING, "telemetry")[0].content_type == GAP_TYPE
    assert [line.dropped for line in status(robot.spool)] == [3000]


def test_a_long_range_is_told_whole_whatever_of_it_had_arrived(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    """Receipts of the first three segments were lost, and of one in the middle; then all of it was evicted."""
    robot = DeliveringRobot(tmp_path, key)
    added = [robot.seen.add(seq) for seq in range(8)]
    arrived = (0, 1, 2, 5)
    for seq in arrived:
        key_ = added[seq].named("g1-007").key
        robot.server.objects[key_] = Stored(MCAP_TYPE, robot.seen.body(added[seq]))
    evict(tmp_path, added)
    robot.deliver()
    stored = robot.server.stored(RECORDING, "telemetry")
    assert sorted(stored) == [0, 1, 2, 3, 5]
    gap = Gap.parse(stored[3].body)
    assert (gap.first_seq, gap.last_seq, gap.counts) == (3, 7, {"/t": 15})
    (line,) = status(robot.spool)
    assert (line.recorded, line.uploaded, line.dropped) == (24, 9, 15)
    assert not list((tmp_path / "sealed").rglob("*.*"))


def test_a_whole_range_that_had_arrived_ends_with_nothing_to_tell(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    robot = DeliveringRobot(tmp_path, key)
    added = [robot.seen.add(seq) for seq in range(3)]
    for one in added:
        robot.server.objects[one.named("g1-007").key] = Stored(MCAP_TYPE, robot.seen.body(one))
    evict(tmp_path, added)
    robot.deliver()
    assert {one.content_type for one in robot.server.objects.values()} == {MCAP_TYPE}
    assert [one.stem for one in robot.spool.acknowledged(RECORDING)] == [one.stem for one in added]
    assert [line.uploaded for line in status(robot.spool)] == [9]


def test_what_the_disk_did_not_let_go_of_goes_with_the_next_eviction(tmp_path: Path, view: View) -> None:
    added = [view(tmp_path).add(seq) for seq in range(4)]
    disk = FailingDisk()
    spool = Spool(tmp_path, disk=disk)
    disk.fail("rename", "unlink", error=errno.EIO, where=lambda path: path.name.startswith("0000000001"))
    with pytest.raises(OSError, match="Input/output error"):
        eviction.evict(spool, [one.stem for one in added[:3]])
    disk.heal()
    assert sum(line.recorded for line in status(spool)) == 12
    eviction.evict(spool, [one.stem for one in added[:3]])
    assert [(gap.first_seq, gap.last_seq, gap.counts) for gap in told(spool)] == [(0, 2, {"/t": 9})]
    assert [path.name for path in tmp_path.rglob("*.mcap")] == ["0000000003.mcap"]
    assert not list(tmp_path.rglob("*.evicted"))
