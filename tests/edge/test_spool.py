"""Nothing leaves the spool without a matching receipt, and a crash between any two steps loses and doubles nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge import wire
from edge.disk import DISK, read_lines
from edge.errors import BadName, SpoolError
from edge.recovery import recover
from edge.segment import Message, SegmentWriter, Topic
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled
from edge.status import status
from edge.stream_log import StreamLog

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

RECORDING = "01J00000000000000000000000"
View = Callable[[Path], "SpoolView"]


def _receipt(spooled: Spooled) -> wire.Receipt:
    return wire.Receipt("raw/k", spooled.sha256, spooled.bytes, 5, already_stored=False)


def test_an_added_segment_waits_with_its_facts_and_bytes(tmp_path: Path, view: View) -> None:
    added = view(tmp_path).add(0)
    again = view(tmp_path)
    assert list(again.spool.waiting()) == [added]
    assert len(again.messages("telemetry")) == 3
    assert again.spool.last_seqs(RECORDING) == {"telemetry": 0}
    assert list(again.spool.waiting(known={added.stem})) == []


def test_a_matching_receipt_frees_the_disk_and_is_remembered(tmp_path: Path, view: View) -> None:
    spool, added = view(tmp_path).spool, view(tmp_path).add(0)
    spool.acknowledge(added, _receipt(added))
    assert list(spool.waiting()) == []
    assert Spool(tmp_path).acknowledged(RECORDING) == [added]
    assert spool.last_seqs(RECORDING) == {"telemetry": 0}
    assert not [path for path in (tmp_path / "sealed").rglob("*") if path.is_file()]


@pytest.mark.parametrize("wrong", [{"sha256": "00" * 32}, {"bytes": 1}])
def test_a_receipt_of_other_bytes_frees_nothing(tmp_path: Path, view: View, wrong: dict[str, Any]) -> None:
    spool, added = view(tmp_path).spool, view(tmp_path).add(0)
    with pytest.raises(SpoolError, match="other bytes"):
        spool.acknowledge(added, replace(_receipt(added), **wrong))
    assert list(spool.waiting()) == [added]
    assert spool.acknowledged(RECORDING) == []
    assert spool.data_path(added).exists()


def test_quarantine_keeps_the_bytes_and_the_reason(tmp_path: Path, view: View) -> None:
    spool, added = view(tmp_path).spool, view(tmp_path).add(0)
    body = spool.data_path(added).read_bytes()
    spool.quarantine(added, "bad_body: not MCAP")
    assert list(spool.waiting()) == []
    assert spool.quarantined() == [(added, "bad_body: not MCAP")]
    assert (tmp_path / "quarantine" / f"{added.stem}.mcap").read_bytes() == body
    assert spool.last_seqs(RECORDING) == {"telemetry": 0}


def test_two_receipts_for_one_segment_count_once(tmp_path: Path, view: View) -> None:
    spool, added = view(tmp_path).spool, view(tmp_path).add(0)
    spool.acknowledge(added, _receipt(added))
    spool.acknowledge(added, _receipt(added))
    assert spool.acknowledged(RECORDING) == [added]
    assert [line.uploaded for line in status(spool)] == [3]


def test_a_ledger_line_torn_by_a_crash_costs_no_line_after_it(tmp_path: Path, view: View) -> None:
    spool = view(tmp_path).spool
    added = [view(tmp_path).add(seq) for seq in range(3)]
    spool.acknowledge(added[0], _receipt(added[0]))
    ledger = tmp_path / "ledger" / f"{RECORDING}.jsonl"
    with ledger.open("ab") as file:
        file.write(b'{"recording": "01J0')
    for one in added[1:]:
        spool.acknowledge(one, _receipt(one))
    assert spool.acknowledged(RECORDING) == added


def test_two_holders_cannot_lock_one_recording(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    lock = spool.lock_recording(RECORDING)
    with pytest.raises(SpoolError, match="another process"):
        Spool(tmp_path).lock_recording(RECORDING)
    spool.release_recording(RECORDING, lock)
    os.close(Spool(tmp_path).lock_recording(RECORDING))


def test_a_lock_taken_while_its_holder_releases_it_still_protects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, take = Spool(tmp_path), fcntl.flock
    held = [spool.lock_recording(RECORDING)]

    def release_first(descriptor: int, operation: int) -> None:
        if held:
            spool.release_recording(RECORDING, held.pop())
        take(descriptor, operation)

    monkeypatch.setattr("edge.spool.fcntl.flock", release_first)
    lock = spool.lock_recording(RECORDING)
    with pytest.raises(SpoolError, match="another process"):
        Spool(tmp_path).lock_recording(RECORDING)
    spool.release_recording(RECORDING, lock)


@pytest.mark.parametrize("name", ["../x", "a", "01J/0000000000000000000000"])
def test_a_name_that_leaves_the_folder_makes_nothing(tmp_path: Path, name: str) -> None:
    spool = Spool(tmp_path / "spool")
    with pytest.raises(BadName):
        spool.lock_recording(name)
    with pytest.raises(BadName):
        spool.journal_path(RECORDING, "../../x", 0, kind="video")
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


def test_a_folder_that_cannot_be_used_is_a_spool_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SpoolError, match="cannot be used"):
            Spool(folder)


def test_an_empty_journal_seals_to_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    path = spool.journal_path(RECORDING, "telemetry", 0, kind="telemetry")
    SegmentWriter.journal(path).close()
    assert spool.seal(RECORDING, "telemetry", 0, kind="telemetry") is None
    assert not path.exists()


# -- crashes ---------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """Not an `Exception`, so that nothing handles it."""


class Cut:
    """Lets `after` changes of the disk happen, and cuts before the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.left, self.happened = after, False
        for where, names in ((os, ("open", "fsync", "replace", "unlink", "rmdir", "mkdir")), (Path, ("open", "mkdir"))):
            for name in names:
                monkeypatch.setattr(where, name, self._counting(getattr(where, name)))

    def _counting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if self.left == 0:
                self.happened = True
            if self.happened:
                raise PowerCut
            self.left -= 1
            return real(*args, **kwargs)

        return step


def _cut_at_every_step(
    folder: Path, act: Callable[[Path], Callable[[], object]], check: Callable[[Path, bool], None]
) -> int:
    """Run `act` on fresh folders, cut one step later each time, until it gets through; check each after recovery."""
    for after in range(200):
        here = folder / str(after)
        here.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            prepared = act(here)
            cut = Cut(patch, after)
            with contextlib.suppress(PowerCut):
                prepared()
        recover(Spool(here))
        recover(Spool(here))
        check(here, cut.happened)
        if not cut.happened:
            return after
    raise AssertionError("never got through")


def _sums(folder: Path) -> dict[str, int]:
    lines = {line.stream: line for line in status(Spool(folder))}
    for line in lines.values():
        assert line.recorded == line.uploaded + line.waiting + line.quarantined
    return {name: line.recorded for name, line in lines.items()}


def test_a_crash_at_any_step_of_sealing_loses_and_doubles_nothing(tmp_path: Path, view: View) -> None:
    def act(folder: Path) -> Callable[[], object]:
        spool = Spool(folder)
        writer = SegmentWriter.journal(spool.journal_path(RECORDING, "telemetry", 0, kind="telemetry"))
        for n in range(5):
            writer.add(Message(Topic("/t", "json"), n, n, b"{}"))
        writer.sync()
        writer.close()
        return lambda: spool.seal(RECORDING, "telemetry", 0, kind="telemetry")

    def check(folder: Path, happened: bool) -> None:
        assert [one.t_ns for one in view(folder).messages("telemetry")] == list(range(5)), happened
        assert _sums(folder)["telemetry"] == 5
        assert not list((folder / "open").iterdir())
        assert len(view(folder).closing()) == 1

    assert _cut_at_every_step(tmp_path, act, check) >= 8


def test_a_crash_at_any_step_of_acknowledging_loses_and_doubles_nothing(tmp_path: Path, view: View) -> None:
    def act(folder: Path) -> Callable[[], object]:
        added = view(folder).add(0)
        return lambda: Spool(folder).acknowledge(added, _receipt(added))

    def check(folder: Path, happened: bool) -> None:
        spool = Spool(folder)
        waiting, stored = list(spool.waiting()), spool.acknowledged(RECORDING)
        assert [one.seq for one in (*waiting, *stored)] == [0]
        assert bool(stored) or happened
        assert all(spool.data_path(one).exists() for one in waiting)
        assert _sums(folder) == {"telemetry": 3}

    assert _cut_at_every_step(tmp_path, act, check) >= 4


def test_a_crash_at_any_step_of_quarantining_keeps_the_bytes_in_one_place(tmp_path: Path, view: View) -> None:
    def act(folder: Path) -> Callable[[], object]:
        added = view(folder).add(0)
        return lambda: Spool(folder).quarantine(added, "bad_body: x")

    def check(folder: Path, happened: bool) -> None:
        spool = Spool(folder)
        waiting, aside = list(spool.waiting()), [one for one, _ in spool.quarantined()]
        assert [one.seq for one in (*waiting, *aside)] == [0]
        assert bool(aside) or happened
        place = "sealed" if waiting else "quarantine"
        assert (folder / place / f"{RECORDING}/telemetry/0000000000.mcap").stat().st_size > 100
        assert _sums(folder) == {"telemetry": 3}

    assert _cut_at_every_step(tmp_path, act, check) >= 4


def test_a_segment_half_way_to_quarantine_counts_once_before_recovery_too(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = view(tmp_path).add(0)

    def cut(*_: Any) -> None:
        raise PowerCut

    monkeypatch.setattr(Spool, "move_to_quarantine", cut)
    with pytest.raises(PowerCut):
        Spool(tmp_path).quarantine(added, "bad_body: x")
    assert _sums(tmp_path) == {"telemetry": 3}


def test_what_was_synced_has_every_folder_above_it_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()

    def watch(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        return sync

    monkeypatch.setattr(os, "fsync", watch(os.fsync))
    monkeypatch.setattr(os, "fdatasync", watch(os.fdatasync))
    folder = tmp_path / "var" / "robot"
    spool = Spool(folder)
    log = StreamLog(spool, RECORDING, "telemetry", kind="telemetry", settings=EdgeSettings(folder=folder))
    log.append(Topic("/t", "json"), 1, b"{}")
    log.sync(now=True)
    journal = spool.journal_path(RECORDING, "telemetry", 0, kind="telemetry")
    assert {str(path) for path in (journal, *list(journal.parents)[:5])} <= synced
    log.cut()
    (added,) = spool.waiting()
    spool.acknowledge(added, _receipt(added))
    sealed, ledger = folder / "sealed" / RECORDING / "telemetry", folder / "ledger"
    expected = (sealed, sealed.parent, sealed.parent.parent, ledger, ledger / f"{RECORDING}.jsonl")
    assert {str(path) for path in expected} <= synced
    assert {f"{sealed}/0000000000.mcap.tmp", f"{sealed}/0000000000.json.tmp"} <= synced


def test_the_ledger_survives_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: DISK.append_line(path, json.dumps({"n": n, "pad": "x" * 3000})), range(60)))
    found = [json.loads(line)["n"] for line in read_lines(path) if line]
    assert sorted(found) == list(range(60))
