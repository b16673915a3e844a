"""Nothing leaves the spool without a matching receipt, and a crash between any two steps loses and doubles nothing."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge import wire
from edge.disk import DISK, Disk, read_lines
from edge.errors import BadName, SpoolError
from edge.records import Topic
from edge.recovery import recover
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled, lock_file
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
    assert again.spool.read(added.stem) == added


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
    gap = spool.quarantine(added, "bad_body: not MCAP")
    assert gap is not None
    assert list(spool.waiting()) == [gap]
    told = wire.Gap.parse(spool.data_path(gap).read_bytes())
    assert (told.first_seq, told.last_seq, told.cause, told.reason) == (0, 0, "quarantined", "bad_body: not MCAP")
    assert (told.counts, told.size_bytes) == (added.counts, added.bytes)
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


def test_whoever_asks_whether_a_recording_is_live_keeps_no_recorder_from_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    os.close(spool.lock_recording(RECORDING))
    asking = lock_file(tmp_path / "open" / RECORDING / "lock", shared=True)
    assert asking is not None
    assert not spool.is_live(RECORDING), "another who asks is no recorder"
    with pytest.raises(SpoolError, match="another process"):
        spool.lock_recording(RECORDING)
    answered = threading.Timer(0.05, os.close, [asking])
    answered.start()
    lock = spool.lock_recording(RECORDING, wait_s=20)
    answered.join()
    assert spool.is_live(RECORDING)
    spool.release_recording(RECORDING, lock)


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


@pytest.mark.parametrize("name", ["00.json", "notes.txt", "0000000000.mcap.tmp", "x.evicted"])
def test_a_file_that_is_not_ours_disturbs_nothing(tmp_path: Path, view: View, name: str) -> None:
    added = view(tmp_path).add(3)
    (tmp_path / "sealed" / RECORDING / "telemetry" / name).write_bytes(b"what is this")
    spool = Spool(tmp_path)
    recover(spool)
    assert list(spool.waiting()) == [added]
    assert spool.last_seqs(RECORDING) == {"telemetry": 3}


def test_folders_of_what_was_delivered_are_removed_and_those_in_use_are_not(tmp_path: Path, view: View) -> None:
    seen, other = view(tmp_path), "01J00000000000000000000001"
    spool, added = seen.spool, seen.add(0)
    seen.add(0, recording=other)
    spool.acknowledge(added, _receipt(added))
    spool.tidy()
    assert [path.name for path in (tmp_path / "sealed").iterdir()] == [other]
    assert spool.acknowledged(RECORDING) == [added]


def test_folders_that_are_tidied_away_while_somebody_looks_hold_nothing(tmp_path: Path, view: View) -> None:
    seen = view(tmp_path)
    for stream in ("head", "telemetry"):
        seen.add(0, stream=stream)
    looking = seen.spool.waiting()
    first = next(looking)
    shutil.rmtree(tmp_path / "sealed" / RECORDING / ("head" if first.stream == "telemetry" else "telemetry"))
    assert list(looking) == []


def test_a_folder_that_is_tidied_away_while_a_segment_comes_is_made_again(tmp_path: Path, view: View) -> None:
    spool, added = view(tmp_path).spool, view(tmp_path).add(0)
    spool.acknowledge(added, _receipt(added))

    class TidyDisk(Disk):
        def make_folder(self, folder: Path) -> None:
            super().make_folder(folder)
            if not was_tidied:
                was_tidied.append(True)
                spool.tidy()

    was_tidied: list[bool] = []
    seen = view(tmp_path)
    seen.spool.disk = TidyDisk()
    again = seen.add(1)
    assert was_tidied
    assert list(spool.waiting()) == [again]


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
    log.append(Topic("/t", "json"), 1, 1, b"{}")
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
