"""After a crash: complete what was interrupted, lose nothing that was durable, and never refuse to start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from edge.disk import DISK
from edge.errors import BadName, SegmentError, SpoolError
from edge.recording import write_closing
from edge.spool import Spool
from edge.wire import Kind


def recover(spool: Spool) -> list[str]:
    """Complete whatever a crash interrupted; returns what was done, in words. A live recorder is left alone."""
    done = [*_finish_removals(spool), *_finish_quarantines(spool)]
    for folder in sorted((spool.folder / "open").iterdir()):
        try:
            lock = spool.lock_recording(folder.name)
        except (SpoolError, BadName):  # a live recorder's, or not of our making
            continue
        done += _seal_leftovers(spool, folder.name)
        spool.release_recording(folder.name, lock)
    return done


def _finish_removals(spool: Spool) -> Iterator[str]:
    """A segment that is in the ledger has been stored: its removal was what the crash interrupted."""
    stored = {one.stem for recording in spool.recordings() for one in spool.acknowledged(recording)}
    for spooled in list(spool.waiting()):
        if spooled.stem in stored:
            spool.remove(spooled)
            yield f"{spooled.stem}: acknowledged before the crash, removed"


def _finish_quarantines(spool: Spool) -> Iterator[str]:
    """A segment whose reason is in quarantine has been refused: its move was what the crash interrupted."""
    refused = {one.stem for one, _ in spool.quarantined()}
    for spooled in list(spool.waiting()):
        if spooled.stem in refused:
            spool.move_to_quarantine(spooled)
            yield f"{spooled.stem}: refused before the crash, moved to quarantine"


def _seal_leftovers(spool: Spool, recording: str) -> Iterator[str]:
    for journal in sorted((spool.folder / "open" / recording).glob("*/*")):
        yield _seal_journal(spool, recording, journal)
    write_closing(spool, recording, time.time_ns(), dropped={}, recovered=True)
    yield f"{recording}: closed after a crash"


def _seal_journal(spool: Spool, recording: str, journal: Path) -> str:
    stream, seq, kind = journal.parent.name, int(journal.stem), cast(Kind, journal.suffix[1:])
    name = f"{recording}/{stream}/{seq}"
    if f"{recording}/{stream}/{seq:010d}" in spool.segments(recording):
        journal.unlink()
        return f"{name}: was sealed before the crash"
    try:
        spooled = spool.seal(recording, stream, seq, kind=kind)
    except SegmentError as error:
        return f"{name}: {_set_aside(spool, recording, journal)}: {error}"
    return f"{name}: sealed {sum(spooled.counts.values()) if spooled else 0} messages"


def _set_aside(spool: Spool, recording: str, journal: Path) -> str:
    if journal.stat().st_size == 0:
        journal.unlink()
        return "empty, removed"
    folder = spool.folder / "quarantine" / recording / journal.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    DISK.publish(journal, folder / (journal.name + ".torn"))
    return "quarantined"
