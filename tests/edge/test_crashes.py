"""A crash between any two steps of the spool's work loses nothing, and has nothing twice: not even in the sums."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge import eviction, ledger, wire
from edge.records import Topic
from edge.recovery import recover, repair
from edge.segment import SegmentFacts, sha256_of
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled
from edge.stream_log import StreamLog
from tests.edge.cutting_disk import cut_at_every_step, recorded_in

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

RECORDING = "01J00000000000000000000000"
View = Callable[[Path], "SpoolView"]


def receipt(item: Spooled) -> wire.Receipt:
    return wire.Receipt("raw/k", item.sha256, item.bytes, 5, already_stored=False)


def acknowledge(spool: Spool, item: Spooled) -> None:
    spool.acknowledge(item, receipt(item))


def covered(spool: Spool, *, stream: str = "telemetry") -> list[int]:
    """The seqs that wait, as segments or in gap records, in order; each item's bytes must be there and whole."""
    seqs = []
    for item in spool.waiting(RECORDING, stream=stream):
        assert sha256_of(spool.data_path(item).read_bytes()) == item.sha256
        seqs += range(item.seq, item.last_seq + 1)
    return sorted(seqs)


def leftovers(folder: Path) -> list[str]:
    """Files that belong to no item that waits."""
    spool = Spool(folder)
    known = {path for item in spool.waiting() for path in (spool.data_path(item), spool.facts_path(item))}
    known |= {path.with_suffix(".parts") for path in known if path.suffix == ".gap"}
    return [str(path) for path in (folder / "sealed").rglob("*") if path.is_file() and path not in known]


def a_few(view: View, *, seqs: tuple[int, ...] = (3, 4, 7)) -> Callable[[Path], list[Spooled]]:
    return lambda folder: [view(folder).add(seq) for seq in seqs]


def a_gap(view: View) -> Callable[[Path], Spooled]:
    """Seqs 3, 4 and 5 of three messages each, gone."""

    def prepare(folder: Path) -> Spooled:
        stems = [view(folder).add(seq).stem for seq in (3, 4, 5)]
        (gap,) = eviction.evict(Spool(folder), stems)
        return gap

    return prepare


def test_sealing(tmp_path: Path, view: View) -> None:
    def prepare(folder: Path) -> StreamLog:
        log = StreamLog(Spool(folder), RECORDING, "telemetry", kind="telemetry", settings=EdgeSettings(folder=folder))
        for n in range(5):
            log.append(Topic("/t", "json"), n, n, b"{}")
        log.sync(now=True)
        return log

    def act(spool: Spool, log: StreamLog) -> None:
        log._spool = spool
        log.cut()

    def check(folder: Path, log: StreamLog, has_cut: bool) -> None:
        assert [one.t_ns for one in view(folder).messages("telemetry")] == list(range(5))
        assert not list((folder / "open").iterdir())
        (closing,) = view(folder).closing()
        assert closing["last_seq"] == {"telemetry": 0, "_agent": 0}
        assert leftovers(folder) == []

    steps = cut_at_every_step(tmp_path, prepare, act, check, recorded=[5], before_recovery=[0, 5])
    assert steps >= 8


def test_recovering(tmp_path: Path, view: View) -> None:
    """A dead recorder left two journals, one of which was sealed already, and its agent a segment on its way out."""

    def prepare(folder: Path) -> None:
        spool = Spool(folder)
        log = StreamLog(spool, RECORDING, "telemetry", kind="telemetry", settings=EdgeSettings(folder=folder))
        for n in range(10):
            log.append(Topic("/t", "json"), n, n, b"{}")
            log.sync(now=True)
            if n == 4:
                path = spool.journal_path(RECORDING, "telemetry", 0, kind="telemetry")
                journal = path.read_bytes()
                log.cut()
                path.write_bytes(journal)
        added = view(folder).add(0, stream="head")
        spool.remember(added, key="k", server_time_ns=1)

    def check(folder: Path, prepared: Any, has_cut: bool) -> None:
        assert [one.t_ns for one in view(folder).messages("telemetry")] == list(range(10))
        assert len(view(folder).closing()) == 1
        assert [one.stream for one in Spool(folder).acknowledged(RECORDING)] == ["head"]
        assert leftovers(folder) == []

    steps = cut_at_every_step(
        tmp_path, prepare, lambda spool, _: recover(spool), check, recorded=[13], before_recovery=[8, 13]
    )
    assert steps >= 20


def test_adding_a_segment(tmp_path: Path, view: View) -> None:
    other = view(tmp_path / "other")
    body, facts = other.body(other.add(0)), other.segments("telemetry")[0]

    def act(spool: Spool, _: Any) -> None:
        known = SegmentFacts(facts.start_ns, facts.end_ns, facts.bytes, facts.sha256, facts.counts)
        spool.add((RECORDING, "telemetry", 0), known, body, kind="telemetry", content_type=wire.MCAP_TYPE)

    def check(folder: Path, _: Any, has_cut: bool) -> None:
        assert covered(Spool(folder)) == [0] or (has_cut and covered(Spool(folder)) == [])
        assert leftovers(folder) == []

    assert cut_at_every_step(tmp_path, lambda _: None, act, check, recorded=[0, 3]) >= 8


def test_adding_a_video_file(tmp_path: Path) -> None:
    """Its bytes alone cannot be made an item again: they are set aside, and a gap record tells of it."""
    facts = SegmentFacts(5, 6, 4, sha256_of(b"film"), {"/head": 4})

    def act(spool: Spool, _: Any) -> None:
        spool.add((RECORDING, "head", 0), facts, b"film", kind="video", content_type=wire.MP4_TYPE)

    def check(folder: Path, _: Any, has_cut: bool) -> None:
        spool = Spool(folder)
        waiting, aside = list(spool.waiting()), spool.quarantined()
        assert [one.is_gap for one in waiting] in ([False], [True]) or (has_cut and not waiting)
        assert len(aside) == sum(one.is_gap for one in waiting)
        assert all(path.read_bytes() == b"film" for path in (folder / "quarantine").rglob("*.damaged"))
        assert leftovers(folder) == []

    assert cut_at_every_step(tmp_path, lambda _: None, act, check, recorded=[0, 4]) >= 8


def test_acknowledging(tmp_path: Path, view: View) -> None:
    def check(folder: Path, added: Spooled, has_cut: bool) -> None:
        spool = Spool(folder)
        waiting, stored = list(spool.waiting()), spool.acknowledged(RECORDING)
        assert [*waiting, *stored] == [added]
        assert bool(stored) or has_cut
        assert covered(spool) == [one.seq for one in waiting]
        assert leftovers(folder) == []

    steps = cut_at_every_step(tmp_path, lambda folder: view(folder).add(0), acknowledge, check, recorded=[3])
    assert steps >= 4


def test_acknowledging_a_gap_record(tmp_path: Path, view: View) -> None:
    def check(folder: Path, gap: Spooled, has_cut: bool) -> None:
        spool = Spool(folder)
        assert [*spool.waiting(), *spool.acknowledged(RECORDING)] == [gap]
        assert bool(spool.acknowledged(RECORDING)) or has_cut
        assert leftovers(folder) == []

    assert cut_at_every_step(tmp_path, a_gap(view), acknowledge, check, recorded=[9]) >= 5


@pytest.mark.parametrize("leaves_gap", [True, False])
def test_quarantining(tmp_path: Path, view: View, leaves_gap: bool) -> None:
    def check(folder: Path, added: Spooled, has_cut: bool) -> None:
        spool = Spool(folder)
        waiting, aside = list(spool.waiting()), [one for one, _ in spool.quarantined()]
        assert aside == [added] or (has_cut and waiting == [added])
        if aside:
            assert [one.cause for one in waiting] == (["quarantined"] if leaves_gap else [])
        place = "quarantine" if aside else "sealed"
        assert sha256_of((folder / place / f"{added.stem}.mcap").read_bytes()) == added.sha256
        assert leftovers(folder) == []

    def act(spool: Spool, added: Spooled) -> None:
        spool.quarantine(added, "bad_body: x", leaves_gap=leaves_gap)

    assert cut_at_every_step(tmp_path, lambda folder: view(folder).add(0), act, check, recorded=[3]) >= 7


def test_quarantining_a_gap_record(tmp_path: Path, view: View) -> None:
    def check(folder: Path, gap: Spooled, has_cut: bool) -> None:
        spool = Spool(folder)
        assert [*spool.waiting(), *(one for one, _ in spool.quarantined())] == [gap]
        assert leftovers(folder) == []

    def act(spool: Spool, gap: Spooled) -> None:
        spool.quarantine(gap, "bad_gap: x")

    assert cut_at_every_step(tmp_path, a_gap(view), act, check, recorded=[9]) >= 6


def test_evicting(tmp_path: Path, view: View) -> None:
    def check(folder: Path, added: list[Spooled], has_cut: bool) -> None:
        spool = Spool(folder)
        assert covered(spool) == [3, 4, 7]
        assert has_cut or all(one.is_gap for one in spool.waiting())
        assert leftovers(folder) == []

    def act(spool: Spool, added: list[Spooled]) -> None:
        eviction.evict(spool, [one.stem for one in added])

    assert cut_at_every_step(tmp_path, a_few(view), act, check, recorded=[9]) >= 20


def test_evicting_beside_what_an_eviction_had_to_leave(tmp_path: Path, view: View) -> None:
    """The disk did not take the record of seqs 3 and 4; then 5 has to go, too."""

    def prepare(folder: Path) -> Spooled:
        spool = Spool(folder)
        for seq in (3, 4):
            item = view(folder).add(seq)
            spool.facts_path(item).rename(spool.facts_path(item).with_suffix(".evicted"))
            if seq == 3:
                spool.data_path(item).unlink()
        return view(folder).add(5)

    def check(folder: Path, added: Spooled, has_cut: bool) -> None:
        spool = Spool(folder)
        assert covered(spool) == [3, 4, 5]
        assert has_cut or [(one.seq, one.last_seq) for one in spool.waiting()] == [(3, 5)]
        assert leftovers(folder) == []

    steps = cut_at_every_step(
        tmp_path, prepare, lambda spool, added: eviction.evict(spool, [added.stem]), check, recorded=[9]
    )
    assert steps >= 12


@pytest.mark.parametrize("is_ours", [True, False])
def test_learning_that_the_first_of_a_gap_had_arrived(tmp_path: Path, view: View, is_ours: bool) -> None:
    def act(spool: Spool, gap: Spooled) -> None:
        parts = [json.loads(line) for line in spool.data_path(gap).with_suffix(".parts").read_text().splitlines()]
        eviction.arrived_after_all(spool, gap, stored_sha256=parts[0]["sha256"] if is_ours else "00" * 32)

    def check(folder: Path, gap: Spooled, has_cut: bool) -> None:
        spool = Spool(folder)
        waiting, stored = sorted(spool.waiting(), key=lambda one: one.stem), spool.acknowledged(RECORDING)
        assert set(covered(spool)) | {one.seq for one in stored} == {3, 4, 5}
        assert [one.is_gap for one in stored] in ([], [not is_ours])
        if not has_cut:
            assert [(one.seq, one.last_seq, one.messages) for one in waiting] == [(4, 5, 6)]
            assert [(one.seq, one.last_seq, one.messages) for one in stored] == [(3, 3, 3)]
            assert leftovers(folder) == []

    assert cut_at_every_step(tmp_path, a_gap(view), act, check, recorded=[9]) >= 10


def test_losing_bytes(tmp_path: Path, view: View) -> None:
    def prepare(folder: Path) -> Spooled:
        added = view(folder).add(3)
        Spool(folder).data_path(added).unlink()
        return added

    def check(folder: Path, added: Spooled, has_cut: bool) -> None:
        (waits,) = Spool(folder).waiting()
        assert waits == added or waits.cause == "lost"

    assert cut_at_every_step(tmp_path, prepare, eviction.lost, check, recorded=[3]) >= 8


def test_folding(tmp_path: Path, view: View) -> None:
    def prepare(folder: Path) -> None:
        spool = Spool(folder)
        for seq in range(3):
            acknowledge(spool, view(folder).add(seq))
        (gap,) = eviction.evict(spool, [view(folder).add(3).stem])
        acknowledge(spool, gap)
        spool.tidy()

    def check(folder: Path, _: Any, has_cut: bool) -> None:
        assert has_cut or not (folder / "ledger" / f"{RECORDING}.jsonl").exists()
        ledger.fold(Spool(folder), older_than_s=-1)
        assert recorded_in(folder) == 12
        assert list(ledger.folded(Spool(folder))) == [(RECORDING, {"telemetry": {"uploaded": 9, "dropped": 3}})]

    steps = cut_at_every_step(
        tmp_path, prepare, lambda spool, _: ledger.fold(spool, older_than_s=-1), check, recorded=[12]
    )
    assert steps >= 3


@pytest.mark.parametrize("what", ["segment", "gap", "video file", "nothing"])
def test_making_damaged_facts_again(tmp_path: Path, view: View, what: str) -> None:
    def prepare(folder: Path) -> Spooled:
        spool = Spool(folder)
        if what == "gap":
            item = a_gap(view)(folder)
        elif what == "video file":
            facts = SegmentFacts(5, 6, 4, sha256_of(b"film"), {"/head": 9})
            item = spool.add((RECORDING, "telemetry", 3), facts, b"film", kind="video", content_type=wire.MP4_TYPE)
        else:
            item = view(folder).add(3, messages=9)
        spool.facts_path(item).write_bytes(b"\0" * 50)
        if what == "nothing":
            spool.data_path(item).unlink()
        return item

    def check(folder: Path, item: Spooled, has_cut: bool) -> None:
        spool = Spool(folder)
        waits = spool.read(item.stem)
        if waits is None:
            assert has_cut
            repair(spool, item.stem)
            waits = spool.read(item.stem)
        assert waits is not None
        if what in ("segment", "gap"):
            assert waits == item
            assert not spool.quarantined()
        else:
            assert (waits.seq, waits.last_seq, waits.cause) == (3, 3, "quarantined")
            kept = [path.read_bytes() for path in (folder / "quarantine").rglob("*.damaged")]
            assert kept == ([b"film"] if what == "video file" else [])

    recorded = [0, 9] if what in ("segment", "gap") else [0]
    steps = cut_at_every_step(tmp_path, prepare, lambda spool, item: repair(spool, item.stem), check, recorded=recorded)
    assert steps >= 4
