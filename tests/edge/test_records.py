"""Records are packed as the `mcap` library packs them, and say what they are."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.opcode import Opcode
from mcap.records import Channel, McapRecord, Schema
from mcap.records import Message as McapMessage

from edge import records
from edge.records import Topic
from tests.edge.samples import TIMES_NS, TOPICS

channels = st.integers(0, 2**16 - 1)
sequences = st.integers(0, 2**32 - 1)


def _packed(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())


@given(channels, sequences, TIMES_NS, TIMES_NS, st.binary(max_size=300))
def test_a_message_is_packed_as_the_mcap_library_does_it(
    channel: int, sequence: int, t_ns: int, publish_ns: int, data: bytes
) -> None:
    record = records.message_record(channel, sequence, t_ns, publish_ns, data)
    assert record == _packed(
        McapMessage(channel_id=channel, log_time=t_ns, data=data, publish_time=publish_ns, sequence=sequence)
    )
    assert records.is_message(record)
    assert records.message_head(record) == (channel, sequence, t_ns, publish_ns)
    assert records.message_data(record) == data


def test_a_sequence_beyond_32_bits_wraps() -> None:
    assert records.message_head(records.message_record(1, 2**32 + 5, 1, 1, b""))[1] == 5


RECORD = records.message_record(1, 2, 3, 4, b"data")


@pytest.mark.parametrize(
    "wrong",
    [b"", RECORD[:-1], RECORD + b"x", RECORD[:20], bytes([Opcode.CHANNEL]) + RECORD[1:], RECORD + RECORD, bytes(31)],
)
def test_what_is_not_just_one_message_is_none(wrong: bytes) -> None:
    assert records.is_message(RECORD)
    assert not records.is_message(wrong)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_described_by_its_schema_and_its_channel(topic: Topic) -> None:
    schema, channel = records.schema_record(3, topic), records.channel_record(4, 3, topic)
    data = records.as_bytes(schema, channel)
    assert data == _packed(schema) + _packed(channel)
    found = (
        Schema.read(_content(data, Opcode.SCHEMA)),
        Channel.read(_content(data[len(_packed(schema)) :], Opcode.CHANNEL)),
    )
    assert (found[0].id, found[0].name, found[0].encoding, found[0].data) == (
        3,
        topic.schema_name,
        topic.schema_encoding,
        topic.schema_data,
    )
    assert (found[1].id, found[1].schema_id, found[1].topic, found[1].message_encoding) == (
        4,
        3,
        topic.name,
        topic.encoding,
    )


def _content(data: bytes, opcode: Opcode) -> ReadDataStream:
    assert data[0] == opcode
    return ReadDataStream(io.BytesIO(data[9 : 9 + int.from_bytes(data[1:9], "little")]))
