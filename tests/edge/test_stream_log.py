"""A stream on a disk that fails: nothing is called durable that is not, nothing is lost that memory holds."""

from __future__ import annotations

import errno
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

import pytest

from edge.disk import Disk
from edge.records import Topic
from edge.recovery import recover
from edge.segment import Message, read_messages, seal_journal
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.stream_log import LONGEST_RETRY_S, StreamLog
from tests.faults.campaign import trials
from tests.faults.failing_disk import FailingDisk, Fault, Kind
from tests.faults.losing_disk import LosingDisk
from tests.faults.power_loss import after_power_loss

RECORDING = "01J00000000000000000000000"
START_NS = 1_760_000_000_000_000_000
TOPICS = (Topic("/t", "json"), Topic("/u", "json", "S", "jsonschema", b"{}"))
STEPS: tuple[Kind, ...] = ("create", "write", "sync", "rename", "sync_folder", "mkdir")
CANNOT, AGAIN = "stream telemetry cannot be written", "stream telemetry can be written again"


class UnforgivingDisk(FailingDisk):
    """Notes where a file is synced again whose sync has failed: the kernel has let go of what was written."""

    def __init__(self, inner: Disk) -> None:
        super().__init__(inner)
        self.abandoned: list[IO[bytes]] = []
        self.synced_again = 0

    def sync(self, file: IO[bytes]) -> None:
        self.synced_again += any(file is one for one in self.abandoned)
        try:
            super().sync(file)
        except OSError:
            self.abandoned.append(file)
            raise


class Stream:
    """One stream with its disk, its clock, its alarms, and what the log has taken: the numbers 0, 1, 2 …"""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.losing = LosingDisk(root)
        self.disk = UnforgivingDisk(self.losing)
        self.spool = Spool(root, disk=self.disk)
        self.alarms: list[str] = []
        self.now_s = 1000.0
        self.settings = EdgeSettings(folder=root, **settings)
        self.log = StreamLog(
            self.spool,
            RECORDING,
            "telemetry",
            kind="telemetry",
            settings=self.settings,
            alarm=self.alarms.append,
            monotonic_s=lambda: self.now_s,
        )
        self.taken: list[int] = []
        self._next = 0

    def add(self, count: int = 1, *, size: int = 0, restart: bool = True) -> int:
        """Append messages; returns how many were taken."""
        before = len(self.taken)
        for n in range(self._next, self._next + count):
            data = json.dumps({"n": n, "pad": random.Random(n).randbytes(size).hex()[:size]}).encode()
            if self.log.append(TOPICS[n % 7 == 6], START_NS + n, n, data, restart=restart):
                self.taken.append(n)
        self._next += count
        return len(self.taken) - before

    def later(self, seconds: float) -> None:
        """Let time pass, and have the writer's thread look at its log, as it does by itself."""
        self.now_s += seconds
        self.log.sync()
        if self.log.is_due:
            self.log.cut()

    def say(self) -> None:
        """Note what is called durable, for the power losses; look whether a killed process would leave it."""
        if self.log.is_durable:
            self.losing.log.promise(len(self.taken))
            assert self.on_disk() == self.taken
        assert self.on_disk() == self.taken[: len(self.on_disk())]

    def on_disk(self) -> list[int]:
        return numbers(self.spool)

    def journals(self) -> list[Path]:
        return sorted((self.root / "open" / RECORDING / "telemetry").glob("*"))


def numbers(spool: Spool) -> list[int]:
    """What the messages on a disk say, sealed or not, in the order of their segments."""
    found: dict[int, list[Message]] = {}
    for path in (spool.folder / "open" / RECORDING / "telemetry").glob("*"):
        name = f"{RECORDING}/telemetry/{path.stem}"
        body = seal_journal(path.read_bytes(), name=name).body
        found[int(path.stem)] = list(read_messages(io.BytesIO(body))) if body else []
    for item in spool.waiting(RECORDING, stream="telemetry"):
        body = spool.data_path(item).read_bytes()
        found[item.seq] = [] if item.is_gap else list(read_messages(io.BytesIO(body)))
    assert all(one.publish_ns == json.loads(one.data)["n"] for messages in found.values() for one in messages)
    return [json.loads(one.data)["n"] for _, messages in sorted(found.items()) for one in messages]


def record(stream: Stream) -> None:
    """What a stream goes through: messages, syncs that are due or asked for, a cut, a second segment, a new topic."""
    acts: list[Callable[[], object]] = [
        lambda: stream.add(5),
        lambda: stream.log.sync(now=True),
        lambda: stream.add(5),
        lambda: stream.later(0.6),
        lambda: stream.add(3),
        lambda: stream.log.cut(),
        lambda: stream.add(4, size=9000),  # more than a file's buffer: it is written before it is synced
        lambda: stream.later(0.2),
        lambda: stream.add(4),
        lambda: stream.log.sync(now=True),
        lambda: stream.later(11),
        lambda: stream.add(4),
        lambda: stream.later(0.6),
    ]
    for act in acts:
        act()
        stream.say()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("times", [1, 3, None])
@pytest.mark.parametrize("kind", STEPS)
def test_a_disk_that_fails_at_any_step_costs_nothing(tmp_path: Path, kind: Kind, times: int | None, error: int) -> None:
    fired = 0
    for after in range(100):
        stream = Stream(tmp_path / f"after-{after}")
        fault = stream.disk.fail(kind, error=error, after=after, times=times, partial_bytes=10 * (after % 2))
        record(stream)
        stream.disk.heal()
        for _ in range(3):
            stream.later(LONGEST_RETRY_S)
            stream.say()
        assert stream.log.is_durable, "it did not resume by itself"
        check(stream, fault, after_power_losses=tmp_path / f"losses-{after}")
        fired += fault.fired
        if not fault.fired:
            break
    else:
        raise AssertionError("there are more steps than were tried")
    assert fired > 0


def check(stream: Stream, fault: Fault, *, after_power_losses: Path) -> None:
    """Everything was taken and is there, in order; the alarms tell of the outages; no promise was broken."""
    assert stream.on_disk() == stream.taken == list(range(25))
    stream.log.cut()
    assert stream.on_disk() == list(range(25))
    assert stream.journals() == []
    assert stream.disk.synced_again == 0
    told = [text.split(":")[0] for text in stream.alarms]
    assert told == [CANNOT, AGAIN] * (len(told) // 2)
    assert len(told) <= 2 * max(1, fault.fired)
    assert bool(told) == bool(fault.fired)
    assert stream.log.last_sealed == len(list(stream.spool.waiting())) - 1
    dice = random.Random(f"{fault.kinds} {after_power_losses.name}")
    for seed in trials(test=2, soak=40):
        at = dice.randint(stream.losing.log.start, len(stream.losing.log))
        state = after_power_losses / str(seed)
        after_power_loss(stream.losing.log, state, seed=seed, at_operation=at)
        spool = Spool(state)
        recover(spool)
        promised = max(stream.losing.log.promised(at), default=0)
        found = numbers(spool)
        assert found[:promised] == list(range(promised)), f"they were called durable, seed {seed}, operation {at}"
        assert found == sorted(set(found))
        has_hole = len(found) < max(found, default=-1) + 1  # what was not synced may be lost in the middle
        assert not has_hole or spool.quarantined(RECORDING), f"a hole is not told, seed {seed}, operation {at}"


def test_without_a_fault_there_is_no_alarm(tmp_path: Path) -> None:
    stream = Stream(tmp_path)
    record(stream)
    check(stream, Fault((), 0, lambda _: False, 0, 0, 0), after_power_losses=tmp_path / "losses")


def test_what_is_not_synced_yet_is_not_called_durable(tmp_path: Path) -> None:
    stream = Stream(tmp_path)
    assert stream.log.is_durable
    stream.add()
    assert not stream.log.is_durable
    stream.later(0.4)
    assert not stream.log.is_durable
    stream.later(0.1)
    assert stream.log.is_durable


def test_an_outage_of_an_hour_is_tried_again_now_and_then_and_raises_one_alarm(tmp_path: Path) -> None:
    stream = Stream(tmp_path)
    stream.add(3)
    fault = stream.disk.fail(error=errno.EIO)
    for _ in range(36_000):
        stream.later(0.1)
    stream.add(2)
    assert stream.alarms == ["stream telemetry cannot be written: Input/output error"]
    assert 3600 / LONGEST_RETRY_S - 10 <= fault.fired <= 2 * 3600 / LONGEST_RETRY_S + 10
    assert not stream.log.is_durable
    stream.disk.heal()
    stream.later(LONGEST_RETRY_S)
    assert stream.alarms[1:] == [AGAIN]
    stream.add()
    stream.later(0.5)
    assert stream.log.is_durable
    assert stream.on_disk() == list(range(6))
    assert len(stream.journals()) == 1, "the next segment is a journal again"


def test_each_outage_raises_its_own_alarms(tmp_path: Path) -> None:
    stream = Stream(tmp_path)
    for _ in range(3):
        stream.disk.fail()
        stream.add(2)
        stream.later(1)
        stream.later(1)
        stream.disk.heal()
        stream.later(LONGEST_RETRY_S)
    assert stream.alarms == ["stream telemetry cannot be written: No space left on device", AGAIN] * 3


def test_a_sync_that_is_asked_for_tries_the_disk_at_once(tmp_path: Path) -> None:
    stream = Stream(tmp_path)
    stream.disk.fail()
    stream.add()
    for _ in range(10):
        stream.log.sync(now=True)
        assert not stream.log.is_durable
    stream.disk.heal()
    stream.log.sync(now=True)
    assert stream.log.is_durable
    assert stream.on_disk() == [0]


def test_memory_holds_so_much_and_no_more(tmp_path: Path) -> None:
    stream = Stream(tmp_path, hold_bytes=50_000)
    stream.disk.fail()
    taken = stream.add(200, size=1000)
    assert 40 <= taken <= 51
    assert stream.add(100, size=1000) == 0, "it takes nothing more, whatever is tried"
    stream.disk.heal()
    stream.later(LONGEST_RETRY_S)
    assert stream.add(5) == 5
    stream.log.cut()
    assert stream.on_disk() == stream.taken == [*range(taken), *range(300, 305)]
    items = sorted(stream.spool.waiting(), key=lambda one: one.seq)
    assert [one.seq for one in items] == list(range(len(items)))
    bodies = [stream.spool.data_path(one).read_bytes() for one in items]
    sequences = [one.sequence for body in bodies for one in read_messages(io.BytesIO(body)) if one.topic == TOPICS[0]]
    assert sequences == list(range(len(sequences))), "what was let go takes no number"


def test_what_waits_is_held_compressed(tmp_path: Path) -> None:
    stream = Stream(tmp_path, hold_bytes=50_000)
    stream.disk.fail()
    taken = 0
    for _ in range(20):
        taken += sum(stream.log.append(TOPICS[0], START_NS, 0, b"0" * 1000) for _ in range(20))
        stream.later(LONGEST_RETRY_S)
    assert taken == 400


def test_nothing_is_held_where_nothing_may_be(tmp_path: Path) -> None:
    stream = Stream(tmp_path, hold_bytes=0)
    stream.add(3)
    stream.disk.fail()
    stream.later(1)
    assert stream.add(3) == 0
    stream.disk.heal()
    stream.later(LONGEST_RETRY_S)
    assert stream.on_disk() == [0, 1, 2]


def test_a_short_failure_late_in_a_large_segment_lets_nothing_go(tmp_path: Path) -> None:
    stream = Stream(tmp_path, hold_bytes=10_000)
    stream.add(100, size=1000)
    stream.log.sync(now=True)
    fault = stream.disk.fail("write", times=1)
    assert stream.add(100, size=1000) == 100
    assert fault.fired == 1
    stream.log.cut()
    assert stream.on_disk() == list(range(200))


def test_after_something_was_let_go_reading_can_begin_at_the_next_that_is_taken(tmp_path: Path) -> None:
    stream = Stream(tmp_path, hold_bytes=2_000)
    stream.disk.fail()
    stream.add(20, size=1000)
    assert stream.log.needs_restart
    stream.disk.heal()
    stream.later(LONGEST_RETRY_S)
    assert stream.add(3, restart=False) == 0
    assert stream.add(1, restart=True) == 1
    assert stream.add(3, restart=False) == 3
    assert not stream.log.needs_restart


# -- when a segment ends ---------------------------------------------------------------------------------------


def test_a_segment_ends_when_it_is_large_whatever_comes_at_once(tmp_path: Path) -> None:
    stream = Stream(tmp_path, segment_bytes=1 << 16)
    stream.add(100, size=10_000)
    stream.log.cut()
    items = sorted(stream.spool.waiting(), key=lambda one: one.seq)
    assert [one.messages for one in items] == [7] * 14 + [2]
    assert stream.on_disk() == list(range(100))


def test_a_segment_is_due_when_it_is_old(tmp_path: Path) -> None:
    stream = Stream(tmp_path, segment_s=10)
    stream.now_s += 100
    assert not stream.log.is_due, "there is none"
    stream.add()
    stream.now_s += 9.9
    assert not stream.log.is_due
    stream.now_s += 0.1
    assert stream.log.is_due
    stream.log.cut()
    assert stream.log.is_empty
    assert not stream.log.is_due


def test_a_message_that_is_refused_costs_no_other_and_leaves_nothing_behind(tmp_path: Path) -> None:
    stream = Stream(tmp_path)
    with pytest.raises(UnicodeEncodeError):
        stream.log.append(Topic("/\ud800", "json"), START_NS, 0, b"{}")
    stream.log.cut()
    assert stream.journals() == []
    assert list(stream.spool.waiting()) == []
    stream.add(2)
    for _ in range(2):
        with pytest.raises(UnicodeEncodeError):
            stream.log.append(Topic("/\ud800", "json"), START_NS, 0, b"{}")
    stream.add(2)
    stream.log.cut()
    assert stream.on_disk() == [0, 1, 2, 3]


@pytest.mark.parametrize("what", ["sealed", "never held a message"])
def test_a_journal_that_cannot_be_removed_is_left_to_recovery(
    tmp_path: Path, what: Literal["sealed", "never held a message"]
) -> None:
    stream = Stream(tmp_path)
    stream.disk.fail("unlink", error=errno.EIO)
    if what == "sealed":
        stream.add(3)
    else:
        with pytest.raises(UnicodeEncodeError):
            stream.log.append(Topic("/\ud800", "json"), START_NS, 0, b"{}")
    stream.log.cut()
    assert stream.alarms == []
    assert len(stream.journals()) == 1
    recover(Spool(tmp_path))
    assert stream.journals() == []
    assert stream.on_disk() == stream.taken
