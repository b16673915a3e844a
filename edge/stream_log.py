"""One stream of a recording on its way to the spool: the open journal, when it is synced, when it is cut.

A segment is kept twice while it is open: as a journal on disk, which a crash leaves, and as the segment that will be
sealed, compressed, in memory. So a journal whose disk fails is abandoned at once, and what was in it is sealed from
memory into a new file; where that fails too, messages wait in memory up to a bound until the disk takes them again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.journal import JournalWriter
from edge.records import Topic, message_record
from edge.segment import SegmentBuilder, SegmentFacts
from edge.settings import EdgeSettings
from edge.spool import Spool, stem_of
from edge.wire import MCAP_TYPE, Kind

Alarm = Callable[[str], None]
log_alarm: Alarm = logging.getLogger("edge").error
LONGEST_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """A finished segment that the disk has not taken yet."""

    seq: int
    facts: SegmentFacts
    body: bytes


class StreamLog:
    """Appends messages to the stream's journal and seals it when it is old or large. One thread uses it."""

    def __init__(
        self,
        spool: Spool,
        recording: str,
        stream: str,
        *,
        kind: Kind,
        settings: EdgeSettings,
        alarm: Alarm = log_alarm,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = stream
        self.counts: dict[str, int] = {}
        self.last_sealed = -1
        self.needs_restart = False
        self._spool, self._recording, self._kind, self._settings = spool, recording, kind, settings
        self._alarm, self._monotonic_s = alarm, monotonic_s
        self._builder: SegmentBuilder | None = None
        self._journal: JournalWriter | None = None
        self._unwritten: deque[_Unwritten] = deque()
        self._seq = self._size = 0
        self._opened_s = self._dirty_since_s = 0.0
        self._is_dirty = False
        self._failures, self._retry_at_s = 0, 0.0

    @property
    def is_due(self) -> bool:
        """Whether the open segment has reached its age; one that has reached its size is cut at once."""
        return self._builder is not None and self._monotonic_s() - self._opened_s >= self._settings.segment_s

    @property
    def is_empty(self) -> bool:
        """Whether the next message begins a new segment."""
        return self._builder is None

    @property
    def is_durable(self) -> bool:
        """Whether everything that was appended is on the disk."""
        return not self._failures and not self._is_dirty and not self._unwritten

    def append(self, topic: Topic, t_ns: int, publish_ns: int, data: bytes, *, restart: bool = True) -> bool:
        """Add a message; False where the disk has failed and memory holds as much as it may.

        `restart`: reading can begin here (a keyframe). After a message was let go, only such a one is taken.
        """
        if (self._failures and self._held_bytes() > self._settings.hold_bytes) or (self.needs_restart and not restart):
            self.needs_restart = True
            return False
        self.needs_restart = False
        if self._builder is None:
            self._begin()
        assert self._builder is not None  # noqa: S101 - for the type checker: begun just now
        channel = self._builder.channels.get(topic) or self._builder.describe(topic)
        sequence = self.counts.get(topic.name, 0)
        record = message_record(channel, sequence, t_ns, publish_ns, data)
        self._builder.add(record, channel, t_ns)
        self._size += len(record)
        self.counts[topic.name] = sequence + 1
        if not self._is_dirty:
            self._is_dirty, self._dirty_since_s = True, self._monotonic_s()
        if self._journal is not None:
            self._add_to_journal(self._journal, topic, channel, record)
        if self._size >= self._settings.segment_bytes:
            self.cut()
        return True

    def sync(self, *, now: bool = False) -> None:
        """Make what was appended durable, where that is due or asked for; try again what the disk did not take."""
        time_s = self._monotonic_s()
        if self._failures:
            if now or time_s >= self._retry_at_s:
                self._seal_from_memory()
            return
        is_due = now or time_s - self._dirty_since_s >= self._settings.sync_s
        if self._journal is not None and self._is_dirty and is_due:
            self._sync_journal(self._journal)

    def cut(self) -> None:
        """Seal the open segment, if there is one; the next message begins the next."""
        if self._builder is None:
            return
        if self._journal is not None and self._is_dirty:
            self._sync_journal(self._journal)  # sealing takes its time, and a crash meanwhile leaves the journal
        self._seal_from_memory()

    def _begin(self) -> None:
        self._builder, self._size, self._opened_s = SegmentBuilder(), 0, self._monotonic_s()
        if self._failures:
            return
        try:
            name = stem_of(self._recording, self.stream, self._seq)
            self._journal = JournalWriter(self._spool.disk, self._journal_path(self._seq), name=name)
        except OSError as error:
            self._fail(error)

    def _add_to_journal(self, journal: JournalWriter, topic: Topic, channel: int, record: bytes) -> None:
        try:
            if channel > journal.described:
                journal.describe(channel, topic)
            journal.add(record)
        except OSError as error:
            self._fail(error)
            self._seal_from_memory()

    def _sync_journal(self, journal: JournalWriter) -> None:
        try:
            journal.sync()
        except OSError as error:
            self._fail(error)
            self._seal_from_memory()
        else:
            self._is_dirty = False

    def _fail(self, error: OSError) -> None:
        """Abandon the journal; what was in it is in memory. From now on the disk is tried again from time to time."""
        if self._journal is not None:
            self._journal.abandon()
            self._journal = None
        if not self._failures:
            self._alarm(f"stream {self.stream} cannot be written: {error.strerror or error}")
        self._failures += 1
        wait_s = min(LONGEST_RETRY_S, self._settings.sync_s * 2 ** min(self._failures - 1, 10))
        self._retry_at_s = self._monotonic_s() + wait_s

    def _seal_from_memory(self) -> None:
        """Finish the open segment and write all that is unwritten, oldest first."""
        if self._builder is not None:
            facts, body = self._builder.finish()
            if self._journal is not None:
                with contextlib.suppress(OSError):
                    self._journal.close()
            self._builder = self._journal = None
            self._size = 0
            if facts is None:  # its first message was refused
                self._remove_journal(self._seq)
            else:
                self._unwritten.append(_Unwritten(self._seq, facts, body))
                self._seq += 1
        try:
            while self._unwritten:
                self._write(self._unwritten[0])
                self._unwritten.popleft()
        except OSError as error:
            self._fail(error)
            return
        if self._failures:
            self._alarm(f"stream {self.stream} can be written again")
        self._failures, self._is_dirty = 0, False

    def _write(self, segment: _Unwritten) -> None:
        name = (self._recording, self.stream, segment.seq)
        self._spool.add(name, segment.facts, segment.body, kind=self._kind, content_type=MCAP_TYPE)
        self.last_sealed = segment.seq
        self._remove_journal(segment.seq)

    def _remove_journal(self, seq: int) -> None:
        with contextlib.suppress(OSError):  # `recover` removes one whose segment is sealed, or that is empty
            self._spool.disk.unlink(self._journal_path(seq))

    def _journal_path(self, seq: int) -> Path:
        return self._spool.journal_path(self._recording, self.stream, seq, kind=self._kind)

    def _held_bytes(self) -> int:
        return self._size + sum(len(one.body) for one in self._unwritten)
