"""Making room on a full disk: what `retention` chose goes, and what went is told to the server by gap records.

A segment goes in steps, each of which a crash may be the last of: its facts are renamed to `.evicted` (which needs no
room on the disk), the folder is synced, the bytes are removed; then the facts of a whole range become one gap record,
and a list of its parts (`.parts`) beside it. Recovery takes a segment back whose bytes are still there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import cast

from ulid import ULID

from edge import checked
from edge.disk import read_lines
from edge.errors import GapError
from edge.segment import sha256_of
from edge.spool import Spool, Spooled, seq_in
from edge.topics import AGENT_STREAM, EVENTS_STREAM, TELEMETRY_STREAM
from edge.wire import MAX_TIME_NS, Cause, Gap, Kind

MAX_PARTS = 1000
REASON = "the robot's disk was full"


def evict(spool: Spool, stems: Iterable[str]) -> list[Spooled]:
    """Remove segments and leave gap records, which are returned and wait to be uploaded."""
    chosen = list(stems)
    gone = [item for stem in chosen if (item := spool.read(stem)) is not None and not item.is_gap]
    for item in gone:
        spool.disk.rename(spool.facts_path(item), _evicted_path(spool, item))
    for folder in sorted({spool.facts_path(item).parent for item in gone}):
        spool.disk.sync_folder(folder)
    streams = sorted({(recording, stream) for recording, stream, _ in (stem.split("/") for stem in chosen)})
    return [gap for recording, stream in streams for gap in bundle(spool, recording, stream)]


def bundle(spool: Spool, recording: str, stream: str) -> list[Spooled]:
    """Make gap records of what was evicted from a stream, one for each range without a hole."""
    folder = spool.folder / "sealed" / recording / stream
    evicted = [item for path in sorted(folder.glob("*.evicted")) if (item := Spooled.parse(checked.read(path)))]
    for item in evicted:
        spool.disk.unlink(spool.data_path(item))
    gaps = []
    for run in _ranges(evicted):
        gaps.append(_add_gap(spool, run))
        for item in run:
            spool.disk.unlink(_evicted_path(spool, item))
    if evicted:
        spool.disk.sync_folder(folder)  # before the upload: a part that came back would be told twice
    return gaps


def arrived_after_all(spool: Spool, gap: Spooled, *, stored_sha256: str) -> Spooled | None:
    """The server holds other bytes where a gap begins: the first segment had arrived, and its receipt was lost.

    Keeps a ledger line for it and a gap record for the rest, which is returned. Where the bytes there are not that
    segment's, the line says that it went.
    """
    parts = _parts_of(spool, gap)
    rest = _add_gap(spool, parts[1:]) if parts[1:] else None
    first = replace(gap, last_seq=gap.seq, counts=parts[0].counts) if parts else gap
    arrived = bool(parts) and parts[0].sha256 == stored_sha256
    spool.remember(parts[0] if arrived else first, key="", server_time_ns=0)
    spool.remove(gap)
    return rest


def finish_evictions(spool: Spool) -> Iterator[str]:
    """Complete what a crash interrupted, or take it back where the bytes are still there."""
    for folder in spool.stream_folders():
        paths = [path for path in sorted(folder.glob("*.evicted")) if seq_in(path) is not None]
        told = told_in(spool, folder) if paths else set()
        for path in paths:
            item = Spooled.parse(checked.read(path))
            if seq_in(path) in told:
                spool.disk.unlink(path)
            elif item is None:
                yield from _without_facts(spool, path)
            elif _data_is_whole(spool, item):
                spool.disk.publish(path, spool.facts_path(item))
                yield f"{item.stem}: was to be evicted, its bytes are still here"
        for gap in bundle(spool, folder.parent.name, folder.name) if paths else ():
            yield f"{gap.stem}: evicted before the crash, up to seq {gap.last_seq}"


def told_in(spool: Spool, folder: Path) -> set[int]:
    """The seqs of a stream that were evicted, and of which a waiting gap record tells."""
    gaps = (item for item in spool.waiting(folder.parent.name, stream=folder.name) if item.cause == "evicted")
    return {seq for gap in gaps for seq in range(gap.seq, gap.last_seq + 1)}


def lost(spool: Spool, item: Spooled) -> Spooled:
    """The bytes of a segment are not there any more: a gap record takes its place."""
    reason = "its bytes are missing on the robot's disk"
    gap = Gap(item.seq, item.seq, item.start_ns, item.end_ns, "lost", reason, item.bytes, item.counts)
    return spool.add_gap((item.recording, item.stream), gap, kind=item.kind)


def repair_gap(spool: Spool, item: Spooled) -> Spooled:
    """Make a gap record's bytes again: the same, where its list of parts is there, else what its facts tell."""
    parts = _parts_of(spool, item)
    reason = "the record was made again from its facts"
    cause = cast(Cause, item.cause)
    gap = Gap(item.seq, item.last_seq, item.start_ns, item.end_ns, cause, reason, 0, item.counts)
    return spool.add_gap((item.recording, item.stream), _gap_of(parts) if parts else gap, kind=item.kind)


def gap_without_facts(spool: Spool, stem: str) -> Gap | None:
    """The gap record whose bytes, or list of parts, lie under a name; None where there is none."""
    path = spool.folder / "sealed" / (stem + ".gap")
    with contextlib.suppress(FileNotFoundError, GapError):
        return Gap.parse(path.read_bytes())
    parts = _read_parts(path.with_suffix(".parts"))
    return _gap_of(parts) if parts else None


def unknown(recording: str, seq: int, *, cause: Cause, reason: str) -> Gap:
    """A gap record for a seq of which nothing is known but its name: from the recording's beginning until now."""
    start_ns = int(ULID.from_str(recording).milliseconds) * 1_000_000
    end_ns = max(start_ns + 1, min(time.time_ns(), MAX_TIME_NS))
    return Gap(seq, seq, start_ns, end_ns, cause, reason, 0, {})


def kind_of(stream: str) -> Kind:
    """The kind of a stream of which nothing but its name is left."""
    return "telemetry" if stream in (AGENT_STREAM, EVENTS_STREAM, TELEMETRY_STREAM) else "video"


def _without_facts(spool: Spool, path: Path) -> Iterator[str]:
    """What was to be evicted and has lost its facts: its bytes are taken back as any others without facts, or it is
    told without them."""
    (recording, stream), seq = path.parts[-3:-1], path.stem
    if not any(path.with_suffix(suffix).exists() for suffix in (".mcap", ".mp4")):
        gap = unknown(recording, int(seq), cause="evicted", reason=f"{REASON}; its facts are damaged")
        spool.add_gap((recording, stream), gap, kind=kind_of(stream))
        yield f"{recording}/{stream}/{seq}: evicted before the crash, its facts are damaged"
    spool.disk.unlink(path)


def _add_gap(spool: Spool, parts: Sequence[Spooled]) -> Spooled:
    first = parts[0]
    lines = "".join(checked.dumps(asdict(part)) + "\n" for part in parts)
    spool.disk.write_file(spool.facts_path(first).with_suffix(".parts"), lines.encode())
    return spool.add_gap((first.recording, first.stream), _gap_of(parts), kind=first.kind)


def _gap_of(parts: Sequence[Spooled]) -> Gap:
    first, last = parts[0], parts[-1]
    counts: dict[str, int] = {}
    for topic, count in (pair for part in parts for pair in part.counts.items()):
        counts[topic] = counts.get(topic, 0) + count
    start_ns, end_ns = min(part.start_ns for part in parts), max(part.end_ns for part in parts)
    size = sum(part.bytes for part in parts)
    return Gap(first.seq, last.seq, start_ns, end_ns, "evicted", REASON, size, counts)


def _ranges(items: Sequence[Spooled]) -> Iterator[list[Spooled]]:
    """Runs of consecutive seqs, none longer than a gap record may be."""
    ordered = sorted(items, key=lambda item: item.seq)
    for _, run in groupby(enumerate(ordered), key=lambda pair: pair[1].seq - pair[0]):
        parts = [item for _, item in run]
        yield from (parts[at : at + MAX_PARTS] for at in range(0, len(parts), MAX_PARTS))


def _parts_of(spool: Spool, gap: Spooled) -> list[Spooled]:
    """All the segments that a gap record is about; none where that is not known for each."""
    parts = _read_parts(spool.data_path(gap).with_suffix(".parts"))
    return parts if [part.seq for part in parts] == list(range(gap.seq, gap.last_seq + 1)) else []


def _read_parts(path: Path) -> list[Spooled]:
    lines = map(checked.loads, read_lines(path))
    return [part for part in map(Spooled.parse, lines) if part is not None]


def _data_is_whole(spool: Spool, item: Spooled) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return sha256_of(spool.data_path(item).read_bytes()) == item.sha256
    return False


def _evicted_path(spool: Spool, item: Spooled) -> Path:
    return spool.facts_path(item).with_suffix(".evicted")
