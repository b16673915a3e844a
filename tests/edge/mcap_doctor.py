"""What `mcap doctor` looks at, record by record: every offset, count, time and CRC of a chunked MCAP file.

Format: https://mcap.dev/spec. Only what fleetfeed writes is known here; anything else fails.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import zstandard
from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, ChunkIndex, DataEnd, Footer, Header, Message, Schema, Statistics, SummaryOffset

from edge.chunks import MAGIC

Located = tuple[int, int, Any]  # offset, whole length, content

READ: dict[int, Callable[[ReadDataStream], Any]] = {
    Opcode.HEADER: Header.read,
    Opcode.FOOTER: Footer.read,
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.CHUNK: Chunk.read,
    Opcode.MESSAGE_INDEX: records.MessageIndex.read,
    Opcode.CHUNK_INDEX: ChunkIndex.read,
    Opcode.STATISTICS: Statistics.read,
    Opcode.SUMMARY_OFFSET: SummaryOffset.read,
    Opcode.DATA_END: DataEnd.read,
}


def records_in(data: bytes, *, shift: int = 0) -> Iterator[Located]:
    """Each record, read to its very end. `shift` is added to the offsets."""
    at = 0
    while at < len(data):
        opcode, length = data[at], int.from_bytes(data[at + 1 : at + 9], "little")
        stream = io.BytesIO(data[at + 9 : at + 9 + length])
        reader = ReadDataStream(stream)
        record = Message.read(reader, length) if opcode == Opcode.MESSAGE else READ[opcode](reader)
        assert stream.tell() == length, f"the {Opcode(opcode).name} at {at} is not as long as it says"
        yield at + shift, length + 9, record
        at += length + 9
    assert at == len(data), "a record ends after the end"


@dataclass
class Doctor:
    """`examine` fails with an AssertionError where a file is not as the specification asks."""

    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    times: list[int] = field(default_factory=list)
    chunks: list[ChunkIndex] = field(default_factory=list)

    def examine(self, body: bytes) -> None:
        assert body.startswith(MAGIC)
        assert body.endswith(MAGIC)
        found = list(records_in(body[len(MAGIC) : -len(MAGIC)], shift=len(MAGIC)))
        end = next(n for n, (_, _, record) in enumerate(found) if isinstance(record, DataEnd))
        assert isinstance(found[0][2], Header)
        self._examine_data(found[1:end])
        self._examine_summary(body, found[end + 1 :])

    def _examine_data(self, found: list[Located]) -> None:
        expected: dict[int, list[tuple[int, int]]] = {}
        for at, size, record in found:
            if isinstance(record, Chunk):
                assert expected == {}, "the chunk before has messages without an index"
                expected = self._examine_chunk(record)
                self.chunks.append(_index_of(record, at, size))
            else:
                assert record.records == expected.pop(record.channel_id)
                self.chunks[-1].message_index_offsets[record.channel_id] = at
                self.chunks[-1].message_index_length += size
        assert expected == {}

    def _examine_chunk(self, chunk: Chunk) -> dict[int, list[tuple[int, int]]]:
        """What its message indexes have to say."""
        data = zstandard.ZstdDecompressor().decompress(chunk.data)
        assert (len(data), zlib.crc32(data)) == (chunk.uncompressed_size, chunk.uncompressed_crc)
        index: dict[int, list[tuple[int, int]]] = {}
        for at, _, record in records_in(data):
            if isinstance(record, Message):
                assert record.channel_id in self.channels, "a message comes before its channel"
                index.setdefault(record.channel_id, []).append((record.log_time, at))
            elif isinstance(record, Channel):
                assert record.schema_id == 0 or record.schema_id in self.schemas, "a channel comes before its schema"
                self.channels[record.id] = record
            else:
                self.schemas[record.id] = record
        for channel, entries in index.items():
            self.counts[channel] = self.counts.get(channel, 0) + len(entries)
        times = [t_ns for entries in index.values() for t_ns, _ in entries]
        self.times += times
        assert (chunk.message_start_time, chunk.message_end_time) == ((min(times), max(times)) if times else (0, 0))
        return index

    def _examine_summary(self, body: bytes, found: list[Located]) -> None:
        groups: dict[type, list[Any]] = {}
        spans: dict[type, tuple[int, int]] = {}
        for at, size, record in found:
            groups.setdefault(type(record), []).append(record)
            start, length = spans.get(type(record), (at, 0))
            assert start + length == at, "records of one kind stand apart"
            spans[type(record)] = (start, length + size)
        assert groups[Channel] == list(self.channels.values())
        assert groups.get(Schema, []) == list(self.schemas.values())
        assert groups[ChunkIndex] == self.chunks
        self._examine_statistics(*groups[Statistics])
        stated = {Opcode(one.group_opcode).name: (one.group_start, one.group_length) for one in groups[SummaryOffset]}
        assert stated == {_name(kind): span for kind, span in spans.items() if kind not in (SummaryOffset, Footer)}
        (footer,) = groups[Footer]
        assert (footer.summary_start, footer.summary_offset_start) == (found[0][0], spans[SummaryOffset][0])
        before_crc = spans[Footer][0] + 9 + 16
        assert footer.summary_crc == zlib.crc32(body[footer.summary_start : before_crc])

    def _examine_statistics(self, stated: Statistics) -> None:
        assert stated.channel_message_counts == self.counts
        assert stated.message_count == len(self.times)
        assert (stated.message_start_time, stated.message_end_time) == (min(self.times), max(self.times))
        assert (stated.channel_count, stated.schema_count) == (len(self.channels), len(self.schemas))
        assert stated.chunk_count == len(self.chunks)
        assert (stated.attachment_count, stated.metadata_count) == (0, 0)


def _index_of(chunk: Chunk, at: int, size: int) -> ChunkIndex:
    """The index that a chunk must have, as far as its message indexes do not matter."""
    return ChunkIndex(
        chunk_start_offset=at,
        chunk_length=size,
        message_start_time=chunk.message_start_time,
        message_end_time=chunk.message_end_time,
        message_index_offsets={},
        message_index_length=0,
        compression=chunk.compression,
        compressed_size=len(chunk.data),
        uncompressed_size=chunk.uncompressed_size,
    )


def _name(kind: type) -> str:
    return {Schema: "SCHEMA", Channel: "CHANNEL", Statistics: "STATISTICS", ChunkIndex: "CHUNK_INDEX"}[kind]
