"""What waits in a spool, in the agent's memory: most valuable first, oldest first within it.

The folder is listed once; after that a look asks only for the file that must come next in each stream, so that a look
costs as much with a gigabyte of backlog as with none. Every `relist_s` the folders are listed again, for whatever else.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge.asked import Asked, read_asked
from edge.policy import Policy, Send, StreamPolicy, policy_of
from edge.retention import Evictable
from edge.spool import Spool, folders_in, seq_in, stem_of
from edge.wire import check_recording, check_stream

RELIST_S = 60.0
KEPT: tuple[Send, ...] = ("unmetered", "on_request")
DATA_SUFFIXES = (".mcap", ".mp4", ".gap")


@dataclass(order=True, slots=True)
class Waiting:
    """An item by its name and size; its facts are read when it is sent."""

    priority: int
    recording: str
    seq: int
    stream: str
    size: int = field(compare=False)
    policy: Policy = field(compare=False)

    @property
    def stem(self) -> str:
        return stem_of(self.recording, self.stream, self.seq)


@dataclass(slots=True)
class _Stream:
    """One stream's folder: the seq that comes next, and what counts for all of it."""

    folder: Path
    next_seq: int
    policy: Policy


class Backlog:
    """Used by the agent's main thread alone."""

    def __init__(self, spool: Spool, streams: Mapping[str, StreamPolicy], *, relist_s: float = RELIST_S) -> None:
        self._spool, self._declared, self._relist_s = spool, streams, relist_s
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._items: dict[str, Waiting] = {}
        self._heaps: dict[str, list[Waiting]] = {"always": [], "unmetered": [], "on_request": []}
        self._mtimes: dict[Path, int] = {}
        self._listed_s = float("-inf")
        self._wishes: Sequence[Asked] = ()
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def look(self) -> None:
        """Find what is new."""
        self._note_wishes()
        if time.monotonic() - self._listed_s >= self._relist_s:
            self._list_all()
        else:
            self._list_new_folders()
            for name, stream in self._streams.items():
                while (stream.folder / f"{stream.next_seq:010d}.json").exists():
                    self._add(name, stream, stream.next_seq)

    def take(self, *, metered: bool) -> Waiting | None:
        """The item to send next, which is then on its way; None where nothing may be sent now."""
        heaps = [self._heaps["always"], *([] if metered else [self._heaps["unmetered"]])]
        for heap in heaps:
            while heap and not self._is_current(heap[0]):
                heapq.heappop(heap)
        ready = [heap for heap in heaps if heap]
        return heapq.heappop(min(ready, key=lambda heap: heap[0])) if ready else None

    def put_back(self, item: Waiting) -> None:
        """An item that was taken and could not be sent."""
        if self._is_current(item):
            self._push(item)

    def relist(self) -> None:
        """List the folders again at the next look: something came that does not come next in its stream."""
        self._listed_s = float("-inf")

    def forget(self, stem: str) -> None:
        """An item that waits no more."""
        if (item := self._items.pop(stem, None)) is not None:
            self.total_bytes -= item.size

    def refresh(self, stem: str) -> None:
        """What lies under this name has changed: it waits anew."""
        self.forget(stem)
        recording, stream, seq = stem.split("/")
        self._add((recording, stream), self._stream(recording, stream), int(seq))

    def evictable(self, *, busy: Collection[str]) -> Iterator[Evictable]:
        """Segments that may go: what is not on its way, and no gap record."""
        for stem, item in self._items.items():
            if stem not in busy and item.size and not self._is_gap(stem):
                yield Evictable(stem, item.priority, item.recording, item.stream, item.seq, item.size)

    # -- looking -----------------------------------------------------------------------------------------------

    def _list_all(self) -> None:
        self._listed_s = time.monotonic()
        self._clear_out()
        for folder in self._spool.stream_folders():
            self._list(folder.parent.name, folder.name)

    def _clear_out(self) -> None:
        """Let go of what is kept in memory of streams, and of items in the queues, that are not there any more."""
        self._streams = {name: stream for name, stream in self._streams.items() if stream.folder.exists()}
        self._mtimes = {folder: changed_ns for folder, changed_ns in self._mtimes.items() if folder.exists()}
        for heap in self._heaps.values():
            heap[:] = filter(self._is_current, heap)
            heapq.heapify(heap)

    def _list_new_folders(self) -> None:
        for recording in folders_in(self._spool.folder / "sealed", named=check_recording):
            if self._has_changed(recording):
                for folder in folders_in(recording, named=check_stream):
                    if (recording.name, folder.name) not in self._streams:
                        self._list(recording.name, folder.name)

    def _has_changed(self, folder: Path) -> bool:
        """Whether names came or went since the last look. A young folder counts as changed: clocks are coarse."""
        try:
            changed_ns = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        is_new = self._mtimes.get(folder) != changed_ns
        if time.time_ns() - changed_ns > 2_000_000_000:
            self._mtimes[folder] = changed_ns
        return is_new

    def _list(self, recording: str, name: str) -> None:
        stream = self._stream(recording, name)
        for path in sorted(map(Path, _names(stream.folder))):
            seq = seq_in(path)
            if seq is not None and path.name == f"{seq:010d}.json":
                self._add((recording, name), stream, seq)

    def _stream(self, recording: str, name: str) -> _Stream:
        known = self._streams.get((recording, name))
        if known is None:
            folder = self._spool.folder / "sealed" / recording / name
            first = next(self._spool.waiting(recording, stream=name), None)
            kind = first.kind if first else "telemetry" if name == "telemetry" else "video"
            known = self._streams[recording, name] = _Stream(folder, 0, policy_of(name, kind, self._declared))
        return known

    def _add(self, name: tuple[str, str], stream: _Stream, seq: int) -> None:
        stream.next_seq = max(stream.next_seq, seq + 1)
        item = Waiting(stream.policy.priority, name[0], seq, name[1], _size(stream.folder, seq), stream.policy)
        if item.stem in self._items:
            return
        if self._is_gap(item.stem):  # tells of what is lost: goes at once, whatever its stream's policy
            item.priority, item.policy = 0, Policy(priority=0)
        self._items[item.stem] = item
        self.total_bytes += item.size
        self._push(item)

    def _push(self, item: Waiting) -> None:
        if item.policy.send in KEPT and self._is_asked_for(item):
            item.policy = Policy(priority=item.policy.priority, send="always")
        heapq.heappush(self._heaps[item.policy.send], item)

    def _is_current(self, item: Waiting) -> bool:
        """Whether it has been neither forgotten nor replaced, by a gap record say."""
        return self._items.get(item.stem) is item

    def _is_gap(self, stem: str) -> bool:
        return (self._spool.folder / "sealed" / (stem + ".gap")).exists()

    # -- what stays here until it is asked for -----------------------------------------------------------------

    def _note_wishes(self) -> None:
        """Where somebody asked for more, look at all that stays here; what comes later is looked at as it comes."""
        if not self._has_changed(self._spool.folder / "requests"):
            return
        wishes = read_asked(self._spool)
        if wishes == self._wishes:
            return
        self._wishes = wishes
        for send in KEPT:
            kept, self._heaps[send] = self._heaps[send], []
            for item in filter(self._is_current, kept):
                self._push(item)

    def _is_asked_for(self, item: Waiting) -> bool:
        near = [wish for wish in self._wishes if wish.names(item.recording, item.stream)]
        with contextlib.suppress(OSError):  # then it cannot be sent either
            facts = self._spool.read(item.stem) if near else None
            return facts is not None and any(wish.overlaps(facts.start_ns, facts.end_ns) for wish in near)
        return False


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # gone, or unreadable: the other folders are not
        return []


def _size(folder: Path, seq: int) -> int:
    """Bytes of an item's data; 0 where there are none."""
    for suffix in DATA_SUFFIXES:
        try:
            return (folder / f"{seq:010d}{suffix}").stat().st_size
        except OSError:
            continue
    return 0
