"""The open segment on disk: MCAP records, each in a frame with a checksum, so that damage costs just what it touched.

    frame = mark (4 bytes) | length of the payload (u32) | the same inverted (u32) | CRC-32 of the payload | payload

All numbers are little-endian. `mark` is the CRC-32 of the journal's name: what another journal's frames look like
inside a message is not mistaken for a frame of this one. A payload is one of

    a message record (opcode 5) of MCAP
    a Schema record, where the topic has one, and a Channel record: twice, so that a damaged one costs no message

A frame that ends with the file is torn: the write that a crash cut short. Any other frame that does not check is
damaged, and reading goes on at the next frame that does.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from edge.disk import Disk
from edge.records import (
    MAX_RECORD_BYTES,
    Topic,
    as_bytes,
    channel_record,
    is_message,
    message_head,
    schema_record,
)

_HEAD = struct.Struct("<4sIII")
_ALL_ONES = 0xFFFFFFFF


def mark_of(name: str) -> bytes:
    """The mark of a journal named "recording/stream/seq"."""
    return zlib.crc32(name.encode()).to_bytes(4, "little")


class JournalWriter:
    """Appends messages to a new journal. What is flushed survives SIGKILL, what is synced survives a power cut."""

    def __init__(self, disk: Disk, path: Path, *, name: str) -> None:
        self._disk, self._mark = disk, mark_of(name)
        self._file: IO[bytes] = disk.create(path)
        self.size = self.described = 0  # bytes; topics, whose channel ids are 1, 2, 3 …
        try:
            disk.sync_folder(path.parent)
        except OSError:
            self.abandon()
            raise

    def add(self, record: bytes) -> None:
        """Add one message record of a topic that is described."""
        frame = _frame(self._mark, record)
        self._file.write(frame)
        self.size += len(frame)

    def sync(self) -> None:
        """Make what was added durable. A failure means that this file must be abandoned, never synced again."""
        self._disk.sync(self._file)

    def flush(self) -> None:
        """Hand what was added to the kernel: it then survives this process."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        """Close after a failure, whatever becomes of what was not synced."""
        with contextlib.suppress(OSError):
            self._file.close()

    def describe(self, channel: int, topic: Topic) -> None:
        """Make a topic known under a channel id, before its first message."""
        described = [schema_record(channel, topic)] if topic.schema_name else []
        payload = as_bytes(*described, channel_record(channel, channel if described else 0, topic))
        frames = _frame(self._mark, payload) * 2
        self._file.write(frames)
        self.size += len(frames)
        self.described += 1


def _frame(mark: bytes, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(mark, size, size ^ _ALL_ONES, zlib.crc32(payload)) + payload


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a journal that does not check. `is_torn`: it is a write that was cut short by the end."""

    offset: int
    size: int
    is_torn: bool


@dataclass(frozen=True, slots=True)
class Described:
    """A topic that a journal makes known, and the channel id that its messages carry."""

    channel: int
    topic: Topic


def read_journal(data: bytes, *, name: str) -> Iterator[bytes | Described | Damage]:
    """What a journal holds, in order: message records, topics before their first message, and damaged stretches."""
    known: set[int] = set()
    for found in _payloads(data, mark_of(name)):
        if isinstance(found, Damage):
            yield found
            continue
        at, payload = found
        unreadable = Damage(at, _HEAD.size + len(payload), is_torn=False)
        if is_message(payload):
            yield payload if message_head(payload)[0] in known else unreadable  # both copies of its topic are gone
        elif (described := _described(payload)) is None:
            yield unreadable
        elif described.channel not in known:
            known.add(described.channel)
            yield described


def _payloads(data: bytes, mark: bytes) -> Iterator[tuple[int, bytes] | Damage]:
    at, end = 0, len(data)
    while at < end:
        payload = _payload(data, at, mark)
        if payload is None:  # what its head says of its length is not believed
            until = _next_frame(data, at + 1, mark)
            yield Damage(at, until - at, is_torn=until == end and _is_cut_short(data, at, mark))
        else:
            until = at + _HEAD.size + len(payload)
            yield at, payload
        at = until


def _payload(data: bytes, at: int, mark: bytes) -> bytes | None:
    """The payload of the frame that begins here; None where there is none, or it does not check."""
    size = _payload_size(data, at, mark)
    if size is None:
        return None
    payload = data[at + _HEAD.size : at + _HEAD.size + size]
    is_whole = len(payload) == size and zlib.crc32(payload) == _HEAD.unpack_from(data, at)[3]
    return payload if is_whole else None


def _payload_size(data: bytes, at: int, mark: bytes) -> int | None:
    """The length that a whole and sound frame head states; None where there is none."""
    if len(data) - at < _HEAD.size:
        return None
    found, size, inverted, _ = _HEAD.unpack_from(data, at)
    return size if found == mark and size == inverted ^ _ALL_ONES and size <= MAX_RECORD_BYTES else None


def _next_frame(data: bytes, at: int, mark: bytes) -> int:
    """Where the next sound frame head stands; the end where there is none."""
    while (at := data.find(mark, at)) >= 0:
        if _payload_size(data, at, mark) is not None:
            return at
        at += 1
    return len(data)


def _is_cut_short(data: bytes, at: int, mark: bytes) -> bool:
    """Whether what is left is the beginning of a frame."""
    left = len(data) - at
    if left < _HEAD.size:
        return mark.startswith(data[at : at + len(mark)])
    size = _payload_size(data, at, mark)
    return size is not None and _HEAD.size + size > left


def _described(payload: bytes) -> Described | None:
    """The topic that a payload describes; None where it is no Schema and Channel record."""
    schema: Schema | None = None
    at = 0
    with contextlib.suppress(McapError, struct.error, ValueError):
        while at < len(payload):
            opcode, length = payload[at], int.from_bytes(payload[at + 1 : at + 9], "little")
            content = ReadDataStream(io.BytesIO(payload[at + 9 : at + 9 + length]))
            at += 9 + length
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(content)
            elif opcode == Opcode.CHANNEL:
                channel = Channel.read(content)
                return Described(channel.id, _topic(schema, channel))
    return None


def _topic(schema: Schema | None, channel: Channel) -> Topic:
    if schema is None:
        return Topic(channel.topic, channel.message_encoding)
    return Topic(channel.topic, channel.message_encoding, schema.name, schema.encoding, schema.data)
