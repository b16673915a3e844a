"""The sealed segment: chunked, compressed MCAP, built of messages or from a journal (read back: `segment_reader.py`).

MCAP: https://mcap.dev/spec. A chunked file torn by SIGKILL gives nothing back: so the open segment is a journal
(`edge/journal.py`), and sealing makes an MCAP file of its records.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge.chunks import MAGIC, ChunkedWriter
from edge.errors import SegmentError
from edge.journal import Damage, Described, read_journal
from edge.records import Message as Message  # these three are part of this module's own interface
from edge.records import Topic as Topic
from edge.records import message_head, message_record
from edge.segment_reader import read_messages as read_messages
from edge.wire import MAX_TIME_NS


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What is known of a finished segment: `[start_ns, end_ns)`, size, SHA-256 in hex, messages of each topic."""

    start_ns: int
    end_ns: int
    bytes: int
    sha256: str
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What sealing made of a journal: a segment, where a message was whole, and the stretches that were not."""

    facts: SegmentFacts | None
    body: bytes
    damages: tuple[Damage, ...]


def build(messages: Iterable[Message]) -> tuple[SegmentFacts, bytes] | None:
    """A finished segment in memory; None where there is no message. The same messages give the same bytes."""
    builder = SegmentBuilder()
    for message in messages:
        publish_ns = message.t_ns if message.publish_ns is None else message.publish_ns
        channel = builder.channels.get(message.topic) or builder.describe(message.topic)
        record = message_record(channel, message.sequence, message.t_ns, publish_ns, message.data)
        builder.add(record, channel, message.t_ns)
    facts, body = builder.finish()
    return None if facts is None else (facts, body)


def seal_journal(data: bytes, *, name: str) -> Sealed:
    """Make a segment of a journal's bytes, whole, torn or damaged; `name` is "recording/stream/seq"."""
    builder, damages = SegmentBuilder(), []
    for found in read_journal(data, name=name):
        if isinstance(found, Damage):
            damages.append(found)
        elif isinstance(found, Described):
            builder.describe(found.topic, channel=found.channel)
        else:
            channel, _, t_ns, _ = message_head(found)
            builder.add(found, channel, t_ns)
    return Sealed(*builder.finish(), tuple(damages))


class SegmentBuilder:
    """A segment in the making, in memory: whole chunks are compressed as they fill."""

    def __init__(self) -> None:
        self.channels: dict[Topic, int] = {}
        self._file = io.BytesIO()
        self._writer = ChunkedWriter(self._file)
        self.add = self._writer.add  # (record, channel, t_ns), for every message: no call in between

    def describe(self, topic: Topic, *, channel: int | None = None) -> int:
        """Make a topic known, under the next channel id if none is given; returns the id."""
        channel = len(self.channels) + 1 if channel is None else channel
        self._writer.add_topic(channel, topic)
        self.channels[topic] = channel
        return channel

    def finish(self) -> tuple[SegmentFacts | None, bytes]:
        """The segment; (None, b"") where it holds no message."""
        self._writer.finish()
        counts: dict[str, int] = {}
        for topic, channel in self.channels.items():
            if channel in self._writer.counts:
                counts[topic.name] = counts.get(topic.name, 0) + self._writer.counts[channel]
        if not counts:
            return None, b""
        body = self._file.getvalue()
        return SegmentFacts(self._writer.start_ns, self._writer.end_ns + 1, len(body), sha256_of(body), counts), body


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def digest_file(path: Path) -> tuple[str, int]:
    """SHA-256 in hex, and size in bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def facts_of_file(path: Path) -> SegmentFacts:
    """The facts of a finished MCAP file, read from its bytes. `SegmentError` where it is damaged, or empty."""
    counts: dict[str, int] = {}
    start_ns, end_ns = MAX_TIME_NS, 0
    with path.open("rb") as file:
        for message in read_messages(file):
            counts[message.topic.name] = counts.get(message.topic.name, 0) + 1
            start_ns, end_ns = min(start_ns, message.t_ns), max(end_ns, message.t_ns + 1)
    if not counts:
        raise SegmentError(f"{path} holds no message")
    sha256, size = digest_file(path)
    return SegmentFacts(start_ns, end_ns, size, sha256, counts)


def looks_like_mcap(body: bytes) -> bool:
    """Whether bytes begin and end as a finished MCAP file does."""
    return len(body) > 2 * len(MAGIC) and body.startswith(MAGIC) and body.endswith(MAGIC)
