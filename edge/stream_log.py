"""One stream of a recording on its way to the spool: the open journal, when it is synced, when it is cut."""

from __future__ import annotations

import time

from edge.segment import Message, SegmentWriter, Topic
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.wire import Kind


class StreamLog:
    """Appends messages to the stream's journal and seals it when it is old or large. One thread uses it."""

    def __init__(self, spool: Spool, recording: str, stream: str, *, kind: Kind, settings: EdgeSettings) -> None:
        self.stream = stream
        self.counts: dict[str, int] = {}
        self._spool, self._recording, self._kind, self._settings = spool, recording, kind, settings
        self._writer: SegmentWriter | None = None
        self._seq = 0
        self._opened_s = self._synced_s = 0.0
        self._dirty = False

    @property
    def is_due(self) -> bool:
        """Whether the open segment has reached its age or size."""
        if self._writer is None:
            return False
        age_s = time.monotonic() - self._opened_s
        return age_s >= self._settings.segment_s or self._writer.size >= self._settings.segment_bytes

    @property
    def is_empty(self) -> bool:
        """Whether the next message begins a new segment."""
        return self._writer is None

    def append(self, topic: Topic, t_ns: int, data: bytes) -> None:
        if self._writer is None:
            path = self._spool.journal_path(self._recording, self.stream, self._seq, kind=self._kind)
            self._writer = SegmentWriter.journal(path)
            self._opened_s = self._synced_s = time.monotonic()
        sequence = self.counts.get(topic.name, 0)
        self._writer.add(Message(topic, t_ns, sequence, data))
        self.counts[topic.name] = sequence + 1
        self._dirty = True

    def sync(self, *, now: bool = False) -> None:
        """Make what was appended durable, where that is due or asked for."""
        if self._writer is None or not self._dirty:
            return
        if now or time.monotonic() - self._synced_s >= self._settings.sync_s:
            self._writer.sync()
            self._dirty, self._synced_s = False, time.monotonic()

    def cut(self) -> None:
        """Seal the open segment, if there is one; the next message begins the next."""
        if self._writer is None:
            return
        self._writer.sync()
        self._writer.close()
        self._writer = None
        self._spool.seal(self._recording, self.stream, self._seq, kind=self._kind)
        self._seq += 1
        self._dirty = False
