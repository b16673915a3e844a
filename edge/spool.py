"""The folder where segments wait: open → sealed → acknowledged → removed. The folder itself is the index.

    open/{recording}/lock                      held (flock) by the recorder that writes there
    open/{recording}/{stream}/{seq}.{kind}     the journal being written
    sealed/{recording}/{stream}/{seq}.mcap     a segment that waits to be uploaded …
    sealed/{recording}/{stream}/{seq}.json     … and its facts; written last, so where this stands the segment is whole
    ledger/{recording}.jsonl                   one line a segment that the server has acknowledged
    quarantine/{recording}/{stream}/{seq}.*    what the server refused or nobody can read, with the reason

Every step is write, fsync, rename, fsync the folder, so a crash at any point leaves a state that `recover` completes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge import segment
from edge.disk import DISK, read_lines
from edge.errors import SpoolError
from edge.wire import MCAP_TYPE, MP4_TYPE, Kind, Receipt, SegmentId, check_recording, check_stream

SUFFIX = {MCAP_TYPE: ".mcap", MP4_TYPE: ".mp4"}


@dataclass(frozen=True, slots=True)
class Spooled:
    """A sealed segment: its name in the recording, its facts, and where its bytes lie (relative to the spool)."""

    recording: str
    stream: str
    seq: int
    kind: Kind
    content_type: str
    start_ns: int
    end_ns: int
    bytes: int
    sha256: str
    counts: dict[str, int]

    @property
    def stem(self) -> str:
        return f"{self.recording}/{self.stream}/{self.seq:010d}"

    def named(self, robot: str) -> SegmentId:
        return SegmentId(robot, self.recording, self.stream, self.seq)


class Spool:
    """One robot's spool folder. Recorder and agent meet only here; either may die at any moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for name in ("open", "sealed", "ledger", "quarantine"):
                DISK.make_folder(folder / name)
        except OSError as error:
            raise SpoolError(f"{folder} cannot be used as a robot's folder: {error.strerror}") from error

    # -- recording ---------------------------------------------------------------------------------------------

    def lock_recording(self, recording: str) -> int:
        """Claim a recording for this process; returns the lock's file descriptor. `SpoolError` if another holds it."""
        path = self.folder / "open" / check_recording(recording) / "lock"
        while True:
            DISK.make_folder(path.parent)
            with contextlib.suppress(FileNotFoundError):  # the folder was released between the two lines
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    os.close(descriptor)
                    raise SpoolError(f"recording {recording} is being written by another process") from error
                if _is_open_file(descriptor, path):
                    return descriptor
                os.close(descriptor)  # a lock on a file that its last holder has removed protects nothing

    def release_recording(self, recording: str, lock: int) -> None:
        """Remove the empty open folder of a recording that is wholly sealed, and let go of its lock."""
        folder = self.folder / "open" / recording
        for stream in (path for path in folder.iterdir() if path.is_dir()):
            stream.rmdir()
        (folder / "lock").unlink()
        with contextlib.suppress(OSError):  # `recover` of another process looks into it just now, and removes it
            folder.rmdir()
        os.close(lock)

    def journal_path(self, recording: str, stream: str, seq: int, *, kind: Kind) -> Path:
        folder = self.folder / "open" / recording / check_stream(stream)
        DISK.make_folder(folder)
        return folder / f"{seq:010d}.{kind}"

    def seal(self, recording: str, stream: str, seq: int, *, kind: Kind) -> Spooled | None:
        """Turn a journal, whole or torn, into a sealed segment; None (and no journal) where it holds no message."""
        journal = self.journal_path(recording, stream, seq, kind=kind)
        with journal.open("rb") as file:
            built = segment.build(segment.read_torn(file))
        spooled = built and self.add((recording, stream, seq), *built, kind=kind, content_type=MCAP_TYPE)
        journal.unlink()
        return spooled or None

    def add(
        self, name: tuple[str, str, int], facts: segment.SegmentFacts, body: bytes, *, kind: Kind, content_type: str
    ) -> Spooled:
        """Keep a finished segment `name` = (recording, stream, seq), durably; from now on it waits to be uploaded."""
        recording, stream, seq = name
        DISK.make_folder(self.folder / "sealed" / check_recording(recording) / check_stream(stream))
        spooled = Spooled(recording, stream, seq, kind, content_type, **asdict(facts))
        DISK.write_file(self.data_path(spooled), body)
        DISK.write_json(self.facts_path(spooled), asdict(spooled))
        return spooled

    # -- uploading ---------------------------------------------------------------------------------------------

    def data_path(self, spooled: Spooled) -> Path:
        return self.folder / "sealed" / (spooled.stem + SUFFIX[spooled.content_type])

    def facts_path(self, spooled: Spooled) -> Path:
        return self.folder / "sealed" / (spooled.stem + ".json")

    def waiting(self, *, known: frozenset[str] | set[str] = frozenset()) -> Iterator[Spooled]:
        """Sealed segments that are not acknowledged, but those whose stem is `known`."""
        sealed = self.folder / "sealed"
        for path in sealed.glob("*/*/*.json"):
            if str(path.relative_to(sealed).with_suffix("")) not in known:
                facts = _read_json(path)
                if facts is not None:
                    yield Spooled(**facts)

    def acknowledge(self, spooled: Spooled, receipt: Receipt) -> None:
        """Free the disk of a segment for which the server gave a receipt; `SpoolError` if it is of other bytes."""
        if (receipt.sha256, receipt.bytes) != (spooled.sha256, spooled.bytes):
            raise SpoolError(f"the receipt for {spooled.stem} is of other bytes: {receipt.sha256}, {receipt.bytes}")
        line = {**asdict(spooled), "key": receipt.key, "server_time_ns": receipt.server_time_ns}
        DISK.append_line(self.folder / "ledger" / f"{spooled.recording}.jsonl", json.dumps(line))
        self.remove(spooled)

    def quarantine(self, spooled: Spooled, reason: str) -> None:
        """Set a segment aside with the reason in words; its bytes stay on the robot."""
        folder = self.folder / "quarantine" / spooled.recording / spooled.stream
        DISK.make_folder(folder)
        DISK.write_json(folder / f"{spooled.seq:010d}.json", {**asdict(spooled), "reason": reason})
        self.move_to_quarantine(spooled)

    def move_to_quarantine(self, spooled: Spooled) -> None:
        """The second half of `quarantine`, which can be repeated: the reason is written, the bytes follow it."""
        folder = self.folder / "quarantine" / spooled.recording / spooled.stream
        with contextlib.suppress(FileNotFoundError):  # they are there already
            DISK.publish(self.data_path(spooled), folder / self.data_path(spooled).name)
        self.facts_path(spooled).unlink(missing_ok=True)

    def remove(self, spooled: Spooled) -> None:
        self.data_path(spooled).unlink(missing_ok=True)
        self.facts_path(spooled).unlink(missing_ok=True)

    # -- reading -----------------------------------------------------------------------------------------------

    def acknowledged(self, recording: str) -> list[Spooled]:
        """What the ledger holds, each segment once, also where two agents have carried it."""
        lines = map(_parse, read_lines(self.folder / "ledger" / f"{recording}.jsonl"))
        found = [Spooled(**{name: line[name] for name in Spooled.__slots__}) for line in lines if line is not None]
        return list({one.stem: one for one in found}.values())

    def quarantined(self) -> list[tuple[Spooled, str]]:
        found = filter(None, map(_read_json, sorted((self.folder / "quarantine").glob("*/*/*.json"))))
        return [(Spooled(**{name: facts[name] for name in Spooled.__slots__}), facts["reason"]) for facts in found]

    def recordings(self) -> list[str]:
        """Every recording this spool knows of, oldest first."""
        places = ("open", "sealed", "ledger", "quarantine")
        names = {path.name.removesuffix(".jsonl") for place in places for path in (self.folder / place).iterdir()}
        return sorted(names)

    def segments(self, recording: str) -> dict[str, Spooled]:
        """Every sealed segment of a recording by its stem, wherever it is now."""
        waiting = (one for one in self.waiting() if one.recording == recording)
        aside = (one for one, _ in self.quarantined() if one.recording == recording)
        return {one.stem: one for one in (*waiting, *aside, *self.acknowledged(recording))}

    def last_seqs(self, recording: str) -> dict[str, int]:
        """The highest sealed seq of each stream of a recording."""
        last: dict[str, int] = {}
        for one in self.segments(recording).values():
            last[one.stream] = max(one.seq, last.get(one.stream, -1))
        return last


def _is_open_file(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object of ours; None where it went away meanwhile or is not one."""
    try:
        return _parse(path.read_text(errors="replace"))
    except FileNotFoundError:
        return None


def _parse(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
