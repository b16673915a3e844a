"""MCAP records as bytes, made once: the journal keeps them and sealing moves them, without taking them apart again.

Format: https://mcap.dev/spec. A message is 31 bytes of head and its data; that head is written for every reading of the
robot, so it is packed here in one step. Everything rarer is written by the `mcap` library.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import Channel, Schema

MAX_RECORD_BYTES = 256 << 20

_MESSAGE = struct.Struct("<BQHIQQ")  # opcode, length, channel id, sequence, log time, publish time
_FIELDS = _MESSAGE.size - 9  # of the content that follows opcode and length
_TIMES = struct.Struct("<HIQQ")


@dataclass(frozen=True, slots=True)
class Topic:
    """A named series of messages and how they are encoded (`json`, `protobuf`, `cdr`) and described."""

    name: str
    encoding: str
    schema_name: str = ""
    schema_encoding: str = ""
    schema_data: bytes = b""


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


def message_record(channel: int, sequence: int, t_ns: int, publish_ns: int, data: bytes) -> bytes:
    """One message. `t_ns` is its log time; both times in ns since the Unix epoch."""
    size = _FIELDS + len(data)
    return _MESSAGE.pack(Opcode.MESSAGE, size, channel, sequence & 0xFFFFFFFF, t_ns, publish_ns) + data


def is_message(record: bytes) -> bool:
    """Whether bytes are just one message record."""
    return len(record) >= _MESSAGE.size and record[0] == Opcode.MESSAGE and _length(record) == len(record) - 9


def message_head(record: bytes) -> tuple[int, int, int, int]:
    """Channel, sequence, log time and publish time of a message record."""
    return _TIMES.unpack_from(record, 9)


def message_data(record: bytes) -> bytes:
    return record[_MESSAGE.size :]


def schema_record(schema_id: int, topic: Topic) -> Schema:
    return Schema(id=schema_id, name=topic.schema_name, encoding=topic.schema_encoding, data=topic.schema_data)


def channel_record(channel: int, schema_id: int, topic: Topic) -> Channel:
    return Channel(id=channel, topic=topic.name, message_encoding=topic.encoding, schema_id=schema_id, metadata={})


def as_bytes(*records: Schema | Channel) -> bytes:
    builder = RecordBuilder()
    for record in records:
        record.write(builder)
    return bytes(builder.end())


def _length(record: bytes) -> int:
    return int.from_bytes(record[1:9], "little")
