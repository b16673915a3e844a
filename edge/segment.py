"""The sealed segment: chunked, compressed MCAP, built of messages or from a journal, and read back message by message.

MCAP: https://mcap.dev/spec. A chunked file torn by SIGKILL gives nothing back: so the open segment is a journal
(`edge/journal.py`), and sealing makes an MCAP file of its records.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, Footer, McapRecord, Schema, Statistics
from mcap.records import Message as McapMessage
from mcap.stream_reader import get_chunk_data_stream
from zstandard import ZstdError

from edge.chunks import MAGIC, ChunkedWriter
from edge.errors import SegmentError
from edge.journal import Damage, Described, read_journal
from edge.records import MAX_RECORD_BYTES, message_head, message_record
from edge.records import Topic as Topic  # part of this module's own interface
from edge.wire import MAX_TIME_NS

_HEAD = struct.Struct("<BQ")  # opcode and length of a record
_FIELDS = struct.Struct("<HIQQ")  # what stands before a message's data: channel, sequence, log time, publish time
_DESCRIBING: dict[int, Any] = {Opcode.SCHEMA: Schema, Opcode.CHANNEL: Channel}
_READ: dict[int, Any] = {
    **_DESCRIBING,
    Opcode.CHUNK: Chunk,
    Opcode.STATISTICS: Statistics,
    Opcode.DATA_END: DataEnd,
    Opcode.FOOTER: Footer,
}


class Message(NamedTuple):
    """One message: capture time in ns since the Unix epoch, a counter per topic from 0, the encoded bytes.

    `publish_ns` is the recorder's steady time (see `edge/clock.py`), or what another recorder wrote; None: as `t_ns`.
    A tuple, since jobs make millions of them.
    """

    topic: Topic
    t_ns: int
    sequence: int
    data: bytes
    publish_ns: int | None = None


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


def read_messages(file: IO[bytes], *, check_crcs: bool = True) -> Iterator[Message]:
    """Every message of a finished MCAP file in file order; `SegmentError` where it is damaged or torn.

    `check_crcs=False` is for bytes of which a digest has been compared: CRCs take longer than all else.
    """
    finished = False
    try:
        for item in _records(file, validate_crcs=check_crcs):
            if item is None:
                finished = True
            else:
                yield item
    except _READ_ERRORS as error:
        raise SegmentError(f"not a readable MCAP file: {type(error).__name__}: {error}") from error
    if not finished:
        raise SegmentError("not a readable MCAP file: it ends before its footer")


def _records(file: IO[bytes], *, validate_crcs: bool) -> Iterator[Message | None]:
    """Messages in file order, then None where the footer stands. A file must hold as many as its statistics say."""
    described = _Described()
    found, stated = 0, None
    for record in _file_records(file, validate_crcs=validate_crcs):
        for message in _held(record, described, validate_crcs=validate_crcs):
            if message.t_ns >= MAX_TIME_NS:
                raise ValueError(f"a message's time must be below {MAX_TIME_NS} ns, got {message.t_ns}")
            found += 1
            yield message
        if isinstance(record, Statistics):
            stated = record.message_count
        elif isinstance(record, Footer):
            if stated not in (None, found):
                raise ValueError(f"its statistics state {stated} messages, it holds {found}")
            yield None


def _file_records(file: IO[bytes], *, validate_crcs: bool) -> Iterator[McapRecord]:
    """What a file consists of up to its footer, but records that say nothing of messages, as indices."""
    stream = ReadDataStream(file, calculate_crc=validate_crcs)
    if stream.read(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin as one")
    while True:
        crc = stream.checksum() if validate_crcs else 0
        opcode, size = _HEAD.unpack(stream.read(_HEAD.size))
        if size > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {size} bytes, {MAX_RECORD_BYTES} at most are read")
        content = stream.read(size)
        if len(content) < size:
            raise EOFError(f"it ends within a record of {size} bytes")
        if opcode == Opcode.MESSAGE:
            yield McapMessage.read(ReadDataStream(io.BytesIO(content)), size)
        elif opcode in _READ:
            record = _READ[opcode].read(ReadDataStream(io.BytesIO(content)))
            if isinstance(record, DataEnd) and validate_crcs and record.data_section_crc not in (0, crc):
                raise ValueError(f"its data have the CRC {crc}, it states {record.data_section_crc}")
            yield record
        if opcode == Opcode.FOOTER:
            if stream.read(len(MAGIC)) != MAGIC:
                raise ValueError("it does not end as one")
            return


def _held(record: McapRecord, described: _Described, *, validate_crcs: bool) -> Iterable[Message]:
    """The messages of a record: those of a chunk, or itself; `described` learns what it tells of topics."""
    if isinstance(record, Chunk):
        stream, size = get_chunk_data_stream(record, validate_crc=validate_crcs)
        return _messages(stream.read(size), described)
    if isinstance(record, McapMessage):
        topic = described.topics[record.channel_id]
        return (Message(topic, record.log_time, record.sequence, record.data, record.publish_time),)
    if isinstance(record, Schema | Channel):
        described.add(record)
    return ()


def _messages(chunk: bytes, described: _Described) -> Iterator[Message]:
    """The messages of a chunk's content; `described` learns what stands between them.

    Read here and not by the `mcap` library, which takes three times as long: messages are what files are full of.
    """
    topics, end, at = described.topics, len(chunk), 0
    while at < end:
        opcode, size = _HEAD.unpack_from(chunk, at)
        start, at = at + _HEAD.size, at + _HEAD.size + size
        if at > end:
            raise EOFError(f"a record of {size} bytes reaches beyond its chunk")
        if opcode == Opcode.MESSAGE:
            if size < _FIELDS.size:
                raise EOFError(f"a message record of {size} bytes")
            channel, sequence, t_ns, publish_ns = _FIELDS.unpack_from(chunk, start)
            yield Message(topics[channel], t_ns, sequence, chunk[start + _FIELDS.size : at], publish_ns)
        elif opcode in _DESCRIBING:
            described.add(_DESCRIBING[opcode].read(ReadDataStream(io.BytesIO(chunk[start:at]))))


@dataclass(frozen=True, slots=True)
class _Described:
    """What a file has told of its schemas and topics so far, by their ids."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    topics: dict[int, Topic] = field(default_factory=dict)

    def add(self, record: Schema | Channel) -> None:
        if isinstance(record, Schema):
            self.schemas[record.id] = record
        else:
            self.topics[record.id] = _topic(self.schemas.get(record.schema_id), record)


def _topic(schema: Any, channel: Any) -> Topic:
    if schema is None:
        return Topic(channel.topic, channel.message_encoding)
    return Topic(channel.topic, channel.message_encoding, schema.name, schema.encoding, schema.data)


_READ_ERRORS = (
    McapError,
    ZstdError,
    RuntimeError,  # what lz4 raises
    struct.error,
    EOFError,
    KeyError,
    ValueError,
    OverflowError,
    MemoryError,
)
