"""A journal gives back what was put into it; whatever damages it costs only the messages that were hit, and is told."""

from __future__ import annotations

import bisect
import errno
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.disk import DISK
from edge.journal import Damage, Described, JournalWriter, mark_of, read_journal
from edge.records import message_data, message_head
from edge.segment import Message, Sealed, build, read_messages, seal_journal, sha256_of
from tests.edge.samples import NAME, TOPICS, SomeJournal, journal_of, message, some_messages
from tests.faults.campaign import is_soak, trials
from tests.faults.failing_disk import FailingDisk

MESSAGES = some_messages(count=24, size=2700)  # 64 kB
SOAK_TAKES_LONG = pytest.mark.timeout(0 if is_soak() else 300)
CUT_OF = 5  # cuts, away from where frames end
FLIPPED_OF = 3  # reading at one byte of so many, in a soak at every one; no frame is so short that none is tried
SEALED_OF = 11  # sealing takes longer than reading: it is tried at one byte of so many, in a soak at every one


@pytest.fixture(scope="module")
def journal() -> SomeJournal:
    made = journal_of(MESSAGES)
    assert len(made.data) > 60_000
    assert len(made.described) == len(TOPICS)
    return made


def _read(data: bytes, *, name: str = NAME) -> tuple[list[bytes], list[Damage]]:
    """The messages and the damages that reading finds."""
    found = list(read_journal(data, name=name))
    return [one for one in found if isinstance(one, bytes)], [one for one in found if isinstance(one, Damage)]


def _sealed(sealed: Sealed) -> list[Message]:
    """The messages of a sealed journal, which must be as its facts say."""
    if sealed.facts is None:
        return []
    assert (sealed.facts.sha256, sealed.facts.bytes) == (sha256_of(sealed.body), len(sealed.body))
    return list(read_messages(io.BytesIO(sealed.body)))


def _built(messages: Sequence[Message]) -> bytes:
    built = build(messages)
    return b"" if built is None else built[1]


@given(st.lists(message, max_size=20))
def test_what_is_added_is_read_back_in_order_and_seals_as_if_it_had_never_been_a_journal(what: list[Message]) -> None:
    journal = journal_of(what)
    assert _read(journal.data) == (journal.records, [])
    described = [one for one in read_journal(journal.data, name=NAME) if isinstance(one, Described)]
    assert [(one.channel, one.topic) for one in described] == list(enumerate(dict.fromkeys(m.topic for m in what), 1))
    sealed = seal_journal(journal.data, name=NAME)
    assert (sealed.body, sealed.damages) == (_built(what), ())
    assert (sealed.facts is None) == (not what)


def test_a_topic_comes_before_its_first_message(journal: SomeJournal) -> None:
    known: set[int] = set()
    for one in read_journal(journal.data, name=NAME):
        if isinstance(one, Described):
            known.add(one.channel)
        elif isinstance(one, bytes):
            assert message_head(one)[0] in known
    assert len(known) == len(TOPICS)


def test_a_journal_cut_short_at_any_byte_gives_the_whole_messages_before_it(journal: SomeJournal) -> None:
    ends = [frame.stop for frame in journal.frames]
    borders = {0, *ends, *(copy.stop for copies in journal.described.values() for copy in copies)}
    near = {end for border in borders for end in range(border - 2, border + 3)}
    for end in range(len(journal.data) + 1):
        if end % CUT_OF and end not in near and not is_soak():
            continue
        records, damages = _read(journal.data[:end])
        assert records == journal.records[: bisect.bisect_right(ends, end)], f"cut short at byte {end}"
        assert len(damages) == (end not in borders), f"cut short at byte {end}"
        assert all(one.is_torn and one.offset + one.size == end for one in damages), f"cut short at byte {end}"


def test_a_journal_cut_short_seals_the_messages_before_it(journal: SomeJournal) -> None:
    for number, frame in enumerate(journal.frames):
        for end in (frame.start, frame.start + 1, frame.stop - 1):
            sealed = seal_journal(journal.data[:end], name=NAME)
            assert _sealed(sealed) == MESSAGES[:number]
            assert all(one.is_torn for one in sealed.damages)


@SOAK_TAKES_LONG
def test_a_flipped_bit_at_any_byte_costs_at_most_the_message_it_is_in_and_is_told(journal: SomeJournal) -> None:
    for seed in trials(test=1, soak=8 * FLIPPED_OF):
        damaged = bytearray(journal.data)
        for at in range(seed % FLIPPED_OF, len(damaged), FLIPPED_OF):
            damaged[at] ^= 1 << (at + seed // FLIPPED_OF) % 8
            records, damages = _read(bytes(damaged))
            assert records == _without(journal.records, _hit(journal, at)), f"byte {at}"
            assert [one.is_torn for one in damages] == [False], f"byte {at}"
            assert at in range(damages[0].offset, damages[0].offset + damages[0].size), f"byte {at}"
            damaged[at] = journal.data[at]


@SOAK_TAKES_LONG
def test_a_journal_with_a_flipped_bit_seals_all_other_messages(journal: SomeJournal) -> None:
    for seed in trials(test=1, soak=SEALED_OF):
        damaged = bytearray(journal.data)
        for at in range(seed, len(damaged), SEALED_OF):
            damaged[at] ^= 1 << (at // SEALED_OF) % 8
            sealed = seal_journal(bytes(damaged), name=NAME)
            assert len(sealed.damages) == 1, f"byte {at}"
            assert _sealed(sealed) == _without(MESSAGES, _hit(journal, at)), f"byte {at}"
            damaged[at] = journal.data[at]


def _hit(journal: SomeJournal, at: int) -> int | None:
    """The number of the message whose frame an offset is in; None where a topic is described."""
    number = bisect.bisect_right([frame.start for frame in journal.frames], at) - 1
    return number if number >= 0 and at in journal.frames[number] else None


def _without(sequence: Sequence[Any], number: int | None) -> list[Any]:
    return [one for n, one in enumerate(sequence) if n != number]


@given(st.data(), st.lists(message, min_size=1, max_size=12), st.binary(min_size=1, max_size=1000))
def test_a_stretch_that_is_overwritten_costs_only_what_it_touches(
    data: st.DataObject, what: list[Message], rubbish: bytes
) -> None:
    journal = journal_of(what)
    rubbish = rubbish[: len(journal.data)]
    at = data.draw(st.integers(0, len(journal.data) - len(rubbish)))
    damaged = journal.data[:at] + rubbish + journal.data[at + len(rubbish) :]
    changed = [n for n in range(at, at + len(rubbish)) if damaged[n] != journal.data[n]]
    records, damages = _read(damaged)
    assert records == _outside(journal, changed[0], changed[-1] + 1) if changed else journal.records
    assert bool(damages) == bool(changed)


@given(st.data(), st.lists(message, min_size=1, max_size=12), st.binary(max_size=200))
def test_bytes_cut_out_or_put_in_cost_only_what_they_touch(
    data: st.DataObject, what: list[Message], rubbish: bytes
) -> None:
    journal = journal_of([one._replace(sequence=n) for n, one in enumerate(what)])  # no two the same
    start = data.draw(st.integers(0, len(journal.data)))
    stop = data.draw(st.integers(start, min(len(journal.data), start + 1000)))
    records, _ = _read(journal.data[:start] + rubbish + journal.data[stop:])
    places = [journal.records.index(one) for one in records]
    assert places == sorted(set(places)), "in order, none twice, none invented"
    same = 16  # so many bytes of a neighbour may happen to be what was cut out
    assert set(_outside(journal, max(0, start - same), stop + same)) <= set(records)


def _outside(journal: SomeJournal, start: int, stop: int) -> list[bytes]:
    """The messages that [start, stop) does not touch, and whose topics it leaves known."""

    def is_whole(frame: range) -> bool:
        return frame.stop <= start or frame.start >= stop

    known = {channel for channel, copies in journal.described.items() if any(map(is_whole, copies))}
    framed = zip(journal.records, journal.frames, strict=True)
    return [record for record, frame in framed if is_whole(frame) and message_head(record)[0] in known]


@pytest.mark.parametrize("tail", [b"\0" * 3, b"\0" * 500, b"\xff" * 500, b"\x05" * 500])
def test_rubbish_after_a_journal_costs_nothing_before_it_and_is_told(journal: SomeJournal, tail: bytes) -> None:
    records, damages = _read(journal.data + tail)
    assert records == journal.records
    assert damages == [Damage(len(journal.data), len(tail), is_torn=False)]


@given(st.binary(max_size=300))
def test_rubbish_gives_no_message(rubbish: bytes) -> None:
    for data in (rubbish, mark_of(NAME) + rubbish):
        records, damages = _read(data)
        assert records == []
        assert sum(one.size for one in damages) == len(data)
        assert seal_journal(data, name=NAME).facts is None


def test_frames_of_another_journal_inside_a_message_are_not_taken_for_frames() -> None:
    other = journal_of(some_messages(count=5, size=200, seed=2), name=NAME[:-1] + "8")
    plain = some_messages(count=3, size=100)
    carrier = Message(TOPICS[0], 5, 0, b"before" + other.data + b"after", 5)
    journal = journal_of([*plain[:2], carrier, plain[2]])
    assert _read(journal.data) == (journal.records, [])
    assert message_data(journal.records[2]) == carrier.data
    for at in (0, 5, 9, 13, 16, 40):  # every part of its head, and its payload
        damaged = bytearray(journal.data)
        damaged[journal.frames[2].start + at] ^= 1
        records, damages = _read(bytes(damaged))
        assert records == _without(journal.records, 2)
        assert damages == [Damage(journal.frames[2].start, len(journal.frames[2]), is_torn=False)]


def test_a_journal_is_read_under_its_own_name_alone(journal: SomeJournal) -> None:
    records, damages = _read(journal.data, name=NAME[:-1] + "8")
    assert records == []
    assert damages == [Damage(0, len(journal.data), is_torn=False)]


@pytest.mark.parametrize("copies", [[0], [1], [0, 1]])
def test_a_topic_is_known_as_long_as_one_of_its_two_copies_is_whole(journal: SomeJournal, copies: list[int]) -> None:
    damaged = bytearray(journal.data)
    for copy in copies:
        damaged[journal.described[2][copy].start + 20] ^= 1
    records, damages = _read(bytes(damaged))
    of_topic = [n for n, record in enumerate(journal.records) if message_head(record)[0] == 2]
    assert of_topic
    lost = of_topic if len(copies) == 2 else []
    assert records == [record for n, record in enumerate(journal.records) if n not in lost]
    assert len(damages) == len(copies) + len(lost)
    kept = b"".join(bytes(damaged[one.offset : one.offset + one.size]) for one in damages)
    assert all(journal.records[n] in kept for n in lost), "what is whole but of no known topic can be set aside"


def test_a_file_holds_what_was_added_and_its_size_is_known(tmp_path: Path) -> None:
    writer = JournalWriter(DISK, tmp_path / "j", name=NAME)
    writer.describe(1, TOPICS[1])
    journal = journal_of([Message(TOPICS[1], 1, 0, b"x", 1)])
    writer.add(journal.records[0])
    writer.flush()
    assert (tmp_path / "j").read_bytes() == journal.data, "it survives this process from here on"
    writer.sync()
    writer.close()
    assert writer.size == (tmp_path / "j").stat().st_size
    assert writer.described == 1


@pytest.mark.parametrize("kind", ["create", "sync_folder"])
def test_a_journal_that_cannot_be_made_durable_is_not_begun(tmp_path: Path, kind: str) -> None:
    disk = FailingDisk()
    disk.fail(kind, error=errno.EIO)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Input/output error"):
        JournalWriter(disk, tmp_path / "j", name=NAME)


def test_an_abandoned_journal_keeps_what_was_synced(tmp_path: Path) -> None:
    disk = FailingDisk()
    journal = journal_of(MESSAGES[:6])
    writer = JournalWriter(disk, tmp_path / "j", name=NAME)
    writer.describe(1, TOPICS[0])
    writer.add(journal.records[0])
    writer.sync()
    disk.fail("write", error=errno.ENOSPC, partial_bytes=30)
    writer.add(journal.records[1])
    with pytest.raises(OSError, match="No space left"):
        writer.sync()
    writer.abandon()
    writer.abandon()
    records, damages = _read((tmp_path / "j").read_bytes())
    assert records == journal.records[:1]
    assert [one.is_torn for one in damages] == [True]
