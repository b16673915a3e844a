"""A finished MCAP file read back: message by message, or topic by topic as columns.

MCAP: https://mcap.dev/spec. What lies within chunks is read here and not by the `mcap` library, which takes three times
as long: messages are what files are full of.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO, Any

import numpy as np
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, Schema, Statistics
from mcap.stream_reader import get_chunk_data_stream
from numpy.typing import NDArray
from zstandard import ZstdError

from edge.chunks import MAGIC
from edge.errors import SegmentError
from edge.records import MAX_RECORD_BYTES, Message, Topic
from edge.wire import MAX_TIME_NS

_HEAD = struct.Struct("<BQ")  # opcode and length of a record
_FIELDS = struct.Struct("<HIQQ")  # what stands before a message's data: channel, sequence, log time, publish time
_MESSAGE_HEAD = np.dtype(
    [("opcode", "u1"), ("size", "<u8"), ("channel", "<u2"), ("sequence", "<u4"), ("t_ns", "<u8"), ("publish_ns", "<u8")]
)
_HEAD_BYTES = _MESSAGE_HEAD.itemsize
_WITHIN_HEAD = np.arange(_HEAD_BYTES)
_MESSAGE = int(Opcode.MESSAGE)  # comparing with a member of an enum takes twice as long
_DESCRIBING: dict[int, Any] = {Opcode.SCHEMA: Schema, Opcode.CHANNEL: Channel}
_IN_PIECES = {Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE}


@dataclass(frozen=True, slots=True)
class TopicMessages:
    """Messages of one topic in file order: `t_ns` and `sequence` (n,) int64, and the n encoded messages."""

    topic: Topic
    t_ns: NDArray[np.int64]
    sequence: NDArray[np.int64]
    data: list[bytes]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> TopicMessages:
        """At least one, all of one topic."""
        t_ns, sequence = (np.array([getattr(one, name) for one in messages], np.int64) for name in ("t_ns", "sequence"))
        return cls(messages[0].topic, t_ns, sequence, [one.data for one in messages])

    @classmethod
    def join(cls, parts: Sequence[TopicMessages]) -> TopicMessages:
        if len(parts) == 1:
            return parts[0]
        t_ns, sequence = (np.concatenate([getattr(part, name) for part in parts]) for name in ("t_ns", "sequence"))
        return cls(parts[0].topic, t_ns, sequence, [data for part in parts for data in part.data])

    def messages(self) -> list[Message]:
        """One by one, without the time of publishing."""
        found = zip(self.t_ns.tolist(), self.sequence.tolist(), self.data, strict=True)
        return [Message(self.topic, t_ns, sequence, data) for t_ns, sequence, data in found]


def read_messages(file: IO[bytes], *, check_crcs: bool = True) -> Iterator[Message]:
    """Every message of a finished MCAP file in file order; `SegmentError` where it is damaged or torn.

    `check_crcs=False` is for bytes of which a digest has been compared: CRCs take longer than all else.
    """
    described, found, stated = _Described(), 0, None
    with _readable():
        for piece in _pieces(file, validate_crcs=check_crcs):
            if isinstance(piece, Statistics):
                stated = piece.message_count
                continue
            for message in _messages(piece, described):
                found += 1
                yield message
        _compare(stated, found)


def read_topics(
    file: IO[bytes], *, check_crcs: bool = True, wanted: Container[str] | None = None
) -> dict[Topic, TopicMessages]:
    """The same as columns, in a fifth of the time; only topics of these names, if there are any given."""
    described, found, stated = _Described(), 0, None
    parts: dict[Topic, list[TopicMessages]] = {}
    with _readable():
        for piece in _pieces(file, validate_crcs=check_crcs):
            if isinstance(piece, Statistics):
                stated = piece.message_count
                continue
            for count, part in _by_topic(piece, described, wanted):
                found += count
                if part:
                    parts.setdefault(part.topic, []).append(part)
        _compare(stated, found)
    return {topic: TopicMessages.join(those) for topic, those in parts.items()}


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except _READ_ERRORS as error:
        raise SegmentError(f"not a readable MCAP file: {type(error).__name__}: {error}") from error


def _compare(stated: int | None, found: int) -> None:
    """A file must hold as many messages as its statistics say."""
    if stated not in (None, found):
        raise ValueError(f"its statistics state {stated} messages, it holds {found}")


def _pieces(file: IO[bytes], *, validate_crcs: bool) -> Iterator[bytes | Statistics]:
    """What a file says of messages, up to its footer: the content of a chunk, one record outside chunks, statistics."""
    stream = ReadDataStream(file, calculate_crc=validate_crcs)
    if stream.read(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin as one")
    while True:
        crc = stream.checksum() if validate_crcs else 0
        head = stream.read(_HEAD.size)
        opcode, size = _HEAD.unpack(head)
        if size > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {size} bytes, {MAX_RECORD_BYTES} at most are read")
        content = stream.read(size)
        if len(content) < size:
            raise EOFError(f"it ends within a record of {size} bytes")
        if opcode == Opcode.CHUNK:
            chunk, length = get_chunk_data_stream(Chunk.read(_stream(content)), validate_crc=validate_crcs)
            yield chunk.read(length)
        elif opcode in _IN_PIECES:
            yield head + content
        elif opcode == Opcode.STATISTICS:
            yield Statistics.read(_stream(content))
        elif opcode == Opcode.DATA_END and validate_crcs:
            stated = DataEnd.read(_stream(content)).data_section_crc
            if stated not in (0, crc):
                raise ValueError(f"its data have the CRC {crc}, it states {stated}")
        elif opcode == Opcode.FOOTER:
            if stream.read(len(MAGIC)) != MAGIC:
                raise ValueError("it does not end as one")
            return


def _stream(content: bytes) -> ReadDataStream:
    return ReadDataStream(io.BytesIO(content))


def _messages(piece: bytes, described: _Described) -> Iterator[Message]:
    """The messages of a piece; `described` learns what stands between them."""
    topics, end, at = described.topics, len(piece), 0
    while at < end:
        opcode, size = _HEAD.unpack_from(piece, at)
        start, at = at + _HEAD.size, at + _HEAD.size + size
        if at > end:
            raise EOFError(f"a record of {size} bytes reaches beyond its chunk")
        if opcode == _MESSAGE:
            if size < _FIELDS.size:
                raise EOFError(f"a message record of {size} bytes")
            channel, sequence, t_ns, publish_ns = _FIELDS.unpack_from(piece, start)
            if t_ns >= MAX_TIME_NS:
                raise ValueError(f"a message's time must be below {MAX_TIME_NS} ns, got {t_ns}")
            yield Message(topics[channel], t_ns, sequence, piece[start + _FIELDS.size : at], publish_ns)
        elif opcode in _DESCRIBING:
            described.add(_description(opcode, piece[start:at]))


def _by_topic(
    piece: bytes, described: _Described, wanted: Container[str] | None
) -> Iterator[tuple[int, TopicMessages | None]]:
    """How many messages of a topic come next, and these, if they are wanted."""
    records: dict[int, list[int]] = {}  # channel → where its records begin
    end, at, unpack, head_size, least_size = len(piece), 0, _HEAD.unpack_from, _HEAD.size, _FIELDS.size
    while at < end:
        start = at
        opcode, size = unpack(piece, at)
        at += head_size + size
        if at > end:
            raise EOFError(f"a record of {size} bytes reaches beyond its chunk")
        if opcode == _MESSAGE:
            if size < least_size:
                raise EOFError(f"a message record of {size} bytes")
            channel = piece[start + 9] | piece[start + 10] << 8
            if channel in records:
                records[channel].append(start)
            else:
                records[channel] = [start]
        elif opcode in _DESCRIBING:
            description = _description(opcode, piece[start + _HEAD.size : at])
            if description.id in records:  # what was described before holds for these
                yield from _columns(piece, records, described.topics, wanted)
                records = {}
            described.add(description)
    yield from _columns(piece, records, described.topics, wanted)


def _columns(
    piece: bytes, records: dict[int, list[int]], topics: dict[int, Topic], wanted: Container[str] | None
) -> Iterator[tuple[int, TopicMessages | None]]:
    """The messages whose records begin there, topic by topic."""
    of_topic: dict[Topic, list[int]] = {}
    for channel, starts in records.items():
        topic = topics[channel]
        of_topic[topic] = sorted(of_topic[topic] + starts) if topic in of_topic else starts  # channels may share one
    whole = np.frombuffer(piece, np.uint8)
    for topic, starts in of_topic.items():
        first = np.array(starts)
        heads: Any = whole[first[:, np.newaxis] + _WITHIN_HEAD].view(_MESSAGE_HEAD)[:, 0]
        if (latest := int(heads["t_ns"].max())) >= MAX_TIME_NS:
            raise ValueError(f"a message's time must be below {MAX_TIME_NS} ns, got {latest}")
        if wanted is not None and topic.name not in wanted:
            yield len(starts), None
            continue
        ends = (first + heads["size"].astype(np.int64) + _HEAD.size).tolist()
        data = [piece[start + _HEAD_BYTES : end] for start, end in zip(starts, ends, strict=True)]
        t_ns, sequence = (heads[name].astype(np.int64) for name in ("t_ns", "sequence"))
        yield len(starts), TopicMessages(topic, t_ns, sequence, data)


@lru_cache(maxsize=1024)
def _description(opcode: int, content: bytes) -> Schema | Channel:
    """A schema or channel; the segments of a stream all have the same ones. Nobody changes what comes from here."""
    return _DESCRIBING[opcode].read(_stream(content))


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
