"""After a crash: complete what was interrupted, lose nothing that was durable, and never refuse to start."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast, get_args

from edge import eviction
from edge.errors import BadName, EdgeError, SegmentError, SpoolError
from edge.eviction import kind_of, told_in, unknown
from edge.journal import Damage
from edge.recording import write_closing
from edge.segment import facts_of_file, seal_journal
from edge.spool import Spool, Spooled, folders_in, seq_in, stem_of
from edge.state_file import read_state
from edge.wire import MAX_SEQ, MCAP_TYPE, Kind, check_recording, check_stream

SEGMENT_SUFFIXES = {".mcap", ".mp4"}
SUFFIXES = {".json", ".gap", ".parts", ".evicted"} | SEGMENT_SUFFIXES
WHOLE = [{".json", ".mcap"}, {".json", ".mp4"}, {".json", ".gap"}, {".json", ".gap", ".parts"}]


def recover(spool: Spool) -> list[str]:
    """Complete whatever a crash interrupted; returns what was done, in words. A live recorder is left alone."""
    return [*recover_items(spool), *recover_recordings(spool)]


def recover_recordings(spool: Spool) -> list[str]:
    """Seal and close the recordings whose recorder has died."""
    done: list[str] = []
    for folder in folders_in(spool.folder / "open", named=str):
        try:
            lock = spool.lock_recording(folder.name)
        except (SpoolError, BadName, OSError):  # a live recorder's, or not of our making
            continue
        try:
            done += _seal_leftovers(spool, folder.name)
            spool.remove_open(folder.name)
        except (OSError, EdgeError) as error:  # a full disk, say: what is there stays there, for a later time
            done.append(f"{folder.name}: cannot be recovered now: {error}")
        finally:
            os.close(lock)
    return done


def recover_items(spool: Spool) -> list[str]:
    """Complete removals, quarantines and evictions. Only the agent does, and only one at a time."""
    done: list[str] = []
    for step in (_finish_removals, _finish_quarantines, eviction.finish_evictions, _adopt_orphans):
        try:
            done += step(spool)
        except (OSError, EdgeError) as error:  # a full disk, say: what is there stays there, for a later time
            done.append(f"recovery: {error}")
    return done


def repair(spool: Spool, stem: str) -> Spooled | None:
    """Make the facts of a sealed item again from its bytes, or set aside what is there. Returns what now waits.

    `OSError` where the disk does not give the bytes: then nothing is known, and nothing is done.
    """
    recording, stream, number = stem.split("/")
    name = (recording, stream, int(number))
    path = spool.folder / "sealed" / (stem + ".mcap")
    try:
        facts = facts_of_file(path)
    except (SegmentError, FileNotFoundError) as error:
        return _give_up(spool, name, reason=f"facts are damaged and cannot be made again: {error}")
    return spool.add(name, facts, path.read_bytes(), kind=kind_of(stream), content_type=MCAP_TYPE)


def _give_up(spool: Spool, name: tuple[str, str, int], *, reason: str) -> Spooled:
    """Set aside the bytes of a segment under a name; the gap record that is there, or a new one, waits there."""
    recording, stream, seq = name
    stem = stem_of(*name)
    for path in (spool.folder / "sealed" / (stem + suffix) for suffix in sorted(SEGMENT_SUFFIXES)):
        if path.exists():
            spool.set_aside(recording, stream, seq, path.read_bytes(), reason=reason, messages=1)
            spool.disk.unlink(path)
    gap = eviction.gap_without_facts(spool, stem) or unknown(recording, seq, cause="quarantined", reason=reason)
    return spool.add_gap((recording, stream), gap, kind=kind_of(stream))


def _finish_removals(spool: Spool) -> Iterator[str]:
    """An item that is in the ledger has been stored: its removal was what the crash interrupted.

    So was that of a gap record without bytes whose first segment is there: the rest has a record of its own.
    """
    for folder in folders_in(spool.folder / "sealed", named=check_recording):
        stored = {one.stem: one.sha256 for one in spool.acknowledged(folder.name)}
        for item in list(spool.waiting(folder.name)) if stored else ():
            is_half_removed = item.is_gap and item.stem in stored and not spool.data_path(item).exists()
            if stored.get(item.stem) == item.sha256 or is_half_removed:
                spool.remove(item)
                yield f"{item.stem}: acknowledged before the crash, removed"


def _finish_quarantines(spool: Spool) -> Iterator[str]:
    """A segment whose reason is in quarantine has been refused: its move was what the crash interrupted."""
    for item, facts in list(spool.quarantine_entries()):
        waits = spool.read(item.stem)
        if waits is not None and waits.sha256 == item.sha256:
            spool.finish_quarantine(item, facts["reason"], leaves_gap=facts["leaves_gap"])
            yield f"{item.stem}: refused before the crash, moved to quarantine"


def _adopt_orphans(spool: Spool) -> Iterator[str]:
    """Bytes without facts, of recordings that nobody writes: the facts are made again."""
    for folder in folders_in(spool.folder / "sealed", named=check_recording):
        if not (spool.folder / "open" / folder.name).exists():
            yield from _adopt_orphans_of(spool, folder.name)


def _adopt_orphans_of(spool: Spool, recording: str) -> Iterator[str]:
    for folder in folders_in(spool.folder / "sealed" / recording, named=check_stream):
        odd = _odd_items(folder)
        told = told_in(spool, folder) if odd else set()
        for seq, suffixes in odd.items():
            what = _adopt(spool, stem_of(recording, folder.name, seq), suffixes, is_told=seq in told)
            if what:
                yield f"{recording}/{folder.name}/{seq:010d}: {what}"
        for path in folder.glob("*.tmp"):  # being written when the crash came: nobody was promised anything of it
            spool.disk.unlink(path)


def _odd_items(folder: Path) -> dict[int, set[str]]:
    """By seq, the suffixes of the files of items that are not just bytes and facts."""
    found: dict[int, set[str]] = {}
    for path in sorted(folder.iterdir()):
        seq = seq_in(path)
        if seq is not None and path.suffix in SUFFIXES and path.is_file():
            found.setdefault(seq, set()).add(path.suffix)
    return {seq: suffixes for seq, suffixes in found.items() if suffixes not in WHOLE and ".evicted" not in suffixes}


def _adopt(spool: Spool, stem: str, suffixes: set[str], *, is_told: bool) -> str:
    """Make the facts of what lies under a name again, or remove what is left there; returns what was done."""
    item, path = spool.read(stem), spool.folder / "sealed" / stem
    left = _left_over(item, suffixes, is_told=is_told)
    for suffix in sorted(left):
        spool.disk.unlink(path.with_suffix(suffix))
    if item is None and not left:
        went = path.with_suffix(".evicted").exists() or not any(path.with_suffix(one).exists() for one in suffixes)
        if went:  # the agent, which works on while a recorder recovers, has just carried it or let it go
            return ""
        repair(spool, stem)
        return "its facts were missing"
    return f"removed what was left: {', '.join(sorted(left))}" if left else ""


def _left_over(item: Spooled | None, suffixes: set[str], *, is_told: bool) -> set[str]:
    """What nobody needs: of an eviction that was taken back, or brought back by a power cut after it was told."""
    of_segment, of_gap = suffixes & SEGMENT_SUFFIXES, suffixes & {".gap", ".parts"}
    if item is not None and not item.is_gap:
        return of_gap
    if is_told:
        return of_segment if item else of_segment | of_gap
    return suffixes if suffixes == {".parts"} else set()


def _seal_leftovers(spool: Spool, recording: str) -> Iterator[str]:
    for folder in folders_in(spool.folder / "open" / recording, named=str):
        for journal in sorted(folder.iterdir()):
            yield f"{recording}/{folder.name}/{journal.stem}: {_seal_journal(spool, recording, journal)}"
    yield from _adopt_orphans_of(spool, recording)  # the last word may be one of them
    dropped = read_state(spool.recorder_state_path(recording)).get("dropped", {})
    if write_closing(spool, recording, time.time_ns(), dropped=dropped, recovered=True) is not None:
        yield f"{recording}: closed after a crash"


def _seal_journal(spool: Spool, recording: str, journal: Path) -> str:
    stream, kind = journal.parent.name, journal.suffix[1:]
    try:
        check_stream(stream)
        seq = int(journal.stem)
    except ValueError:
        seq = -1
    if not 0 <= seq <= MAX_SEQ or kind not in get_args(Kind):
        folder = spool.folder / "quarantine" / recording / "_unknown"
        spool.disk.make_folder(folder)
        spool.disk.publish(journal, folder / journal.name)
        return "not a journal, moved to quarantine"
    name = stem_of(recording, stream, seq)
    if name in spool.items(recording):
        spool.disk.unlink(journal)
        return "was sealed before the crash"
    data = journal.read_bytes()
    sealed = seal_journal(data, name=name)
    done = _set_aside(spool, (recording, stream, seq), data, sealed.damages)
    if sealed.facts is not None:
        spool.add((recording, stream, seq), sealed.facts, sealed.body, kind=cast(Kind, kind), content_type=MCAP_TYPE)
        done.append(f"sealed {sum(sealed.facts.counts.values())} messages")
    elif done:
        reason = "nothing in the open segment can be read"
        gap = unknown(recording, seq, cause="quarantined", reason=reason)
        spool.add_gap((recording, stream), gap, kind=cast(Kind, kind))
    spool.disk.unlink(journal)
    return ", ".join(done) or "empty, removed"


def _set_aside(spool: Spool, name: tuple[str, str, int], data: bytes, damages: Sequence[Damage]) -> list[str]:
    """Keep what is damaged in a journal; what a crash cut short at its end is no damage."""
    damaged = [one for one in damages if not one.is_torn]
    if not damaged:
        return []
    kept = b"".join(data[one.offset : one.offset + one.size] for one in damaged if one.offset >= 0)
    spool.set_aside(*name, kept, reason="damaged on the disk before it was sealed", messages=len(damaged))
    return [f"{len(damaged)} damaged stretches quarantined"]
