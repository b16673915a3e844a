"""What is indexed next: everything that follows without a hole, gaps being none. Pure; test_gaps.py does it on S3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from edge.wire import SegmentId
from ray_jobs.backlog import Covers, Reached, plan_backlog, work_off

ROBOT, RECORDING = "r", "01JAAAAAAAAAAAAAAAAAAAAAAA"
END = 14  # seqs of the streams that Hypothesis makes up


def names(*streams: str) -> list[tuple[str, str, str]]:
    return [(ROBOT, RECORDING, stream) for stream in streams]


@dataclass
class Bucket:
    """Objects of one recording: (stream, seq) → the last seq that each stands for. Remembers what was looked at."""

    last: dict[tuple[str, int], int]
    looked: list[SegmentId]

    def found(self, positions: Mapping[str, int]) -> dict[tuple[str, str, str], list[int]]:
        return {
            name: sorted(
                seq for stream, seq in self.last if stream == name[2] and seq > positions.get("/".join(name), -1)
            )
            for name in names(*sorted({stream for stream, _ in self.last}))
        }

    def look(self, asked: Sequence[SegmentId]) -> Covers:
        self.looked += asked
        return self.take(asked)

    def take(self, new: Sequence[SegmentId]) -> Covers:
        return {one: self.last[one.stream, one.seq] for one in new}

    def index(self, before: Reached, *, limit: int = 1000) -> tuple[list[tuple[str, int]], Reached]:
        """One whole run, piece by piece: what it took, in order, and how far it came."""
        taken: list[tuple[str, int]] = []
        more = True
        while more:
            backlog = work_off(self.found(before.positions), before, limit=limit, look=self.look, take=self.take)
            taken += [(one.stream, one.seq) for one in backlog.ready]
            before, more = backlog.reached, backlog.more
        return taken, before


def bucket(*segments: int, gaps: Mapping[int, int] | None = None) -> Bucket:
    """One stream `s`. `gaps`: first seq → last seq."""
    return Bucket({("s", seq): last for seq, last in [*((n, n) for n in segments), *(gaps or {}).items()]}, [])


def at(position: int, gap: int | None = None) -> Reached:
    stream = f"{ROBOT}/{RECORDING}/s"
    return Reached({stream: position}, {} if gap is None else {stream: gap})


def test_a_limit_cuts_the_backlog_and_says_so() -> None:
    streams = {name: [0, 1, 3] for name in names("a", "b")}
    backlog = plan_backlog(streams, Reached(), {}, limit=3)
    assert [(one.stream, one.seq) for one in backlog.ready] == [("a", 0), ("a", 1), ("b", 0)]
    assert (backlog.more, list(backlog.reached.positions.values())) == (True, [1, 0])
    later = {name: [3] if name[2] == "a" else [1, 3] for name in streams}
    rest = plan_backlog(later, backlog.reached, {}, limit=3)
    assert ([(one.stream, one.seq) for one in rest.ready], rest.waiting, rest.more) == ([("b", 1)], 2, False)


def test_a_stream_goes_on_behind_a_gap_and_what_is_stored_inside_is_taken() -> None:
    taken, reached = bucket(0, 4, 7, 8, gaps={2: 6, 1: 1}).index(Reached())
    assert taken == [("s", seq) for seq in (0, 1, 2, 4, 7, 8)]
    assert reached == at(8)


def test_a_gap_whose_rest_comes_later_is_remembered_as_far_as_it_reaches() -> None:
    one = bucket(0, gaps={1: 5})
    _, reached = one.index(Reached())
    assert reached == at(1, gap=5)
    assert bucket(7).index(reached) == ([], reached)
    assert bucket(6, 7).index(reached) == ([("s", 6), ("s", 7)], at(7))
    assert one.looked == []


def test_a_segment_that_comes_inside_a_gap_later_is_taken_until_one_behind_it_was() -> None:
    _, reached = bucket(gaps={0: 9}).index(Reached())
    taken, reached = bucket(4).index(reached)
    assert (taken, reached) == ([("s", 4)], at(4, gap=9))
    taken, reached = bucket(2, 6, gaps={0: 9}).index(reached)
    assert (taken, reached) == ([("s", 6)], at(6, gap=9))


def test_a_gap_that_is_known_only_once_it_was_examined_opens_its_hole_in_the_same_run() -> None:
    one = bucket(1, 2, 6, 9, gaps={0: 5})
    taken, reached = one.index(Reached())
    assert (taken, reached) == ([("s", seq) for seq in (0, 1, 2, 6)], at(6))
    assert [asked.seq for asked in one.looked] == [2, 6]


def test_only_the_object_before_a_hole_is_looked_at_and_only_when_it_is_new() -> None:
    one = bucket(0, 1, 2, 5, 6)
    taken, reached = one.index(Reached())
    assert (taken, reached, [asked.seq for asked in one.looked]) == ([("s", 0), ("s", 1), ("s", 2)], at(2), [2])
    assert one.index(reached) == ([], reached)
    assert len(one.looked) == 1


def test_a_limit_does_not_part_a_gap_from_what_is_stored_inside_it() -> None:
    one = bucket(1, 2, 7, 9, gaps={0: 8})
    backlog = work_off(one.found({}), Reached(), limit=1, look=one.look, take=one.take)
    assert ([segment.seq for segment in backlog.ready], backlog.reached, backlog.more) == ([0, 1, 2, 7], at(7, 8), True)


objects = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.integers(0, END)),
    st.tuples(st.integers(0, 3) | st.just(0), st.integers(0, 4)),  # arrives in this run; a gap of so many seqs more
)


@given(objects, st.integers(1, 6))
def test_every_segment_that_arrives_in_time_is_taken_once_in_order_and_no_hole_is_passed(
    arriving: dict[tuple[str, int], tuple[int, int]], limit: int
) -> None:
    reached, expected = Reached(), {"a": Naive(), "b": Naive()}
    for run in range(4):
        here = Bucket({(s, n): n + more for (s, n), (when, more) in arriving.items() if when <= run}, [])
        taken, reached = here.index(reached, limit=limit)
        for stream, naive in expected.items():
            new = naive.index({seq: last for (s, seq), last in here.last.items() if s == stream})
            assert [seq for s, seq in taken if s == stream] == new
            assert reached.positions.get(f"{ROBOT}/{RECORDING}/{stream}", -1) == naive.position
        assert_looked_only_before_holes(here)


class Naive:
    """The rule word by word, with sets: a seq is taken when each one before it was taken or lies in a gap taken."""

    def __init__(self) -> None:
        self.position, self._covered = -1, set[int]()

    def index(self, last: Mapping[int, int]) -> list[int]:
        taken = []
        for seq in sorted(last):
            if seq > self.position and all(before in self._covered for before in range(seq)):
                taken.append(seq)
                self._covered.update(range(seq, last[seq] + 1))
                self.position = seq
        return taken


def assert_looked_only_before_holes(here: Bucket) -> None:
    for one in here.looked:
        stored = {seq for stream, seq in here.last if stream == one.stream}
        assert one.seq + 1 not in stored
        assert max(stored) > one.seq
