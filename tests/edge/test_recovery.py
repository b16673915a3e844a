"""What a killed recorder leaves is completed: everything flushed is there, in order, once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge import wire
from edge.disk import DISK
from edge.journal import JournalWriter
from edge.recorder import Recorder
from edge.recording import write_closing, write_opening
from edge.records import Topic, message_record
from edge.recovery import recover, recover_recordings
from edge.spool import Spool, Spooled, stem_of

if TYPE_CHECKING:
    from tests.edge.conftest import SpoolView

RECORDING = "01J00000000000000000000000"
View = Callable[[Path], "SpoolView"]

VICTIM = """
import sys
import numpy as np
from edge.recorder import Recorder
from edge.settings import EdgeSettings

settings = EdgeSettings(folder=sys.argv[1], segment_s=0.15, sync_s=0.05)
recorder = Recorder(settings=settings, wait_for_room=True)
blank = np.zeros((16, 16, 3), np.uint8)
n = 0
while True:
    for _ in range(40):
        recorder.log("/n", n, {"n": n})
        n += 1
    recorder.image("head", n, blank)
    recorder.flush()
    print(n, flush=True)
"""


def _journal(spool: Spool, *, count: int, seq: int = 0) -> Path:
    path = spool.journal_path(RECORDING, "telemetry", seq, kind="telemetry")
    writer = JournalWriter(DISK, path, name=stem_of(RECORDING, "telemetry", seq))
    writer.describe(1, Topic("/t", "json"))
    for n in range(count):
        writer.add(message_record(1, n, n, n, b"{}"))
    writer.sync()
    writer.close()
    return path


def _kill_after(folder: Path, rounds: int) -> int:
    """How many messages a recorder said were flushed before it was killed, some moments after that many rounds."""
    process = subprocess.Popen([sys.executable, "-c", VICTIM, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(rounds):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    said = [line for line in process.stdout.read().splitlines() if line]
    process.wait()
    return int(said[-1]) if said else rounds * 40


@pytest.mark.parametrize("seed", range(10))
def test_a_recorder_killed_at_a_random_moment_keeps_everything_flushed(tmp_path: Path, view: View, seed: int) -> None:
    print(f"seed {seed}")
    flushed = _kill_after(tmp_path, random.Random(seed).randint(1, 60))
    recover(Spool(tmp_path))
    seen = view(tmp_path)
    found = seen.messages("telemetry")
    assert [json.loads(one.data)["n"] for one in found] == list(range(len(found)))
    assert [one.t_ns for one in found] == list(range(len(found)))
    assert len(found) >= flushed
    pictures = seen.messages("head")
    assert [one.t_ns for one in pictures] == [40 * (n + 1) for n in range(len(pictures))]
    assert len(pictures) >= flushed // 40
    (closing,) = seen.closing()
    assert closing["recovered"] is True
    assert closing["last_seq"] == seen.spool.last_seqs(seen.spool.recordings()[0])
    for stream in ("telemetry", "head"):
        assert [one.seq for one in seen.segments(stream)] == list(range(closing["last_seq"][stream] + 1))
    assert not list((tmp_path / "open").iterdir())
    with Recorder(tmp_path) as recorder:
        recorder.log("/again", 1, {})
    assert len(view(tmp_path).messages("telemetry", recording=recorder.recording_id)) == 1


def test_nothing_to_recover_is_nothing_done(tmp_path: Path) -> None:
    assert recover(Spool(tmp_path)) == []


def test_a_live_recorder_is_left_alone(tmp_path: Path, view: View) -> None:
    with Recorder(tmp_path) as recorder:
        recorder.log("/t", 1, {})
        recorder.flush()
        assert recover(Spool(tmp_path)) == []
        recorder.log("/t", 2, {})
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [1, 2]
    assert [one["recovered"] for one in view(tmp_path).closing()] == [False]


def test_a_journal_torn_inside_a_message_gives_the_messages_before_it(tmp_path: Path, view: View) -> None:
    path = _journal(Spool(tmp_path), count=5)
    os.truncate(path, path.stat().st_size - 3)
    recover(Spool(tmp_path))
    assert [one.t_ns for one in view(tmp_path).messages("telemetry")] == [0, 1, 2, 3]


@pytest.mark.parametrize("content", [b"not a journal at all", b"\0" * 4096, b"\xff" * 5])
def test_a_journal_that_nobody_can_read_is_kept_aside(tmp_path: Path, content: bytes) -> None:
    spool = Spool(tmp_path)
    spool.journal_path(RECORDING, "telemetry", 0, kind="telemetry").write_bytes(content)
    assert any("quarantined" in line for line in recover(spool))
    kept = list((tmp_path / "quarantine").rglob("*.damaged"))
    assert [path.read_bytes() for path in kept] == [content]
    (gap,) = spool.waiting(RECORDING, stream="telemetry")
    assert (gap.is_gap, gap.seq, gap.cause) == (True, 0, "quarantined")
    assert recover(Spool(tmp_path)) == []


def test_an_empty_journal_is_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.journal_path(RECORDING, "telemetry", 0, kind="telemetry").touch()
    recover(spool)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("where", ["sealed", "stored", "refused"])
def test_a_journal_whose_segment_went_on_already_is_not_sealed_twice(tmp_path: Path, view: View, where: str) -> None:
    spool = Spool(tmp_path)
    path = _journal(spool, count=5)
    journal = path.read_bytes()
    recover(spool)
    (sealed,) = spool.waiting(RECORDING, stream="telemetry")
    path.parent.mkdir(parents=True)
    if where == "stored":
        spool.acknowledge(sealed, wire.Receipt("k", sealed.sha256, sealed.bytes, 1, already_stored=False))
    if where == "refused":
        spool.quarantine(sealed, "bad_body: x")
    path.write_bytes(journal)  # the crash came before it was removed
    recover(spool)
    waiting = [one for one in spool.waiting() if one.stream == "telemetry" and not one.is_gap]
    assert len([*waiting, *spool.acknowledged(RECORDING), *spool.quarantined()]) == 1
    assert bool(waiting) == (where == "sealed")


def test_a_recording_that_was_closed_is_not_closed_again(tmp_path: Path, view: View) -> None:
    with Recorder(tmp_path) as recorder:
        recorder.log("/t", 1, {})
    spool = Spool(tmp_path)
    os.close(spool.lock_recording(recorder.recording_id))  # the crash came before its folder was removed
    recover(spool)
    assert [one["recovered"] for one in view(tmp_path).closing()] == [False]
    assert not list((tmp_path / "open").iterdir())


def test_recovering_twice_closes_once(tmp_path: Path, view: View) -> None:
    spool = Spool(tmp_path)
    write_opening(spool, RECORDING, 1, software_version="1")
    assert write_closing(spool, RECORDING, 2, dropped={"head": 3}, recovered=False) is not None
    assert write_closing(spool, RECORDING, 3, dropped={}, recovered=True) is None
    assert [one["dropped"] for one in view(tmp_path).closing()] == [{"head": 3}]


def test_a_folder_that_is_no_recording_does_not_stop_the_start(tmp_path: Path, view: View) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "open" / "lost+found").mkdir()
    (tmp_path / "open" / "notes.txt").write_text("hello")
    _journal(spool, count=3)
    recover(spool)
    assert len(view(tmp_path).messages("telemetry")) == 3
    assert (tmp_path / "open" / "notes.txt").exists()


def test_several_journals_of_one_crash_are_all_sealed(tmp_path: Path, view: View) -> None:
    spool = Spool(tmp_path)
    _journal(spool, count=3, seq=0)
    _journal(spool, count=4, seq=1)
    recover(spool)
    assert [sum(one.counts.values()) for one in view(tmp_path).segments("telemetry")] == [3, 4]
    assert view(tmp_path).closing()[0]["last_seq"] == {"telemetry": 1, "_agent": 0}


@pytest.mark.parametrize("meanwhile", ["delivered", "evicted"])
def test_what_the_agent_takes_away_while_a_recorder_recovers_is_not_made_again(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """A recorder starts, and looks after a dead recording that the agent is just delivering."""
    seen = view(tmp_path)
    spool, added, read = seen.spool, seen.add(0), Spool.read
    _journal(spool, count=1, seq=1)
    left = spool.facts_path(added) if meanwhile == "delivered" else spool.data_path(added)
    away = spool.data_path(added) if meanwhile == "delivered" else spool.facts_path(added)
    facts = away.read_bytes()
    away.unlink()

    def go_on_then_read(spool: Spool, stem: str) -> Spooled | None:
        if meanwhile == "delivered":
            left.unlink(missing_ok=True)
        else:
            left.with_suffix(".evicted").write_bytes(facts)
        return read(spool, stem)

    monkeypatch.setattr(Spool, "read", go_on_then_read)
    recover_recordings(spool)
    assert [one.seq for one in spool.waiting(RECORDING, stream="telemetry")] == [1]
