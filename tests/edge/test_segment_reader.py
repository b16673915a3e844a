"""A segment read topic by topic holds what it holds message by message."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.writer import CompressionType, Writer

from edge.chunks import MAGIC
from edge.errors import SegmentError
from edge.segment import Message, Topic, build, read_messages
from edge.segment_reader import TopicMessages, read_topics
from tests.edge.samples import message, some_messages

messages = st.lists(message, min_size=1, max_size=30)


def one_by_one(body: bytes) -> dict[Topic, list[tuple[int, int, bytes]]]:
    found: dict[Topic, list[tuple[int, int, bytes]]] = {}
    for one in read_messages(io.BytesIO(body)):
        found.setdefault(one.topic, []).append((one.t_ns, one.sequence, one.data))
    return found


def at_once(body: bytes) -> dict[Topic, list[tuple[int, int, bytes]]]:
    return {topic: told(found) for topic, found in read_topics(io.BytesIO(body)).items()}


def told(found: TopicMessages) -> list[tuple[int, int, bytes]]:
    return [(one.t_ns, one.sequence, one.data) for one in found.messages()]


def body_of(what: list[Message]) -> bytes:
    built = build(what)
    assert built
    return built[1]


def foreign(*, chunked: bool = True) -> bytes:
    """Two channels of one topic, one of another, and a topic that comes in the middle of a chunk."""
    file = io.BytesIO()
    writer = Writer(file, compression=CompressionType.NONE, use_chunking=chunked, enable_crcs=False)
    writer.start()
    one, two, other = (writer.register_channel(name, "json", 0) for name in ("/a", "/a", "/b"))
    for number, channel in enumerate((two, one, other, two, one)):
        writer.add_message(channel, log_time=number, publish_time=number, data=b"%d" % number, sequence=9 - number)
    late = writer.register_channel("/c", "json", 0)
    writer.add_message(late, log_time=7, publish_time=7, data=b"")
    writer.add_message(one, log_time=8, publish_time=8, data=b"8")
    writer.finish()
    return file.getvalue()


@given(messages)
def test_columns_hold_each_message_in_file_order(what: list[Message]) -> None:
    body = body_of(what)
    assert at_once(body) == one_by_one(body)


@pytest.mark.parametrize("chunked", [True, False])
def test_channels_of_one_topic_keep_the_order_of_the_file(chunked: bool) -> None:
    body = foreign(chunked=chunked)
    assert [data for _, _, data in at_once(body)[Topic("/a", "json")]] == [b"0", b"1", b"3", b"4", b"8"]
    assert at_once(body) == one_by_one(body)


def test_a_channel_that_is_described_anew_is_another_topic_from_there_on() -> None:
    body, late = foreign(), struct.pack("<BQ", 5, 22)  # of the one message without data, on channel 4
    described = body.index(b"/c")
    body = body[: described - 8] + struct.pack("<HHI", 1, 0, 2) + body[described:]
    body = body.replace(late + b"\x04", late + b"\x01")
    assert [data for _, _, data in at_once(body)[Topic("/c", "json")]] == [b"", b"8"]
    assert at_once(body) == one_by_one(body)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_file_is_refused_by_both_or_read_alike(at: int, byte: int) -> None:
    body = bytearray(foreign())
    body[at % len(body)] = byte
    try:
        expected = one_by_one(bytes(body))
    except SegmentError:
        with pytest.raises(SegmentError):
            at_once(bytes(body))
    else:
        assert at_once(bytes(body)) == expected


@pytest.mark.parametrize("size", [0, 21, 30, 2**62])
def test_a_record_of_another_size_than_its_chunk_has_room_for_is_told(size: int) -> None:
    body = foreign()
    head = b"\x05" + struct.pack("<Q", 22 + 1)
    with pytest.raises(SegmentError):
        at_once(body.replace(head, b"\x05" + struct.pack("<Q", size)))


def test_only_topics_that_are_wanted_are_taken_and_all_are_counted() -> None:
    body = foreign()
    found = read_topics(io.BytesIO(body), wanted={"/b"})
    assert {topic: told(one) for topic, one in found.items()} == {Topic("/b", "json"): [(2, 7, b"2")]}
    fewer = body.replace(struct.pack("<BQQ", 0x0B, 46 + 40, 7), struct.pack("<BQQ", 0x0B, 46 + 40, 6))
    assert fewer != body
    with pytest.raises(SegmentError, match="state 6 messages, it holds 7"):
        read_topics(io.BytesIO(fewer), wanted={"/b"})


def test_a_file_that_is_none_is_refused() -> None:
    for body in (b"", MAGIC, body_of(some_messages(count=3, size=20))[:-1]):
        with pytest.raises(SegmentError):
            at_once(body)


def test_real_rosbag2_files_are_read_alike(real_data: Path) -> None:
    for path in sorted((real_data / "rosbag2").glob("*.mcap")):
        assert at_once(path.read_bytes()) == one_by_one(path.read_bytes())
