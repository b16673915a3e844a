"""A finished file is what the MCAP specification asks for, and the mcap library finds everything in it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import SeekingReader, make_reader

from edge import chunks
from edge.chunks import CHUNK_BYTES, LIBRARY, ChunkedWriter
from edge.records import Topic, message_record
from edge.segment import Message, build
from tests.edge.mcap_doctor import Doctor
from tests.edge.samples import START_NS, TOPICS, message, some_messages

MESSAGES = some_messages(count=300, size=12_000)
FIRST_NS, LAST_NS = MESSAGES[0].t_ns, MESSAGES[-1].t_ns


@pytest.fixture(scope="module")
def body() -> bytes:
    return _body(MESSAGES)


@pytest.fixture
def reader(body: bytes) -> SeekingReader:
    made = make_reader(io.BytesIO(body), validate_crcs=True)
    assert isinstance(made, SeekingReader)
    return made


def _body(messages: list[Message]) -> bytes:
    built = build(messages)
    assert built is not None
    return built[1]


def _times(messages: Iterator[tuple[object, object, object]]) -> list[int]:
    return [message.log_time for _, _, message in messages]  # type: ignore[attr-defined]


def test_every_offset_count_time_and_crc_is_right(body: bytes) -> None:
    doctor = Doctor()
    doctor.examine(body)
    assert len(doctor.chunks) > 3
    assert all(one.uncompressed_size < CHUNK_BYTES + 20_000 for one in doctor.chunks)


@given(st.lists(message, min_size=1, max_size=30), st.integers(1, 5000))
@settings(deadline=None)
def test_they_are_right_wherever_a_chunk_ends(what: list[Message], chunk_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", chunk_bytes)
        body = _body(what)
    doctor = Doctor()
    doctor.examine(body)
    assert len(doctor.times) == len(what)
    found = make_reader(io.BytesIO(body), validate_crcs=True).iter_messages(log_time_order=False)
    assert [(one.log_time, one.publish_time, one.sequence, one.data) for _, _, one in found] == [
        (one.t_ns, one.publish_ns, one.sequence, one.data) for one in what
    ]


def test_a_topic_that_is_known_before_a_chunk_ends_and_used_after_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 100)
    file = io.BytesIO()
    writer = ChunkedWriter(file)
    writer.add_topic(1, TOPICS[1])
    writer.add_topic(2, TOPICS[2])  # never used
    writer.add_topic(3, TOPICS[0])
    for n in range(4):
        writer.add(message_record(3, n, START_NS + n, START_NS, b"x" * 60), 3, START_NS + n)
    writer.finish()
    doctor = Doctor()
    doctor.examine(file.getvalue())
    assert len(doctor.chunks) == 3
    assert doctor.chunks[0].message_index_offsets == {}


def test_a_topic_that_mcap_cannot_hold_is_refused_and_costs_nothing_else() -> None:
    file = io.BytesIO()
    writer = ChunkedWriter(file)
    writer.add_topic(1, TOPICS[0])
    with pytest.raises(UnicodeEncodeError):
        writer.add_topic(2, Topic("/\ud800", "json"))
    writer.add(message_record(1, 0, 5, 5, b"x"), 1, 5)
    writer.finish()
    Doctor().examine(file.getvalue())


def test_the_library_reads_the_same_summary(reader: SeekingReader) -> None:
    summary = reader.get_summary()
    assert summary is not None
    assert summary.statistics is not None
    counts = summary.statistics.channel_message_counts
    assert sum(counts.values()) == summary.statistics.message_count == len(MESSAGES)
    topics = [one.topic for one in MESSAGES]
    described = {
        (counts[one.id], one.topic, one.message_encoding, *_schema(summary.schemas.get(one.schema_id)))
        for one in summary.channels.values()
    }
    assert described == {
        (topics.count(one), one.name, one.encoding, one.schema_name, one.schema_encoding, one.schema_data)
        for one in TOPICS
    }
    assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (FIRST_NS, LAST_NS)
    assert len(summary.chunk_indexes) == summary.statistics.chunk_count
    assert reader.get_header().library == LIBRARY


def _schema(schema: object) -> tuple[str, str, bytes]:
    return ("", "", b"") if schema is None else (schema.name, schema.encoding, schema.data)  # type: ignore[attr-defined]


@pytest.mark.parametrize("names", [["/a"], ["/b"], ["/ü", "/b"], ["/none"]])
def test_the_library_finds_the_messages_of_some_topics(reader: SeekingReader, names: list[str]) -> None:
    found = _times(reader.iter_messages(topics=names))
    assert found == [one.t_ns for one in MESSAGES if one.topic.name in names]


@pytest.mark.parametrize(
    ("start_ns", "end_ns"),
    [
        (FIRST_NS, LAST_NS + 1),
        (MESSAGES[50].t_ns, MESSAGES[250].t_ns),
        (MESSAGES[7].t_ns, MESSAGES[7].t_ns + 1),
        (LAST_NS, LAST_NS),
        (0, FIRST_NS),
    ],
)
def test_the_library_finds_the_messages_of_a_time_range(reader: SeekingReader, start_ns: int, end_ns: int) -> None:
    found = _times(reader.iter_messages(starting_at=start_ns, ending_before=end_ns))
    assert found == [one.t_ns for one in MESSAGES if start_ns <= one.t_ns < end_ns]


def test_the_library_puts_messages_in_the_order_of_their_times(reader: SeekingReader) -> None:
    shuffled = [MESSAGES[(n * 7) % len(MESSAGES)] for n in range(len(MESSAGES))]
    one = make_reader(io.BytesIO(_body(shuffled)), validate_crcs=True)
    assert _times(one.iter_messages()) == [one.t_ns for one in MESSAGES]
    assert _times(one.iter_messages(log_time_order=False)) == [one.t_ns for one in shuffled]
    assert _times(one.iter_messages(reverse=True)) == [one.t_ns for one in reversed(MESSAGES)]


def test_a_file_without_a_message_is_well_formed() -> None:
    file = io.BytesIO()
    ChunkedWriter(file).finish()
    summary = make_reader(io.BytesIO(file.getvalue()), validate_crcs=True).get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert (summary.statistics.message_count, summary.statistics.message_end_time) == (0, 0)
