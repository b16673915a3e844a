"""Damage on the robot's disk, at every byte: the agent starts, and what is not damaged is delivered."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import eviction, ledger, wire
from edge.disk import Disk
from edge.recovery import recover
from edge.segment import SegmentFacts, sha256_of
from edge.spool import Spool, Spooled
from edge.status import status
from tests.edge.cutting_disk import recorded_in
from tests.edge.delivering import DeliveringRobot
from tests.faults.campaign import is_soak

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

STEP = 1 if is_soak() else 3
RECORDING = "01J00000000000000000000000"
View = Callable[[Path], "SpoolView"]


@pytest.fixture
def robot_in(tmp_path: Path, key: Ed25519PrivateKey) -> Callable[[str], DeliveringRobot]:
    return lambda name: DeliveringRobot(tmp_path / name, key)


def damaged(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """A file cut short at every byte, and with one bit flipped in every byte; of every third, where it is no soak."""
    for at in range(0, len(whole), STEP):
        yield f"cut at {at}", whole[:at]
        yield f"bit {at % 8} of byte {at}", whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]


def stored_and_told(robot: DeliveringRobot, stream: str = "telemetry") -> tuple[list[int], list[int]]:
    """The seqs that the server has segments of, and those that gap records tell of."""
    arrived, gone = [], []
    for seq, one in robot.server.stored(RECORDING, stream).items():
        if one.content_type == wire.GAP_TYPE:
            gap = wire.Gap.parse(one.body)
            gone += range(gap.first_seq, gap.last_seq + 1)
        else:
            arrived.append(seq)
    return arrived, gone


def restart_and_deliver(robot: DeliveringRobot) -> None:
    recover(robot.spool)
    robot.deliver()
    assert recover(Spool(robot.spool.folder)) == []
    assert list(robot.spool.waiting()) == []


def test_facts_damaged_at_any_byte_are_made_again(robot_in: Callable[[str], DeliveringRobot]) -> None:
    robot = robot_in("robot")
    for number, (_, content) in enumerate(damaged(_facts_of_one(robot))):
        robot.seen.add(2 * number)
        item = robot.seen.add(2 * number + 1)
        robot.spool.facts_path(item).write_bytes(content)
    restart_and_deliver(robot)
    arrived, gone = stored_and_told(robot)
    assert arrived == list(range(2 * number + 2))
    assert gone == []
    assert recorded_in(robot.spool.folder) == 3 * len(arrived)


def _facts_of_one(robot: DeliveringRobot) -> bytes:
    """Of the size that a segment's facts have."""
    added = robot.seen.add(0)
    facts = robot.spool.facts_path(added).read_bytes()
    robot.spool.remove(added)
    return facts


@pytest.mark.parametrize("of", ["facts", "parts", "bytes"])
def test_a_gap_record_damaged_at_any_byte_still_tells_of_its_range(
    robot_in: Callable[[str], DeliveringRobot], of: str
) -> None:
    robot = robot_in("robot")

    def evict(number: int) -> Path:
        seqs = range(3 * number, 3 * number + 2)
        (gap,) = eviction.evict(robot.spool, [robot.seen.add(seq).stem for seq in seqs])
        return {
            "facts": robot.spool.facts_path(gap),
            "parts": robot.spool.data_path(gap).with_suffix(".parts"),
            "bytes": robot.spool.data_path(gap),
        }[of]

    step = STEP * (3 if of == "parts" else 1)  # the longest of them
    for number in range(1, 2 * len(evict(0).read_bytes()) // step):
        path = evict(number)
        whole, at = path.read_bytes(), number // 2 * step
        flipped = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] if at < len(whole) else b""
        path.write_bytes(whole[:at] if number % 2 else flipped)
    restart_and_deliver(robot)
    arrived, gone = stored_and_told(robot)
    assert arrived == []
    assert gone == [seq for n in range(number + 1) for seq in (3 * n, 3 * n + 1)]
    (line,) = status(robot.spool)
    assert (line.recorded, line.dropped) == (6 * number + 6, 6 * number + 6)


def test_the_ledger_damaged_at_any_byte_costs_one_line(robot_in: Callable[[str], DeliveringRobot]) -> None:
    robot = robot_in("robot")
    for seq in range(3):
        robot.seen.add(seq)
    robot.deliver()
    path = robot.spool.folder / "ledger" / f"{RECORDING}.jsonl"
    whole, before = path.read_bytes(), robot.spool.acknowledged(RECORDING)
    assert len(before) == 3
    waits = robot.seen.add(3)
    for what, content in damaged(whole):
        path.write_bytes(content)
        found = robot.spool.acknowledged(RECORDING)
        assert all(one in before for one in found), what
        assert what.startswith("cut") or len(found) >= 2, what
        assert recover(robot.spool) == [], what
        assert list(robot.spool.waiting()) == [waits], what
        for line in status(robot.spool):
            assert line.recorded == line.uploaded + line.waiting, what
            assert line.uploaded == 3 * len(found), what
    robot.deliver()
    assert robot.spool.acknowledged(RECORDING)[-1] == waits


def test_the_sums_damaged_at_any_byte_cost_one_recording(tmp_path: Path, view: View) -> None:
    recordings = [f"01J0000000000000000000000{n}" for n in range(3)]
    spool = Spool(tmp_path)
    for recording in recordings:
        spool.remember(view(tmp_path).add(0, recording=recording), key="k", server_time_ns=1)
    recover(spool)
    spool.tidy()
    assert ledger.fold(spool, older_than_s=-1) == recordings
    path = tmp_path / "ledger" / "folded.jsonl"
    whole, before = path.read_bytes(), list(ledger.folded(spool))
    for what, content in damaged(whole):
        path.write_bytes(content)
        found = list(ledger.folded(spool))
        assert all(one in before for one in found), what
        assert what.startswith("cut") or len(found) >= 2, what
        assert recorded_in(tmp_path) == 3 * len(found), what


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "empty", "missing"])
def test_bytes_that_are_damaged_are_kept_aside_and_told(
    robot_in: Callable[[str], DeliveringRobot], damage: str
) -> None:
    robot = robot_in("robot")
    added = [robot.seen.add(seq) for seq in range(3)]
    path = robot.spool.data_path(added[1])
    whole = path.read_bytes()
    content = {
        "flipped": whole[:50] + bytes([whole[50] ^ 4]) + whole[51:],
        "cut": whole[:-30],
        "longer": whole + b"\0" * 30,
        "empty": b"",
    }.get(damage)
    path.unlink() if content is None else path.write_bytes(content)
    for piece_bytes in (1 << 14, 1 << 22):
        restart_and_deliver(robot)
        assert stored_and_told(robot) == ([0, 2], [1]), piece_bytes
    (gap,) = (one for one in robot.spool.acknowledged(RECORDING) if one.is_gap)
    (line,) = status(robot.spool)
    if damage == "missing":
        assert (gap.cause, line.dropped, line.quarantined) == ("lost", 3, 0)
    else:
        assert (gap.cause, line.dropped, line.quarantined) == ("quarantined", 0, 3)
        assert (robot.spool.folder / "quarantine" / f"{added[1].stem}.mcap").read_bytes() == content
    assert line.recorded == 9


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer"])
def test_a_large_item_that_is_damaged_is_kept_aside_and_told(
    robot_in: Callable[[str], DeliveringRobot], damage: str
) -> None:
    robot = robot_in("robot")
    added = robot.seen.add(0, messages=20_000)
    path = robot.spool.data_path(added)
    whole = path.read_bytes()
    assert len(whole) > 100_000
    content = {"flipped": whole[:-9] + b"?" + whole[-8:], "cut": whole[:-30_000], "longer": whole + b"\0" * 30}[damage]
    path.write_bytes(content)
    robot.deliver(piece_bytes=1 << 16)
    assert stored_and_told(robot) == ([], [0])
    assert (robot.spool.folder / "quarantine" / f"{added.stem}.mcap").read_bytes() == content


def test_a_segment_damaged_with_its_facts_is_kept_aside_and_told(robot_in: Callable[[str], DeliveringRobot]) -> None:
    robot = robot_in("robot")
    added = robot.seen.add(1)
    robot.spool.facts_path(added).write_bytes(b"")
    robot.spool.data_path(added).write_bytes(b"what was it")
    restart_and_deliver(robot)
    assert stored_and_told(robot) == ([], [1])
    (line,) = status(robot.spool)
    assert (line.damaged, line.recorded) == (1, 0)
    assert [path.read_bytes() for path in robot.spool.folder.rglob("*.damaged")] == [b"what was it"]


def test_what_was_set_aside_under_a_name_is_not_replaced_by_what_comes_later(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for data in (b"of its journal", b"of its segment", b"of its journal"):
        spool.set_aside(RECORDING, "telemetry", 0, data, reason="damaged", messages=1)
    kept = {path.read_bytes() for path in (tmp_path / "quarantine").rglob("*.damaged")}
    assert kept == {b"of its journal", b"of its segment"}
    assert [line.damaged for line in status(spool)] == [2]


def test_bytes_without_facts_are_delivered(robot_in: Callable[[str], DeliveringRobot]) -> None:
    robot = robot_in("robot")
    added = [robot.seen.add(seq) for seq in range(3)]
    robot.spool.facts_path(added[1]).unlink()
    restart_and_deliver(robot)
    assert stored_and_told(robot) == ([0, 1, 2], [])


def test_a_video_file_without_facts_is_kept_aside_and_told(robot_in: Callable[[str], DeliveringRobot]) -> None:
    robot = robot_in("robot")
    facts = SegmentFacts(5, 6, 4, sha256_of(b"film"), {"/head": 4})
    for seq in range(2):
        item = robot.spool.add((RECORDING, "head", seq), facts, b"film", kind="video", content_type=wire.MP4_TYPE)
    robot.spool.facts_path(item).unlink()
    restart_and_deliver(robot)
    assert stored_and_told(robot, "head") == ([0], [1])
    assert [path.read_bytes() for path in robot.spool.folder.rglob("*.damaged")] == [b"film"]


@pytest.mark.parametrize("name", ["0000000004.mcap.tmp", "0000000004.json.tmp", "0000000004.parts"])
def test_what_a_crash_left_half_written_is_removed(robot_in: Callable[[str], DeliveringRobot], name: str) -> None:
    robot = robot_in("robot")
    added = robot.seen.add(3)
    (robot.spool.data_path(added).parent / name).write_bytes(b"half")
    restart_and_deliver(robot)
    assert stored_and_told(robot) == ([3], [])
    robot.spool.tidy()
    assert list((robot.spool.folder / "sealed").iterdir()) == []


def test_what_a_power_cut_brought_back_after_it_was_told_counts_once(
    robot_in: Callable[[str], DeliveringRobot],
) -> None:
    """The names of evicted segments went, and the gap record came; then only the latter was on the disk."""
    robot = robot_in("robot")
    added = [robot.seen.add(seq) for seq in range(3)]
    kept = {path: path.read_bytes() for one in added for path in [robot.spool.data_path(one)]}
    evicted = robot.spool.facts_path(added[2]).with_suffix(".evicted")
    kept[evicted] = robot.spool.facts_path(added[2]).read_bytes()
    eviction.evict(robot.spool, [one.stem for one in added])
    for path, content in kept.items():
        path.write_bytes(content)
    assert recorded_in(robot.spool.folder) == 9
    restart_and_deliver(robot)
    assert stored_and_told(robot) == ([], [0, 1, 2])
    assert recorded_in(robot.spool.folder) == 9
    assert not list((robot.spool.folder / "sealed").rglob("*.*"))


def test_facts_of_an_evicted_segment_that_are_damaged_still_leave_a_record(
    robot_in: Callable[[str], DeliveringRobot],
) -> None:
    robot = robot_in("robot")
    for seq, has_bytes in ((3, False), (4, True)):
        item = robot.seen.add(seq)
        robot.spool.facts_path(item).unlink()
        robot.spool.facts_path(item).with_suffix(".evicted").write_bytes(b"?")
        if not has_bytes:
            robot.spool.data_path(item).unlink()
    restart_and_deliver(robot)
    assert stored_and_told(robot) == ([4], [3])


STRANGERS = [
    "open/notes.txt",
    "open/lost+found/",
    f"open/{RECORDING}/telemetry/99999999999.telemetry",
    f"open/{RECORDING}/telemetry/core",
    f"open/{RECORDING}/Head Camera/0000000000.video",
    "sealed/notes.txt",
    "sealed/lost+found/telemetry/0000000001.json",
    "sealed/lost+found/telemetry/0000000001.mcap",
    f"sealed/{RECORDING}/notes.txt",
    f"sealed/{RECORDING}/Head Camera/0000000001.json",
    f"sealed/{RECORDING}/telemetry/notes.mcap",
    f"sealed/{RECORDING}/telemetry/notes.json",
    f"sealed/{RECORDING}/telemetry/7.mcap",
    f"sealed/{RECORDING}/telemetry/99999999999.json",
    f"sealed/{RECORDING}/telemetry/notes.evicted",
    f"sealed/{RECORDING}/telemetry/0000000001.txt",
    f"sealed/{RECORDING}/telemetry/0000000002.json/",
    f"sealed/{RECORDING}/telemetry/٠٠٠٠٠٠٠٠٠١.json",
    "ledger/notes.jsonl",
    "quarantine/notes.txt",
    f"quarantine/{RECORDING}/telemetry/notes.json",
    "requests/notes.json",
]


@pytest.mark.parametrize("name", STRANGERS)
def test_a_file_that_is_not_ours_stops_nothing(
    robot_in: Callable[[str], DeliveringRobot], until: Callable[..., None], name: str
) -> None:
    robot = robot_in("robot")
    for seq in range(2):
        robot.seen.add(seq)
    path = robot.spool.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("/") else path.write_bytes(b"what is this")
    recover(robot.spool)
    if name.endswith(".json/"):  # what cannot be read may be facts: it is tried again
        with robot.running():
            until(lambda: stored_and_told(robot)[0] == [0, 1])
    else:
        assert robot.deliver().state.alarms == []
    assert stored_and_told(robot) == ([0, 1], [])
    assert recover(robot.spool) == []
    robot.spool.tidy()
    ledger.fold(robot.spool, older_than_s=-1)
    assert recorded_in(robot.spool.folder) == 6
    names = [path.name for path in robot.spool.folder.rglob("*")]
    assert path.name in names, "it is kept"


class FullDisk(Disk):
    """Takes no byte until it is told to."""

    is_full = True

    def create(self, path: Path, *, mode: int = 0o644) -> IO[bytes]:
        return super().create(path, mode=mode) if not self.is_full else self._refuse()

    def open_append(self, path: Path) -> IO[bytes]:
        return super().open_append(path) if not self.is_full else self._refuse()

    def mkdir(self, path: Path) -> None:
        super().mkdir(path) if not self.is_full else self._refuse()

    def _refuse(self) -> IO[bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")


def everything_interrupted(robot: DeliveringRobot) -> None:
    """A journal left open, and segments on their way to the ledger, to quarantine, and out; 3 messages each."""
    from tests.edge.test_recovery import _journal

    _journal(robot.spool, count=3, seq=9)
    stored, refused, going = (robot.seen.add(seq, stream="head") for seq in range(3))
    robot.spool.remember(stored, key="k", server_time_ns=1)
    robot.spool.quarantine(refused, "bad_body: x", leaves_gap=True)
    facts = (robot.spool.folder / "quarantine" / f"{refused.stem}.mcap", robot.spool.data_path(refused))
    facts[0].rename(facts[1])
    robot.seen.add(1, stream="head")
    robot.spool.facts_path(going).rename(robot.spool.facts_path(going).with_suffix(".evicted"))
    robot.spool.data_path(going).unlink()


def test_recovery_on_a_full_disk_starts_all_the_same_and_completes_later(
    tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    robot = DeliveringRobot(tmp_path / "robot", key)
    everything_interrupted(robot)
    disk = FullDisk()
    spool = Spool(tmp_path / "robot", disk=disk)
    before = recorded_in(spool.folder)
    assert any("No space left" in line for line in recover(spool))
    assert any("No space left" in line for line in recover(spool)), "its locks are free again"
    assert recorded_in(spool.folder) == before
    disk.is_full = False
    assert not any("No space left" in line for line in recover(spool))
    assert recover(spool) == []
    assert recorded_in(spool.folder) == before + 3
    robot.deliver()
    assert stored_and_told(robot) == ([9], [])
    assert stored_and_told(robot, "head") == ([], [1, 2]), "the first had arrived before"


@pytest.mark.parametrize("place", ["open/01J00000000000000000000009", "sealed/01J00000000000000000000009"])
def test_a_link_to_somebody_elses_folder_is_not_followed(tmp_path: Path, place: str) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "telemetry").mkdir(parents=True)
    files = [theirs / "notes.txt", theirs / "telemetry" / "0000000000.telemetry", theirs / "telemetry" / "x.tmp"]
    for path in files:
        path.write_text("not yours")
    spool = Spool(tmp_path / "robot")
    (spool.folder / place).symlink_to(theirs)
    recover(spool)
    assert [path.read_text() for path in files] == ["not yours"] * 3
    assert sorted(theirs.rglob("*")) == sorted([*files, theirs / "telemetry"])


@pytest.mark.parametrize(
    "changed", [{"content_type": "text/html"}, {"sha256": "zz"}, {"counts": {"/t": None}}, {"stream": "../x"}]
)
def test_facts_that_are_whole_and_cannot_be_true_are_not_believed(changed: dict[str, object]) -> None:
    facts = {
        "recording": "01J00000000000000000000000",
        "stream": "telemetry",
        "seq": 0,
        "kind": "telemetry",
        "content_type": "application/vnd.mcap",
        "start_ns": 1,
        "end_ns": 2,
        "bytes": 3,
        "sha256": "00" * 32,
        "counts": {"/t": 1},
        "last_seq": 0,
        "cause": "",
    }
    assert Spooled.parse(facts) is not None
    assert Spooled.parse({**facts, **changed}) is None
