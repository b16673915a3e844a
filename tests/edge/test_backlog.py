"""What waits is found without listing it again and again, and goes in the order of its worth."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge.asked import Asked, ask, read_asked
from edge.backlog import Backlog, Waiting
from edge.errors import SpoolError
from edge.eviction import evict
from edge.policy import StreamPolicy
from edge.spool import Spool, Spooled
from edge.wire import Receipt
from tests.edge.conftest import SpoolView
from tests.edge.delivering import QuickDisk

RECORDING = "01J00000000000000000000000"
NEWER = "01K00000000000000000000000"
START_NS = 1_760_000_000_000_000_000
View = Callable[[Path], SpoolView]


def taken(backlog: Backlog, *, metered: bool = False) -> list[tuple[str, int]]:
    """Everything that may be sent, in order."""
    found = []
    while (item := backlog.take(metered=metered)) is not None:
        found.append((item.stream, item.seq))
    return found


def test_the_most_valuable_goes_first_and_the_oldest_of_it(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    for seq in (1, 0):
        for stream in ("head", "head_preview", "telemetry", "_agent"):
            seen.add(seq, stream=stream)
    seen.add(5, recording=NEWER)
    backlog = Backlog(Spool(tmp_path), {"head": StreamPolicy(priority=5)})
    backlog.look()
    order = [("_agent", 0), ("_agent", 1), ("head", 0), ("head", 1), ("telemetry", 0), ("telemetry", 1)]
    assert taken(backlog) == [*order, ("telemetry", 5), ("head_preview", 0), ("head_preview", 1)]


def test_what_is_new_is_found_at_the_next_look(tmp_path: Path, view: View) -> None:
    seen, backlog = view(tmp_path), Backlog(Spool(tmp_path), {})
    backlog.look()
    assert taken(backlog) == []
    for recording, stream, seq in [(RECORDING, "telemetry", 0), (RECORDING, "head", 0), (NEWER, "telemetry", 3)]:
        seen.add(seq, recording=recording, stream=stream)
        backlog.look()
        assert taken(backlog) == [(stream, seq)]
    for seq in (1, 2):
        seen.add(seq)
    backlog.look()
    assert taken(backlog) == [("telemetry", 1), ("telemetry", 2)]


def test_a_seq_behind_a_hole_is_found_when_the_folders_are_listed_again(tmp_path: Path, view: View) -> None:
    seen, backlog = view(tmp_path), Backlog(Spool(tmp_path), {}, relist_s=0.0)
    seen.add(0)
    backlog.look()
    seen.add(7)
    backlog.look()
    assert taken(backlog) == [("telemetry", 0), ("telemetry", 7)]


def calls_to_the_disk(patch: pytest.MonkeyPatch) -> list[str]:
    """What is listed or looked up from now on."""
    calls: list[str] = []

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            calls.append(f"{name} {args[0] if args else '.'}")
            return real(*args, **named)

        return call

    for name in ("scandir", "listdir", "stat", "open"):
        patch.setattr(os, name, counting(name, getattr(os, name)))
    return calls


def many_waiting(seen: SpoolView, count: int, *, stream: str = "telemetry") -> None:
    """As many as an agent finds after days without a link; their bytes do not matter here."""
    first = seen.add(0, stream=stream)
    facts = seen.spool.facts_path(first)
    for seq in range(1, count):
        os.link(facts, facts.with_name(f"{seq:010d}.json"))


def test_a_look_costs_the_same_with_a_large_backlog(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = []
    for count in (5, 5000):
        seen = view(tmp_path / str(count))
        many_waiting(seen, count)
        backlog = Backlog(seen.spool, {})
        backlog.look()
        assert len(backlog) == count
        with monkeypatch.context() as patch:
            calls = calls_to_the_disk(patch)
            backlog.look()
            costs.append([call.split()[0] for call in calls])
    assert costs[0] == costs[1]
    assert len(costs[0]) < 20


def test_folders_in_which_nothing_came_or_went_are_not_listed_again(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = view(tmp_path)
    seen.add(0)
    folders = (tmp_path / "sealed" / RECORDING, tmp_path / "requests")
    for folder in folders:
        os.utime(folder, (1e9, 1e9))
    backlog = Backlog(seen.spool, {})
    for _ in range(2):
        backlog.look()
    with monkeypatch.context() as patch:
        calls = calls_to_the_disk(patch)
        backlog.look()
    assert [call for call in calls if not call.startswith("stat")] == [f"scandir {tmp_path / 'sealed'}"]
    seen.add(0, stream="head")
    backlog.look()
    assert taken(backlog) == [("telemetry", 0), ("head", 0)]


def test_what_stays_here_is_looked_up_once_for_each_wish(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = view(tmp_path)
    many_waiting(seen, 50, stream="lidar")
    backlog = Backlog(seen.spool, {"lidar": StreamPolicy(send="on_request")})
    reads: list[str] = []
    read = Spool.read
    monkeypatch.setattr(Spool, "read", lambda spool, stem: reads.append(stem) or read(spool, stem))  # type: ignore[func-returns-value]
    backlog.look()
    assert reads == []
    ask(seen.spool, Asked("lidar", "*", START_NS - 9, START_NS - 5))
    for _ in range(3):
        backlog.look()
    assert len(reads) == 50
    seen.add(50, stream="lidar")
    for _ in range(3):
        backlog.look()
    assert len(reads) == 51


def test_nothing_is_kept_in_memory_of_what_is_gone(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    backlog = Backlog(seen.spool, {"lidar": StreamPolicy(send="on_request")}, relist_s=0.0)
    for seq in range(30):
        added = seen.add(seq, stream="lidar")
        backlog.look()
        seen.spool.acknowledge(added, Receipt("k", added.sha256, added.bytes, 1, already_stored=False))
        backlog.forget(added.stem)
    seen.spool.tidy()
    backlog.look()
    assert len(backlog) == backlog.total_bytes == 0
    assert backlog._streams == {}
    assert not any(backlog._heaps.values())


def test_the_bytes_that_wait_are_known(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    added = [seen.add(seq, stream="head", messages=seq + 1) for seq in range(4)]
    backlog = Backlog(seen.spool, {})
    backlog.look()
    assert backlog.total_bytes == sum(one.bytes for one in added)
    seen.spool.acknowledge(added[1], Receipt("k", added[1].sha256, added[1].bytes, 1, already_stored=False))
    backlog.forget(added[1].stem)
    assert backlog.total_bytes == sum(one.bytes for one in added) - added[1].bytes
    (gap,) = evict(seen.spool, [added[2].stem, added[3].stem])
    for one in added[2:]:
        backlog.forget(one.stem)
    backlog.refresh(gap.stem)
    assert backlog.total_bytes == added[0].bytes + gap.bytes
    assert [one.stem for one in backlog.evictable(busy=())] == [added[0].stem], "a gap record is never evicted"
    assert list(backlog.evictable(busy={added[0].stem})) == []
    assert taken(backlog) == [("head", 2), ("head", 0)], "what is lost is told before all else"


def test_an_item_that_could_not_be_sent_waits_again(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    for seq in range(2):
        seen.add(seq)
    backlog = Backlog(seen.spool, {})
    backlog.look()
    first = backlog.take(metered=False)
    assert first is not None
    backlog.put_back(first)
    assert taken(backlog) == [("telemetry", 0), ("telemetry", 1)]


def test_a_metered_link_carries_what_always_goes(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    seen.add(0)
    seen.add(0, stream="head")
    backlog = Backlog(seen.spool, {"head": StreamPolicy(send="unmetered")})
    backlog.look()
    assert taken(backlog, metered=True) == [("telemetry", 0)]
    assert taken(backlog, metered=False) == [("head", 0)]


def test_what_stays_on_the_robot_goes_when_it_is_asked_for(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    for seq in range(4):
        seen.add(seq, stream="lidar")  # a second each
    backlog = Backlog(seen.spool, {"lidar": StreamPolicy(send="on_request")})
    backlog.look()
    assert taken(backlog) == []
    ask(seen.spool, Asked("li*", RECORDING, START_NS + 1_500_000_000, START_NS + 2_500_000_000))
    backlog.look()
    assert taken(backlog) == [("lidar", 2)]
    ask(seen.spool, Asked("lidar"))
    seen.add(4, stream="lidar")
    backlog.look()
    assert taken(backlog) == [("lidar", 0), ("lidar", 1), ("lidar", 3), ("lidar", 4)]


def test_a_damaged_request_asks_for_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    ask(spool, Asked("head"))
    (tmp_path / "requests" / "x.json").write_text('{"stream": "*"}')
    assert read_asked(spool) == [Asked("head")]
    with pytest.raises(SpoolError, match="must not be empty"):
        ask(spool, Asked("head", start_ns=5, end_ns=5))


def test_a_disk_that_does_not_give_the_facts_leaves_it_where_it_is(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = view(tmp_path)
    for stream in ("lidar", "telemetry"):
        seen.add(0, stream=stream)
    ask(seen.spool, Asked("lidar"))

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Spool, "read", fail)
    backlog = Backlog(seen.spool, {"lidar": StreamPolicy(send="on_request")})
    backlog.look()
    assert taken(backlog) == [("telemetry", 0)]


def test_the_place_of_an_item_is_taken_by_its_gap_record_alone(tmp_path: Path, view: View) -> None:
    """It went while it waited to be sent again: what is put back then is nothing any more."""
    seen = view(tmp_path)
    added = seen.add(0, stream="head")
    backlog = Backlog(seen.spool, {})
    backlog.look()
    item = backlog.take(metered=False)
    assert item is not None
    (gap,) = evict(seen.spool, [added.stem])
    backlog.forget(added.stem)
    backlog.refresh(gap.stem)
    backlog.put_back(item)
    assert taken(backlog) == [("head", 0)]


# -- against a plain reference ---------------------------------------------------------------------------------

POLICIES = {
    "head": StreamPolicy(send="unmetered"),
    "lidar": StreamPolicy(send="on_request", priority=40),
    "imu": StreamPolicy(priority=15),
}
STREAMS = ("telemetry", "_agent", *POLICIES)
PRIORITIES = {"telemetry": 10, "_agent": 0, "head": 30, "lidar": 40, "imu": 15}


class BacklogLikeAList(RuleBasedStateMachine):
    """Whatever happens to the spool, the backlog offers what a sorted list of all that waits would."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = SpoolView(Spool(Path(tempfile.mkdtemp()), disk=QuickDisk()))
        self.spool = self.seen.spool
        self.backlog = Backlog(self.spool, POLICIES, relist_s=1e9)
        self.next_seq = dict.fromkeys(STREAMS, 0)
        self.hidden: set[str] = set()  # behind a hole: not known until the folders are listed
        self.folders: set[Path] = set()  # those that are known are not listed again
        self.away: dict[str, Waiting] = {}
        self.asked = False
        self.backlog.look()

    @rule(stream=st.sampled_from(STREAMS), hole=st.sampled_from((0, 0, 0, 2)))
    def seal(self, stream: str, hole: int) -> None:
        seq = self.next_seq[stream] + hole
        self.next_seq[stream] = seq + 1
        added = self.seen.add(seq, stream=stream, messages=1 + seq % 5)
        is_known = self.spool.data_path(added).parent in self.folders
        if is_known and (hole or any(f"/{stream}/" in stem for stem in self.hidden)):
            self.hidden.add(added.stem)
        self.folders.add(self.spool.data_path(added).parent)
        self.backlog.look()

    @rule()
    def list_again(self) -> None:
        self.backlog.relist()
        self.backlog.look()
        self.hidden.clear()

    @rule(metered=st.booleans())
    def take(self, metered: bool) -> None:
        item = self.backlog.take(metered=metered)
        expected = self._sorted(metered=metered)
        assert (item and item.stem) == (expected[0] if expected else None)
        if item is not None:
            self.away[item.stem] = item

    @precondition(lambda self: self.away)
    @rule(fate=st.sampled_from(("delivered", "refused", "again")))
    def end_a_try(self, fate: str) -> None:
        stem, item = self.away.popitem()
        found = self.spool.read(stem)
        assert found is not None
        if fate == "again":
            self.backlog.put_back(item)
            return
        if fate == "delivered" or found.is_gap:
            self.spool.acknowledge(found, Receipt("k", found.sha256, found.bytes, 1, already_stored=False))
        else:
            self.spool.quarantine(found, "bad_body: x")
        self.backlog.forget(stem)
        if fate == "refused" and not found.is_gap:
            self.backlog.refresh(stem)

    @rule(count=st.integers(1, 3))
    def evict(self, count: int) -> None:
        stems = [one.stem for one in self.backlog.evictable(busy=self.away)][:count]
        gaps = evict(self.spool, stems)
        for stem in stems:
            self.backlog.forget(stem)
        for gap in gaps:
            self.backlog.refresh(gap.stem)

    @rule()
    def ask_for_lidar(self) -> None:
        self.asked = True
        ask(self.spool, Asked("lidar"))
        self.backlog.look()

    @invariant()
    def bytes_are_right(self) -> None:
        known = [one for one in self.spool.waiting() if one.stem not in self.hidden]
        assert len(self.backlog) == len(known)
        assert self.backlog.total_bytes == sum(one.bytes for one in known)

    def _sorted(self, *, metered: bool) -> list[str]:
        ready = []
        for one in self.spool.waiting():
            send = POLICIES.get(one.stream, StreamPolicy()).send
            may_go = one.is_gap or send == "always" or (send == "unmetered" and not metered)
            if one.stem not in self.hidden and one.stem not in self.away and (may_go or self._is_asked_for(one)):
                priority = 0 if one.is_gap else PRIORITIES[one.stream]
                ready.append(((priority, one.recording, one.seq, one.stream), one.stem))
        return [stem for _, stem in sorted(ready)]

    def _is_asked_for(self, one: Spooled) -> bool:
        return self.asked and one.stream == "lidar"

    def teardown(self) -> None:
        shutil.rmtree(self.spool.folder)


BacklogLikeAList.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestBacklogLikeAList = BacklogLikeAList.TestCase


def test_what_cannot_be_read_does_not_hide_the_rest(tmp_path: Path, view: View) -> None:
    """A link that leads to itself is an entry that nobody, root included, can look into."""
    seen = view(tmp_path)
    seen.add(0)
    for place in ("sealed", f"sealed/{RECORDING}", f"sealed/{RECORDING}/telemetry", f"sealed/{RECORDING}/head"):
        (tmp_path / place).mkdir(exist_ok=True)
    loops = [
        tmp_path / "sealed" / NEWER,
        tmp_path / "sealed" / RECORDING / "tail",
        tmp_path / "sealed" / RECORDING / "telemetry" / "0000000001.json",
        tmp_path / "sealed" / RECORDING / "head" / "0000000000.mcap",
        tmp_path / "requests" / "a.json",
        tmp_path / "quarantine" / RECORDING / "head" / "0000000000.mcap",
    ]
    for loop in loops:
        loop.parent.mkdir(parents=True, exist_ok=True)
        loop.symlink_to(loop.name)
    (tmp_path / "sealed" / RECORDING / "head" / "0000000000.json").write_text("")
    ask(Spool(tmp_path), Asked("head"))
    backlog = Backlog(Spool(tmp_path), {}, relist_s=0.0)
    backlog.look()
    assert ("telemetry", 0) in taken(backlog)
    assert read_asked(Spool(tmp_path)) == [Asked("head")]
    assert Spool(tmp_path).bytes_aside() < 100
