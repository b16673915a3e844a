"""The folder where segments wait: open → sealed → acknowledged → removed. The folder itself is the index.

    open/{recording}/lock                       held (flock) by the recorder that writes there
    open/{recording}/{stream}/{seq}.{kind}      the journal being written
    sealed/{recording}/{stream}/{seq}.mcap      a segment that waits to be uploaded (or .mp4, or .gap: a gap record) …
    sealed/{recording}/{stream}/{seq}.json      … and its facts; written last, so where this stands the item is whole
    sealed/{recording}/{stream}/{seq}.evicted   the facts of a segment that had to go, until a gap record tells of it
    sealed/{recording}/{stream}/{seq}.parts     the facts of all segments that a gap record is about
    ledger/{recording}.jsonl                    one line an item that the server has acknowledged
    ledger/folded.jsonl                         the sums of recordings that were delivered whole long ago
    quarantine/{recording}/{stream}/{seq}.*     what the server refused or nobody can read, with the reason
    agent.json  agent.lock                      what the agent tells, and its lock
    requests/*.json                             what somebody asked for of the streams that else stay here

Every step is write, fsync, rename, fsync the folder, so a crash at any point leaves a state that `recover` completes.
Facts, ledger lines and reasons carry checksums: a damaged one is noticed and never believed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from edge import checked, segment
from edge.disk import DISK, Disk, read_lines
from edge.errors import BadName, SpoolError
from edge.wire import (
    GAP_TYPE,
    MAX_GAP_BYTES,
    MCAP_TYPE,
    MP4_TYPE,
    Gap,
    Kind,
    Receipt,
    SegmentId,
    check_recording,
    check_stream,
)

SUFFIX = {MCAP_TYPE: ".mcap", MP4_TYPE: ".mp4", GAP_TYPE: ".gap"}
FOLDERS = ("open", "sealed", "ledger", "quarantine", "requests")
FOLDED = "folded"
STATE_NAME = "state.json"
MAX_REASON = 1000
LOOK_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True)
class Spooled:
    """A sealed segment or a gap record: its name in the recording, its facts, and where its bytes lie.

    `last_seq` and `cause` are those of a gap; a segment has `last_seq` = `seq` and no cause.
    """

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
    last_seq: int = -1
    cause: str = ""

    def __post_init__(self) -> None:
        if self.last_seq < 0:
            object.__setattr__(self, "last_seq", self.seq)

    @classmethod
    def parse(cls, facts: Mapping[str, Any] | None) -> Self | None:
        """None where facts are missing or not those of an item."""
        if facts is None:
            return None
        try:
            found = cls(**{one.name: facts[one.name] for one in fields(cls)})
            is_sound = found.is_sound
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return found if is_sound else None

    @property
    def is_sound(self) -> bool:
        """Whether every fact is of its kind: whoever wrote them, they are used as paths and in requests."""
        check_recording(self.recording)
        check_stream(self.stream)
        numbers = (self.seq, self.start_ns, self.end_ns, self.bytes, self.last_seq, *self.counts.values())
        is_sha256 = len(bytes.fromhex(self.sha256)) == 32
        return all(type(one) is int for one in numbers) and self.content_type in SUFFIX and is_sha256

    @property
    def stem(self) -> str:
        return stem_of(self.recording, self.stream, self.seq)

    @property
    def is_gap(self) -> bool:
        return self.content_type == GAP_TYPE

    @property
    def messages(self) -> int:
        return sum(self.counts.values())

    def named(self, robot: str) -> SegmentId:
        return SegmentId(robot, self.recording, self.stream, self.seq)


def stem_of(recording: str, stream: str, seq: int) -> str:
    """An item's name, relative to the folder it is in."""
    return f"{recording}/{stream}/{seq:010d}"


def seq_in(path: Path) -> int | None:
    """The seq in the name of one of our files; None where it is not one."""
    digits = path.name.partition(".")[0]
    return int(digits) if len(digits) == 10 and digits.isascii() and digits.isdecimal() else None


class Spool:
    """One robot's spool folder. Recorder and agent meet only here; either may die at any moment."""

    def __init__(self, folder: Path, *, disk: Disk = DISK) -> None:
        self.folder, self.disk = folder, disk
        try:
            for name in FOLDERS:
                disk.make_folder(folder / name)
        except OSError as error:
            raise SpoolError(f"{folder} cannot be used as a robot's folder: {error.strerror}") from error

    # -- recording ---------------------------------------------------------------------------------------------

    def lock_recording(self, recording: str, *, wait_s: float = 0.0) -> int:
        """Claim a recording for this process; returns the lock's file descriptor. `SpoolError` if another holds it.

        `wait_s`: whoever asks whether the recording is live holds it for a moment.
        """
        until_s = time.monotonic() + wait_s
        path = self.folder / "open" / check_recording(recording) / "lock"
        if path.parent.is_symlink():
            raise SpoolError(f"{path.parent} is a link: it leads to what is not ours")
        while True:
            self.disk.make_folder(path.parent)
            with contextlib.suppress(FileNotFoundError):  # the folder was released between the two lines
                descriptor = lock_file(path)
                if descriptor is None:
                    if time.monotonic() >= until_s:
                        raise SpoolError(f"recording {recording} is being written by another process")
                    time.sleep(LOOK_AGAIN_S)
                    continue
                if _is_open_file(descriptor, path):
                    return descriptor
                os.close(descriptor)  # a lock on a file that its last holder has removed protects nothing

    def is_live(self, recording: str) -> bool:
        """Whether a recorder holds the recording's lock."""
        try:
            descriptor = lock_file(self.folder / "open" / recording / "lock", shared=True)
        except OSError:
            return False
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def release_recording(self, recording: str, lock: int) -> None:
        """Remove the empty open folder of a recording that is wholly sealed, and let go of its lock."""
        try:
            self.remove_open(recording)
        finally:
            os.close(lock)

    def remove_open(self, recording: str) -> None:
        """Remove the empty open folder of a recording; its lock must be held."""
        folder = self.folder / "open" / recording
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                self.disk.rmdir(path)
            elif path.name.startswith(STATE_NAME):
                self.disk.unlink(path)
        self.disk.unlink(folder / "lock")
        with contextlib.suppress(OSError):  # `recover` of another process looks into it just now, and removes it
            self.disk.rmdir(folder)

    def journal_path(self, recording: str, stream: str, seq: int, *, kind: Kind) -> Path:
        folder = self.folder / "open" / recording / check_stream(stream)
        self.disk.make_folder(folder)
        return folder / f"{seq:010d}.{kind}"

    def add(
        self, name: tuple[str, str, int], facts: segment.SegmentFacts, body: bytes, *, kind: Kind, content_type: str
    ) -> Spooled:
        """Keep a finished segment `name` = (recording, stream, seq), durably; from now on it waits to be uploaded."""
        return self._add(Spooled(*name, kind, content_type, **asdict(facts)), body)

    def add_gap(self, name: tuple[str, str], gap: Gap, *, kind: Kind) -> Spooled:
        """Keep a gap record of `name` = (recording, stream), durably; it is uploaded as segments are."""
        body = _bounded(gap).as_bytes()
        facts = segment.SegmentFacts(gap.start_ns, gap.end_ns, len(body), segment.sha256_of(body), gap.counts)
        item = Spooled(*name, gap.first_seq, kind, GAP_TYPE, **asdict(facts), last_seq=gap.last_seq, cause=gap.cause)
        return self._add(item, body)

    def _add(self, item: Spooled, body: bytes) -> Spooled:
        folder = self.folder / "sealed" / check_recording(item.recording) / check_stream(item.stream)
        for is_last_try in (False, False, True):
            try:
                self.disk.make_folder(folder)
                self.disk.write_file(self.data_path(item), body)
                break
            except FileNotFoundError:  # the folder was empty, and `tidy` came in between
                if is_last_try:
                    raise
        self.disk.write_file(self.facts_path(item), checked.dumps(asdict(item)).encode())
        return item

    def recorder_state_path(self, recording: str) -> Path:
        """What a live recorder tells (`edge/state_file.py`)."""
        return self.folder / "open" / recording / STATE_NAME

    @property
    def agent_state_path(self) -> Path:
        """What the agent tells, as long as it holds the lock `agent.lock`."""
        return self.folder / "agent.json"

    @property
    def agent_lock_path(self) -> Path:
        return self.folder / "agent.lock"

    # -- uploading ---------------------------------------------------------------------------------------------

    def data_path(self, item: Spooled) -> Path:
        return self.folder / "sealed" / (item.stem + SUFFIX[item.content_type])

    def facts_path(self, item: Spooled) -> Path:
        return self.folder / "sealed" / (item.stem + ".json")

    def read(self, stem: str) -> Spooled | None:
        """The facts of an item that waits; None where it went away meanwhile, or its facts are damaged.

        `OSError` where the disk does not give them: then nothing is known.
        """
        item = Spooled.parse(checked.read(self.folder / "sealed" / (stem + ".json")))
        return item if item and item.stem == stem else None

    def waiting(self, recording: str = "*", *, stream: str = "*") -> Iterator[Spooled]:
        """Items that are sealed and not acknowledged. Those with damaged facts are left out: see `repair`."""
        for path in self.paths(f"sealed/{recording}/{stream}/*.json"):
            item = Spooled.parse(_facts(path))
            if item is not None and path == self.facts_path(item):
                yield item

    def acknowledge(self, item: Spooled, receipt: Receipt) -> None:
        """Free the disk of an item for which the server gave a receipt; `SpoolError` if it is of other bytes."""
        if (receipt.sha256, receipt.bytes) != (item.sha256, item.bytes):
            raise SpoolError(f"the receipt for {item.stem} is of other bytes: {receipt.sha256}, {receipt.bytes}")
        try:
            self.remember(item, key=receipt.key, server_time_ns=receipt.server_time_ns)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.disk.unlink(self.data_path(item))  # on a full disk that makes room, and the server has them
            self.remember(item, key=receipt.key, server_time_ns=receipt.server_time_ns)
        self.remove(item)

    def remember(self, item: Spooled, *, key: str, server_time_ns: int) -> None:
        """Add an item that the server has to the ledger."""
        line = checked.dumps({**asdict(item), "key": key, "server_time_ns": server_time_ns})
        self.add_to_ledger(item.recording, line)

    def add_to_ledger(self, name: str, line: str) -> None:
        """Add a line durably, and an empty one behind it: so one damaged byte never spoils two lines."""
        self.disk.append_line(self.folder / "ledger" / f"{name}.jsonl", line + "\n")

    def remove(self, item: Spooled) -> None:
        if item.is_gap:
            self.disk.unlink(self.data_path(item).with_suffix(".parts"))
        self.disk.unlink(self.data_path(item))
        self.disk.unlink(self.facts_path(item))

    # -- giving up ---------------------------------------------------------------------------------------------

    def quarantine(self, item: Spooled, reason: str, *, leaves_gap: bool = True) -> Spooled | None:
        """Set an item aside with the reason in words; its bytes stay on the robot.

        `leaves_gap`: the server will never hold this seq, and gets a gap record, which is returned, in its place.
        """
        folder = self.folder / "quarantine" / item.recording / item.stream
        self.disk.make_folder(folder)
        line = {**asdict(item), "reason": reason, "leaves_gap": leaves_gap}
        self.disk.write_file(folder / f"{item.seq:010d}.json", checked.dumps(line).encode())
        return self.finish_quarantine(item, reason, leaves_gap=leaves_gap)

    def finish_quarantine(self, item: Spooled, reason: str, *, leaves_gap: bool) -> Spooled | None:
        """The rest of `quarantine`, which can be repeated: the reason is written, the bytes follow it."""
        folder = self.folder / "quarantine" / item.recording / item.stream
        with contextlib.suppress(FileNotFoundError):  # they are there already
            self.disk.publish(self.data_path(item), folder / self.data_path(item).name)
        if leaves_gap and not item.is_gap:
            gap = Gap(item.seq, item.seq, item.start_ns, item.end_ns, "quarantined", reason, item.bytes, item.counts)
            return self.add_gap((item.recording, item.stream), gap, kind=item.kind)  # takes the place of the facts
        self.remove(item)
        return None

    def quarantine_reason(self, item: Spooled) -> tuple[str, bool] | None:
        """The reason for which this very item is in quarantine, and whether it leaves a gap; None where it is not."""
        facts = _facts(self.folder / "quarantine" / (item.stem + ".json"))
        if facts is None or facts.get("sha256") != item.sha256:
            return None
        return str(facts["reason"]), bool(facts["leaves_gap"])

    def set_aside(self, recording: str, stream: str, seq: int, data: bytes, *, reason: str, messages: int) -> None:
        """Keep bytes that nobody can read, with the reason and about how many messages they held.

        Other bytes under the same name stay as they are; the same ones again are kept once.
        """
        folder = self.folder / "quarantine" / recording / stream
        self.disk.make_folder(folder)
        facts = segment.SegmentFacts(0, 1, len(data), segment.sha256_of(data), {"?": messages})
        path = folder / f"{seq:010d}.{facts.sha256[:16]}.damaged"
        self.disk.write_file(path, data)
        item = Spooled(recording, stream, seq, "telemetry", MCAP_TYPE, **asdict(facts), cause="damaged")
        line = {**asdict(item), "reason": reason, "leaves_gap": False}
        self.disk.write_file(path.with_name(path.name + ".json"), checked.dumps(line).encode())

    # -- reading -----------------------------------------------------------------------------------------------

    def acknowledged(self, recording: str) -> list[Spooled]:
        """What the ledger holds, each item once; lines that are torn or damaged are left out."""
        lines = map(checked.loads, read_lines(self.folder / "ledger" / f"{recording}.jsonl"))
        found = [one for one in map(Spooled.parse, lines) if one is not None]
        gaps, segments = ({one.stem: one for one in found if one.is_gap is is_gap} for is_gap in (True, False))
        return list({**gaps, **segments}.values())  # a segment that arrived wins over what told that it went

    def quarantined(self, recording: str = "*") -> list[tuple[Spooled, str]]:
        """What was set aside, and why."""
        return [(item, str(facts["reason"])) for item, facts in self.quarantine_entries(recording)]

    def quarantine_entries(self, recording: str = "*") -> Iterator[tuple[Spooled, dict[str, Any]]]:
        for path in sorted(self.paths(f"quarantine/{recording}/*/*.json")):
            facts = _facts(path)
            item = Spooled.parse(facts)
            if item is not None and facts is not None:
                yield item, facts

    def paths(self, pattern: str) -> Iterator[Path]:
        """What is there by a pattern. Folders that go away meanwhile, or cannot be read, hold nothing."""
        return (self.folder / found for found in glob.iglob(pattern, root_dir=self.folder))

    def recordings(self) -> list[str]:
        """Every recording that this spool keeps something of, oldest first; those that are folded are left out."""
        places = ("open", "sealed", "ledger", "quarantine")
        names = {path.name.removesuffix(".jsonl") for place in places for path in (self.folder / place).iterdir()}
        return sorted(names - {FOLDED})

    def items(self, recording: str) -> dict[str, Spooled]:
        """Every sealed item of a recording by its stem, wherever it is now."""
        aside = (one for one, _ in self.quarantined(recording) if one.cause != "damaged")
        return {one.stem: one for one in (*aside, *self.waiting(recording), *self.acknowledged(recording))}

    def bytes_aside(self) -> int:
        """What lies in open segments and in quarantine."""
        found = 0
        for place in ("open", "quarantine"):
            for path in self.paths(f"{place}/*/*/*"):
                with contextlib.suppress(OSError):
                    found += path.lstat().st_size
        return found

    def stream_folders(self) -> list[Path]:
        """The folders of sealed streams, by recording and stream."""
        recordings = folders_in(self.folder / "sealed", named=check_recording)
        return [stream for recording in recordings for stream in folders_in(recording, named=check_stream)]

    def tidy(self) -> None:
        """Remove folders of recordings that are closed and wholly delivered; nothing is lost if one is needed again."""
        for recording in folders_in(self.folder / "sealed", named=check_recording):
            if not (self.folder / "open" / recording.name).exists():
                with contextlib.suppress(OSError):  # not empty, or somebody writes there just now
                    for stream in recording.iterdir():
                        self.disk.rmdir(stream)
                    self.disk.rmdir(recording)

    def last_seqs(self, recording: str) -> dict[str, int]:
        """The highest sealed seq of each stream of a recording, by the names of the files and the ledger."""
        last: dict[str, int] = {}
        for place in ("sealed", "quarantine"):
            for path in self.paths(f"{place}/{recording}/*/*.*"):
                seq = seq_in(path)
                if seq is not None and path.suffix != ".tmp":
                    last[path.parent.name] = max(seq, last.get(path.parent.name, -1))
        gaps = (one for one in self.waiting(recording) if one.is_gap)
        for one in (*gaps, *self.acknowledged(recording)):
            last[one.stream] = max(one.last_seq, last.get(one.stream, -1))
        return last


def folders_in(folder: Path, *, named: Callable[[str], str]) -> list[Path]:
    """The folders in a folder, in order, whose names the check `named` allows; whatever else lies there is not ours.

    A link is not followed: what it leads to is not ours either.
    """
    try:
        with os.scandir(folder) as found:
            paths = sorted(Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False))
    except OSError:  # not there, no folder, or unreadable: the others still are
        return []
    return [path for path in paths if named_by(named, path.name)]


def named_by(check: Callable[[str], str], name: str) -> bool:
    """Whether a check of names allows this one."""
    try:
        return check(name) == name
    except BadName:
        return False


def _facts(path: Path) -> dict[str, Any] | None:
    """The facts in a file; None where it is damaged, or cannot be read at all: the others still can."""
    try:
        return checked.read(path)
    except OSError:
        return None


def _bounded(gap: Gap) -> Gap:
    """The record as it is sent: where it would be too large, all topics are counted as one."""
    gap = replace(gap, reason=gap.reason[:MAX_REASON])
    return gap if len(gap.as_bytes()) <= MAX_GAP_BYTES else replace(gap, counts={"?": sum(gap.counts.values())})


def lock_file(path: Path, *, shared: bool = False) -> int | None:
    """The descriptor of a lock (flock) on a file, held until it is closed; None where another process holds it.

    `shared`: those who only ask are not in each other's way.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_open_file(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
