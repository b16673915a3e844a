"""The MCAP segment: written as an unchunked journal, sealed as chunked compressed MCAP, read back message by message.

MCAP: https://mcap.dev/spec. A chunked file torn by SIGKILL gives nothing back, an unchunked one all but its last
message: so the open segment is unchunked, and sealing rewrites it.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mcap.exceptions import McapError
from mcap.records import Channel, Footer, Schema, Statistics
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
from zstandard import ZstdError

from edge.disk import DISK
from edge.errors import SegmentError
from edge.wire import MAX_TIME_NS

MAGIC = b"\x89MCAP0\r\n"
LIBRARY = "fleetfeed"
CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Topic:
    """A named series of messages and how they are encoded (`json`, `protobuf`, `cdr`) and described."""

    name: str
    encoding: str
    schema_name: str = ""
    schema_encoding: str = ""
    schema_data: bytes = b""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: capture time in ns since the Unix epoch, a counter per topic from 0, the encoded bytes."""

    topic: Topic
    t_ns: int
    sequence: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What is known of a finished segment: `[start_ns, end_ns)`, size, SHA-256 in hex, messages of each topic."""

    start_ns: int
    end_ns: int
    bytes: int
    sha256: str
    counts: dict[str, int]


class SegmentWriter:
    """Writes messages to an MCAP file, as a journal (unchunked) or in chunks compressed with zstd."""

    def __init__(self, file: IO[bytes], *, chunked: bool) -> None:
        self._file = file
        compression = CompressionType.ZSTD if chunked else CompressionType.NONE
        self._writer = Writer(file, chunk_size=CHUNK_BYTES, compression=compression, use_chunking=chunked)
        self._writer.start(library=LIBRARY)
        self._channels: dict[Topic, int] = {}

    @classmethod
    def journal(cls, path: Path) -> SegmentWriter:
        """A new journal on disk, its name durable already."""
        file = path.open("wb")
        DISK.sync_folder(path.parent)
        return cls(file, chunked=False)

    def add(self, message: Message) -> None:
        channel = self._channels.get(message.topic)
        if channel is None:
            channel = self._channels[message.topic] = self._register(message.topic)
        self._writer.add_message(
            channel,
            log_time=message.t_ns,
            publish_time=message.t_ns,
            sequence=message.sequence & 0xFFFFFFFF,
            data=message.data,
        )

    def _register(self, topic: Topic) -> int:
        schema_id = 0
        if topic.schema_name:
            schema_id = self._writer.register_schema(topic.schema_name, topic.schema_encoding, topic.schema_data)
        return int(self._writer.register_channel(topic.name, topic.encoding, schema_id))

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def sync(self) -> None:
        """Make what was added durable. A failed fsync means that this file must be abandoned, never synced again."""
        self._file.flush()
        os.fdatasync(self._file.fileno())

    def finish(self) -> None:
        """Write the summary; the file stays open."""
        self._writer.finish()

    def close(self) -> None:
        """Close the file as far as it got: without `finish` it stays a journal."""
        self._file.close()


def build(messages: Iterable[Message]) -> tuple[SegmentFacts, bytes] | None:
    """A finished segment (chunks compressed with zstd) in memory; None where there is no message.

    The same messages give the same bytes.
    """
    file = io.BytesIO()
    writer = SegmentWriter(file, chunked=True)
    counts: dict[str, int] = {}
    start_ns, end_ns = 2**63 - 1, 0
    for message in messages:
        writer.add(message)
        counts[message.topic.name] = counts.get(message.topic.name, 0) + 1
        start_ns, end_ns = min(start_ns, message.t_ns), max(end_ns, message.t_ns + 1)
    if not counts:
        return None
    writer.finish()
    body = file.getvalue()
    return SegmentFacts(start_ns, end_ns, len(body), hashlib.sha256(body).hexdigest(), counts), body


def digest_file(path: Path) -> tuple[str, int]:
    """SHA-256 in hex, and size in bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def looks_like_mcap(body: bytes) -> bool:
    """Whether bytes begin and end as a finished MCAP file does."""
    return len(body) > 2 * len(MAGIC) and body.startswith(MAGIC) and body.endswith(MAGIC)


def read_messages(file: IO[bytes]) -> Iterator[Message]:
    """Every message of a finished MCAP file in file order; `SegmentError` where it is damaged or torn."""
    finished = False
    try:
        for item in _records(file, validate_crcs=True):
            if item is None:
                finished = True
            else:
                yield item
    except _READ_ERRORS as error:
        raise SegmentError(f"not a readable MCAP file: {type(error).__name__}: {error}") from error
    if not finished:
        raise SegmentError("not a readable MCAP file: it ends before its footer")


def read_torn(file: IO[bytes]) -> Iterator[Message]:
    """Every whole message of an MCAP file that may end anywhere; `SegmentError` if it does not even begin as one."""
    if file.read(len(MAGIC)) != MAGIC:
        raise SegmentError("not an MCAP file: it does not begin with the MCAP magic")
    file.seek(0)
    try:
        yield from (item for item in _records(file, validate_crcs=False) if item is not None)
    except _READ_ERRORS:
        return  # the torn tail: what came before it is whole


def _records(file: IO[bytes], *, validate_crcs: bool) -> Iterator[Message | None]:
    """Messages in file order, then None where the footer stands. A file must hold as many as its statistics say."""
    schemas: dict[int, Schema] = {}
    topics: dict[int, Topic] = {}
    found, stated = 0, None
    for record in StreamReader(file, validate_crcs=validate_crcs, record_size_limit=MAX_RECORD_BYTES).records:
        if isinstance(record, McapMessage):
            if record.log_time >= MAX_TIME_NS:
                raise ValueError(f"a message's time must be below {MAX_TIME_NS} ns, got {record.log_time}")
            found += 1
            yield Message(topics[record.channel_id], record.log_time, record.sequence, record.data)
        elif isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            topics[record.id] = _topic(schemas.get(record.schema_id), record)
        elif isinstance(record, Statistics):
            stated = record.message_count
        elif isinstance(record, Footer):
            if stated not in (None, found):
                raise ValueError(f"its statistics state {stated} messages, it holds {found}")
            yield None


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
