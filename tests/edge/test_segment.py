"""What goes into a segment comes out of it; what is torn or damaged says so."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from edge import segment
from edge.chunks import CHUNK_BYTES, MAGIC
from edge.errors import SegmentError
from edge.segment import Message
from tests.edge.samples import NAME, TOPICS, journal_of, message, some_messages

MESSAGES = [Message(TOPICS[n % 3], 1000 + n, n, b"%03d" % n * 5, 2000 + n) for n in range(12)]
messages = st.lists(message, min_size=1, max_size=30)


def _body(what: list[Message]) -> bytes:
    built = segment.build(what)
    assert built is not None
    return built[1]


def _read(body: bytes) -> list[Message]:
    return list(segment.read_messages(io.BytesIO(body)))


@given(messages)
def test_what_is_built_is_read_back(what: list[Message]) -> None:
    built = segment.build(what)
    assert built is not None
    facts, body = built
    assert _read(body) == what
    assert (facts.sha256, facts.bytes) == (hashlib.sha256(body).hexdigest(), len(body))
    assert (facts.start_ns, facts.end_ns) == (min(m.t_ns for m in what), max(m.t_ns for m in what) + 1)
    names = [m.topic.name for m in what]
    assert facts.counts == {name: names.count(name) for name in names}
    assert segment.looks_like_mcap(body)


def test_a_message_larger_than_a_chunk_is_read_back() -> None:
    large = [Message(TOPICS[0], n, n, bytes([n]) * (CHUNK_BYTES * 2 + 1), n) for n in range(3)]
    assert _read(_body(large)) == large


def test_the_same_messages_give_the_same_bytes() -> None:
    assert _body(MESSAGES) == _body(list(MESSAGES))


def test_a_sequence_beyond_32_bits_wraps() -> None:
    assert _read(_body([Message(TOPICS[0], 1, 2**32 + 5, b"")]))[0].sequence == 5


def test_no_message_makes_no_segment() -> None:
    assert segment.build([]) is None


def test_a_message_without_a_publish_time_has_its_capture_time_there() -> None:
    assert _read(_body([MESSAGES[0]._replace(publish_ns=None)])) == [MESSAGES[0]._replace(publish_ns=1000)]


def test_a_sealed_journal_has_the_bytes_and_the_facts_of_a_segment_built_of_its_messages() -> None:
    large = [one._replace(data=one.data * 200) for one in some_messages(count=60, size=200)]  # several chunks
    assert sum(len(one.data) for one in large) > 2 * CHUNK_BYTES
    sealed = segment.seal_journal(journal_of(large).data, name=NAME)
    assert (sealed.facts, sealed.body) == segment.build(large)
    assert _read(sealed.body) == large


def test_the_facts_of_a_file_are_those_it_was_built_with(tmp_path: Path) -> None:
    built = segment.build(MESSAGES)
    assert built is not None
    facts, body = built
    (tmp_path / "a.mcap").write_bytes(body)
    assert segment.facts_of_file(tmp_path / "a.mcap") == facts
    assert segment.digest_file(tmp_path / "a.mcap") == (hashlib.sha256(body).hexdigest(), len(body))


@pytest.mark.parametrize("spoil", [lambda body: body[:-9], lambda body: b"", lambda _: _foreign(count=0)])
def test_a_file_that_is_damaged_or_empty_has_no_facts(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a.mcap").write_bytes(spoil(_body(MESSAGES)))
    with pytest.raises(SegmentError):
        segment.facts_of_file(tmp_path / "a.mcap")


def test_any_mcap_reader_reads_a_segment() -> None:
    found = list(make_reader(io.BytesIO(_body(MESSAGES))).iter_messages(log_time_order=False))
    assert [(c.topic, m.log_time, m.data) for _, c, m in found] == [(m.topic.name, m.t_ns, m.data) for m in MESSAGES]


def test_a_segment_torn_anywhere_is_a_segment_error() -> None:
    body = _body(MESSAGES)
    for end in range(len(body)):
        with pytest.raises(SegmentError):
            _read(body[:end])


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_bit_flipped_anywhere_in_a_segment_is_told_or_harms_nothing(bit: int) -> None:
    body = _body(MESSAGES)
    for at in range(len(body)):
        damaged = bytearray(body)
        damaged[at] ^= 1 << bit
        try:
            assert _read(bytes(damaged)) == MESSAGES, f"bit {bit} of byte {at} changed what was read"
        except SegmentError:
            continue


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_rubbish_is_a_segment_error(rubbish: bytes) -> None:
    for body in (rubbish, MAGIC + rubbish, MAGIC + rubbish + MAGIC):
        with pytest.raises(SegmentError):
            _read(body)


def _foreign(compression: CompressionType = CompressionType.ZSTD, *, count: int = 200) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, compression=compression)
    writer.start()
    channel = writer.register_channel("/a", "json", 0)
    for n in range(count):
        writer.add_message(channel, log_time=n, publish_time=n, data=b'{"n":1}', sequence=n)
    writer.finish()
    return file.getvalue()


@pytest.mark.parametrize("compression", list(CompressionType))
def test_other_recorders_compressions_are_read(compression: CompressionType) -> None:
    assert [one.t_ns for one in _read(_foreign(compression))] == list(range(200))


def test_damage_inside_an_lz4_chunk_is_a_segment_error() -> None:
    body = bytearray(_foreign(CompressionType.LZ4))
    at = body.index(struct.pack("<I", 0x184D2204))  # the magic of an LZ4 frame
    for offset in range(60):
        damaged = body.copy()
        damaged[at + offset] ^= 0xFF
        with pytest.raises(SegmentError):
            _read(bytes(damaged))
    assert lz4.frame  # the reader needs it at run time


def test_a_record_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    with pytest.raises(SegmentError):
        _read(MAGIC + b"\x06" + struct.pack("<Q", 2**40) + b"x" * 100)


@pytest.mark.parametrize("size", [0, 21, 22 + 7 + 1, 2**63])
def test_a_record_of_another_size_than_its_chunk_has_room_for_is_told(size: int) -> None:
    """In a file without checksums; 22 bytes of a message's record stand before its data, of 7 bytes."""
    file = io.BytesIO()
    writer = Writer(file, compression=CompressionType.NONE, enable_crcs=False, enable_data_crcs=False)
    writer.start()
    writer.add_message(writer.register_channel("/a", "json", 0), log_time=1, publish_time=1, data=b'{"n":1}')
    writer.finish()
    body = file.getvalue()
    head = b"\x05" + struct.pack("<Q", 22 + 7)
    assert body.count(head) == 1

    with pytest.raises(SegmentError):
        _read(body.replace(head, b"\x05" + struct.pack("<Q", size)))


def test_a_checksum_over_all_data_is_compared_unless_a_digest_was() -> None:
    file = io.BytesIO()
    writer = Writer(file, compression=CompressionType.NONE, enable_crcs=False, enable_data_crcs=True)
    writer.start()
    writer.add_message(writer.register_channel("/a", "json", 0), log_time=1, publish_time=1, data=b'{"n":1}')
    writer.finish()
    changed = file.getvalue().replace(b'{"n":1}', b'{"n":2}')

    with pytest.raises(SegmentError, match="CRC"):
        _read(changed)
    assert [one.data for one in segment.read_messages(io.BytesIO(changed), check_crcs=False)] == [b'{"n":2}']


def test_a_segment_that_lost_a_whole_chunk_is_told() -> None:
    body = _body(MESSAGES)
    at = body.index(struct.pack("<I", 4) + b"zstd") - 40 + 3  # opcode 1, length 8, times 16, size 8, CRC 4
    assert body[at] == 6
    unknown = body[:at] + b"\x86" + body[at + 1 :]
    with pytest.raises(SegmentError, match="state 12 messages, it holds 0"):
        _read(unknown)


def test_real_rosbag2_files_hold_what_their_summaries_state(real_data: Path) -> None:
    for path in sorted((real_data / "rosbag2").glob("*.mcap")):
        with path.open("rb") as file:
            summary = make_reader(file).get_summary()
        assert summary is not None
        assert summary.statistics is not None
        stated = {summary.channels[n].topic: count for n, count in summary.statistics.channel_message_counts.items()}
        with path.open("rb") as file:
            found = [one.topic.name for one in segment.read_messages(file)]
        assert {name: found.count(name) for name in found} == stated
