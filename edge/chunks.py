"""A finished MCAP file, made of message records: chunks compressed with zstd, their indices, and the summary.

The same records in the same order give the same bytes. Format: https://mcap.dev/spec.
"""

from __future__ import annotations

import struct
import zlib
from typing import IO, Any

import zstandard
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import ChunkIndex, DataEnd, Footer, Header, Statistics, SummaryOffset

from edge.records import Topic, as_bytes, channel_record, schema_record

MAGIC = b"\x89MCAP0\r\n"
LIBRARY = "fleetfeed"
CHUNK_BYTES = 1 << 20

_CHUNK = struct.Struct("<BQQQQII")  # opcode, length, start, end, uncompressed size, its CRC, length of the next word
_FOOTER = struct.Struct("<BQQQ")


class ChunkedWriter:
    """Takes topics and encoded messages, and writes the file piece by piece. `finish` ends it; the file stays open."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._offset = file, 0
        self._zstd = zstandard.ZstdCompressor()
        self._topics: dict[int, Topic] = {}
        self._schemas: dict[int, Topic] = {}
        self._chunk: list[bytes] = []
        self._size, self._start_ns, self._end_ns = 0, 2**64 - 1, 0
        self._entries: dict[int, list[int]] = {}  # channel → time, offset, time, offset …
        self._chunks: list[ChunkIndex] = []
        self.counts: dict[int, int] = {}
        self.start_ns, self.end_ns = 2**64 - 1, 0  # of all messages, both inclusive
        self._write(MAGIC + _record(Header(profile="", library=LIBRARY)))

    def add_topic(self, channel: int, topic: Topic) -> None:
        """Make a channel known, before its first message."""
        schema_id = channel if topic.schema_name else 0  # ids of both are apart: one schema a channel needs no table
        described = [schema_record(schema_id, topic)] if schema_id else []
        self._put(as_bytes(*described, channel_record(channel, schema_id, topic)))  # first: it refuses bad names
        self._topics[channel] = topic
        if schema_id:
            self._schemas[schema_id] = topic

    def add(self, record: bytes, channel: int, t_ns: int) -> None:
        """Add one message record of a known channel."""
        if self._size >= CHUNK_BYTES:
            self._end_chunk()
        entries = self._entries.get(channel)
        if entries is None:
            entries = self._entries[channel] = []
        entries += (t_ns, self._size)
        if t_ns < self._start_ns:
            self._start_ns = t_ns
        if t_ns > self._end_ns:
            self._end_ns = t_ns
        self._chunk.append(record)
        self._size += len(record)

    def finish(self) -> None:
        """Write the last chunk and the summary."""
        self._end_chunk()
        self._write(_record(DataEnd(0)))
        self._write_summary()

    def _put(self, data: bytes) -> None:
        self._chunk.append(data)
        self._size += len(data)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._offset += len(data)

    def _end_chunk(self) -> None:
        if not self._chunk:
            return
        raw = b"".join(self._chunk)
        packed = self._zstd.compress(raw)
        start_ns = self._start_ns if self._entries else 0
        length = _CHUNK.size - 9 + 4 + 8 + len(packed)
        head = _CHUNK.pack(Opcode.CHUNK, length, start_ns, self._end_ns, len(raw), zlib.crc32(raw), 4)
        chunk_at = self._offset
        self._write(head + b"zstd" + struct.pack("<Q", len(packed)) + packed)
        index_at, offsets = self._offset, {}
        for channel, entries in self._entries.items():
            offsets[channel] = self._offset
            self._write(_message_index(channel, entries))
            self.counts[channel] = self.counts.get(channel, 0) + len(entries) // 2
        self._chunks.append(
            ChunkIndex(
                message_start_time=start_ns,
                message_end_time=self._end_ns,
                chunk_start_offset=chunk_at,
                chunk_length=index_at - chunk_at,
                message_index_offsets=offsets,
                message_index_length=self._offset - index_at,
                compression="zstd",
                compressed_size=len(packed),
                uncompressed_size=len(raw),
            )
        )
        if self._entries:
            self.start_ns, self.end_ns = min(self.start_ns, start_ns), max(self.end_ns, self._end_ns)
        self._chunk, self._entries, self._size = [], {}, 0
        self._start_ns, self._end_ns = 2**64 - 1, 0

    def _write_summary(self) -> None:
        start, groups = self._offset, self._summary_groups()
        offsets = []
        for opcode, data in groups:
            offsets.append(SummaryOffset(group_opcode=opcode, group_start=self._offset, group_length=len(data)))
            self._write(data)
        summary = b"".join(data for _, data in groups) + b"".join(map(_record, offsets))
        offsets_at = self._offset
        self._write(b"".join(map(_record, offsets)))
        crc = zlib.crc32(summary + _FOOTER.pack(Opcode.FOOTER, 20, start, offsets_at))
        footer = Footer(summary_start=start, summary_offset_start=offsets_at, summary_crc=crc)
        self._write(_record(footer) + MAGIC)

    def _summary_groups(self) -> list[tuple[int, bytes]]:
        schemas = b"".join(as_bytes(schema_record(number, topic)) for number, topic in self._schemas.items())
        channels = b"".join(
            as_bytes(channel_record(number, number if number in self._schemas else 0, topic))
            for number, topic in self._topics.items()
        )
        groups = [
            (Opcode.SCHEMA, schemas),
            (Opcode.CHANNEL, channels),
            (Opcode.STATISTICS, _record(self._statistics())),
        ]
        groups.append((Opcode.CHUNK_INDEX, b"".join(map(_record, self._chunks))))
        return [(int(opcode), data) for opcode, data in groups if data]

    def _statistics(self) -> Statistics:
        return Statistics(
            attachment_count=0,
            channel_count=len(self._topics),
            channel_message_counts=self.counts,
            chunk_count=len(self._chunks),
            message_count=sum(self.counts.values()),
            message_start_time=self.start_ns if self.counts else 0,
            message_end_time=self.end_ns,
            metadata_count=0,
            schema_count=len(self._schemas),
        )


def _message_index(channel: int, entries: list[int]) -> bytes:
    """Where each message of a channel stands in the chunk before; packed in one step, there is an entry a message."""
    size = 8 * len(entries)
    return struct.pack(f"<BQHI{len(entries)}Q", Opcode.MESSAGE_INDEX, 6 + size, channel, size, *entries)


def _record(record: Any) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())
