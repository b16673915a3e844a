"""What is indexed next: what follows without a hole, and what arrives in one. On S3: test_gaps.py, test_holes.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire import SegmentId
from ray_jobs.backlog import NOT_YET, Covers, Reached, plan_backlog, work_off
from ray_jobs.holes import arrived_in, is_in, without

ROBOT, RECORDING = "r", "01JAAAAAAAAAAAAAAAAAAAAAAA"
END = 14  # seqs of the streams that Hypothesis makes up


def names(*streams: str) -> list[tuple[str, str, str]]:
    return [(ROBOT, RECORDING, stream) for stream in streams]


@dataclass
class Bucket:
    """Objects of one recording: (stream, seq) → the last seq that each stands for, and since when it is there.

    Remembers what was looked at.
    """

    last: dict[tuple[str, int], int]
    since_ns: dict[tuple[str, int], int] = field(default_factory=dict)
    looked: list[SegmentId] = field(default_factory=list)
    taken: list[SegmentId] = field(default_factory=list)

    def found(self, before: Reached) -> dict[tuple[str, str, str], dict[int, int]]:
        return {name: self._new(name, before) for name in names(*sorted({stream for stream, _ in self.last}))}

    def _new(self, name: tuple[str, str, str], before: Reached) -> dict[int, int]:
        stream = "/".join(name)
        position, holes = before.positions.get(stream, -1), before.holes.get(stream, ())
        seqs = sorted(seq for stream, seq in self.last if stream == name[2])
        return {seq: self.since_ns.get((name[2], seq), 0) for seq in seqs if seq > position or is_in(holes, seq)}

    def look(self, asked: Sequence[SegmentId]) -> Covers:
        self.looked += asked
        return self._tell(asked)

    def take(self, new: Sequence[SegmentId]) -> Covers:
        self.taken += new
        return self._tell(new)

    def _tell(self, objects: Sequence[SegmentId]) -> Covers:
        return {one: self.last[one.stream, one.seq] for one in objects}

    def index(self, before: Reached, *, limit: int = 1000, give_up_ns: int = NOT_YET) -> Indexed:
        """One whole run, piece by piece."""
        done = Indexed([], [], before)
        more = True
        while more:
            found = self.found(done.reached)
            backlog = work_off(found, done.reached, limit=limit, look=self.look, take=self.take, give_up_ns=give_up_ns)
            assert sorted(backlog.ready, key=str) == sorted(self.taken, key=str), "each once, and none in vain"
            self.taken.clear()
            done.taken += [(one.stream, one.seq) for one in backlog.ready]
            done.missing += [(one.stream[2], one.first, one.last) for one in backlog.missing]
            done.reached, more = backlog.reached, backlog.more
        return done


@dataclass
class Indexed:
    """What a run took, in order, which holes it named, and how far it came."""

    taken: list[tuple[str, int]]
    missing: list[tuple[str, int, int]]
    reached: Reached


def bucket(*segments: int, gaps: Mapping[int, int] | None = None) -> Bucket:
    """One stream `s`. `gaps`: first seq → last seq."""
    return Bucket({("s", seq): last for seq, last in [*((n, n) for n in segments), *(gaps or {}).items()]})


def at(position: int, *holes: tuple[int, int]) -> Reached:
    stream = f"{ROBOT}/{RECORDING}/s"
    return Reached({stream: position}, {stream: holes} if holes else {})


def test_a_limit_cuts_the_backlog_and_says_so() -> None:
    streams = {name: dict.fromkeys([0, 1, 3], 0) for name in names("a", "b")}
    backlog = plan_backlog(streams, Reached(), {}, limit=3)
    assert [(one.stream, one.seq) for one in backlog.ready] == [("a", 0), ("a", 1), ("b", 0)]
    assert (backlog.more, list(backlog.reached.positions.values())) == (True, [1, 0])
    later = {name: dict.fromkeys([3] if name[2] == "a" else [1, 3], 0) for name in streams}
    rest = plan_backlog(later, backlog.reached, {}, limit=3)
    assert ([(one.stream, one.seq) for one in rest.ready], rest.waiting, rest.more) == ([("b", 1)], 2, False)


def test_a_stream_goes_on_behind_a_gap_and_what_is_stored_inside_is_taken() -> None:
    done = bucket(0, 4, 7, 8, gaps={2: 6, 1: 1}).index(Reached())
    assert done.taken == [("s", seq) for seq in (0, 1, 2, 4, 7, 8)]
    assert done.reached == at(8, (3, 3), (5, 6))


def test_a_gap_whose_rest_comes_later_is_remembered_as_far_as_it_reaches() -> None:
    one = bucket(0, gaps={1: 5})
    reached = one.index(Reached()).reached
    assert reached == at(5, (2, 5))
    waiting = bucket(7).index(reached)
    assert (waiting.taken, waiting.reached) == ([], reached)
    done = bucket(6, 7).index(reached)
    assert (done.taken, done.reached) == ([("s", 6), ("s", 7)], at(7, (2, 5)))
    assert one.looked == []


def test_a_segment_that_comes_inside_a_gap_later_is_taken_whatever_came_behind_it() -> None:
    reached = bucket(gaps={0: 9}).index(Reached()).reached
    done = bucket(4).index(reached)
    assert (done.taken, done.reached) == ([("s", 4)], at(9, (1, 3), (5, 9)))
    done = bucket(2, 4, 6, 10, gaps={0: 9}).index(done.reached)
    assert (done.taken, done.reached) == ([("s", 2), ("s", 6), ("s", 10)], at(10, (1, 1), (3, 3), (5, 5), (7, 9)))


def test_a_hole_is_named_once_something_has_waited_behind_it_for_long_enough() -> None:
    one = bucket(0, 3, 4, 7)
    one.since_ns = {("s", 3): 50, ("s", 4): 40, ("s", 7): 60}
    waiting = one.index(Reached(), give_up_ns=39)
    assert (waiting.taken, waiting.missing, waiting.reached) == ([("s", 0)], [], at(0))
    done = one.index(waiting.reached, give_up_ns=40)
    assert (done.taken, done.missing) == ([("s", 3), ("s", 4)], [("s", 1, 2)]), "7 has not waited so long"
    assert done.reached == at(4, (1, 2))
    late = bucket(0, 2, 3, 4, gaps={1: 1}).index(done.reached)
    assert (late.taken, late.missing, late.reached) == ([("s", 1), ("s", 2)], [], at(4))


def test_a_hole_at_the_beginning_of_a_stream_has_nothing_before_it() -> None:
    one = bucket(2)
    (missing,) = plan_backlog(one.found(Reached()), Reached(), {}, limit=9, give_up_ns=0).missing
    assert (missing.first, missing.last, missing.before, missing.behind.seq) == (0, 1, None, 2)


def test_the_last_object_before_a_hole_is_known_where_a_gap_lies_between() -> None:
    reached = bucket(0, 4, gaps={1: 9}).index(Reached()).reached
    (missing,) = plan_backlog(bucket(12).found(reached), reached, {}, limit=9, give_up_ns=0).missing
    assert (missing.first, missing.last, missing.before and missing.before.seq) == (10, 11, 4)


def test_a_gap_record_that_comes_late_and_reaches_further_is_no_hole() -> None:
    reached = bucket(0, 4).index(Reached(), give_up_ns=0).reached
    assert reached == at(4, (1, 3))
    done = bucket(0, 4, 9, gaps={2: 8}).index(reached)
    assert (done.taken, done.reached) == ([("s", 2), ("s", 9)], at(9, (1, 1), (3, 3), (5, 8)))


def test_what_an_older_release_published_goes_on() -> None:
    stream = f"{ROBOT}/{RECORDING}/s"
    assert Reached.read({stream: 3}, {"gaps": {stream: 7}}) == at(7, (4, 7))
    assert Reached.read({stream: 3}, {}) == at(3)
    reached = at(9, (1, 2), (4, 4))
    assert Reached.read(reached.positions, json.loads(json.dumps(reached.facts()))) == reached


def test_a_gap_that_is_known_only_once_it_was_examined_opens_its_hole_in_the_same_run() -> None:
    one = bucket(1, 2, 6, 9, gaps={0: 5})
    done = one.index(Reached())
    assert (done.taken, done.reached) == ([("s", seq) for seq in (0, 1, 2, 6)], at(6, (3, 5)))
    assert [asked.seq for asked in one.looked] == [2, 6]


def test_only_the_object_before_a_hole_is_looked_at_and_only_when_it_is_new() -> None:
    one = bucket(0, 1, 2, 5, 6)
    done = one.index(Reached())
    assert (done.taken, done.reached) == ([("s", 0), ("s", 1), ("s", 2)], at(2))
    assert [asked.seq for asked in one.looked] == [2]
    assert one.index(done.reached).taken == []
    assert len(one.looked) == 1


def test_a_limit_does_not_part_a_gap_from_what_is_stored_inside_it() -> None:
    one = bucket(1, 2, 7, 9, gaps={0: 8})
    backlog = work_off(one.found(Reached()), Reached(), limit=1, look=one.look, take=one.take)
    assert [segment.seq for segment in backlog.ready] == [0, 1, 2, 7]
    assert (backlog.reached, backlog.more) == (at(8, (3, 6), (8, 8)), True)


def test_what_is_taken_stays_where_a_gap_lets_the_stream_before_it_take_more() -> None:
    one = Bucket({("a", 0): 5, ("a", 1): 1, ("a", 6): 6, ("a", 7): 7, ("b", 0): 0})
    done = one.index(Reached(), limit=3)
    assert sorted(done.taken) == [("a", 0), ("a", 1), ("a", 6), ("a", 7), ("b", 0)]


objects = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.integers(0, END)),
    st.tuples(st.integers(0, 3) | st.just(0), st.integers(0, 4)),  # arrives in this run; a gap of so many seqs more
)


@given(objects, st.integers(1, 6), st.integers(1, 5))
def test_every_segment_is_taken_once_when_it_arrives_and_no_hole_is_passed_before_its_time(
    arriving: dict[tuple[str, int], tuple[int, int]], limit: int, grace: int
) -> None:
    reached, expected = Reached(), {"a": Naive(), "b": Naive()}
    for run in range(5):
        since = {name: when for name, (when, _) in arriving.items() if when <= run}
        here = Bucket({(s, n): n + arriving[s, n][1] for s, n in since}, since)
        done = here.index(reached, limit=limit, give_up_ns=run - grace)
        reached = done.reached
        for stream, naive in expected.items():
            own = {seq: (last, since[s, seq]) for (s, seq), last in here.last.items() if s == stream}
            new, missing = naive.index(own, give_up=run - grace)
            assert sorted(seq for s, seq in done.taken if s == stream) == sorted(new)
            assert [(first, last) for s, first, last in done.missing if s == stream] == missing
            assert reached.positions.get(f"{ROBOT}/{RECORDING}/{stream}", -1) == naive.position
            assert seqs_in(reached.holes.get(f"{ROBOT}/{RECORDING}/{stream}", ())) == naive.holes
        assert_looked_only_before_holes(here)


def seqs_in(holes: Sequence[tuple[int, int]]) -> set[int]:
    assert all(before[1] + 1 < after[0] for before, after in pairwise(holes)), "in order, and apart"
    return {seq for first, last in holes for seq in range(first, last + 1)}


class Naive:
    """The rule word by word: a seq is taken once each one before it was taken, lies in a gap or is missing."""

    def __init__(self) -> None:
        self.position, self._indexed = -1, set[int]()

    @property
    def holes(self) -> set[int]:
        return set(range(self.position + 1)) - self._indexed

    def index(self, stored: Mapping[int, tuple[int, int]], *, give_up: int) -> tuple[list[int], list[tuple[int, int]]]:
        """`stored`: seq → the last seq it stands for, and since when it is there. What is taken, what is missing."""
        taken: list[int] = []
        missing: list[tuple[int, int]] = []
        while left := sorted(set(stored) - self._indexed):
            if left[0] <= self.position + 1:
                taken.append(left[0])
                self._indexed.add(left[0])
                self.position = max(self.position, stored[left[0]][0])
            elif min(stored[seq][1] for seq in left) <= give_up:
                missing.append((self.position + 1, left[0] - 1))
                self.position = left[0] - 1
            else:
                break
        return taken, missing


def assert_looked_only_before_holes(here: Bucket) -> None:
    for one in here.looked:
        stored = {seq for stream, seq in here.last if stream == one.stream}
        assert one.seq + 1 not in stored
        assert max(stored) > one.seq


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=5),
    st.sets(st.integers(0, 60)),
    st.integers(2, 6),
)
def test_what_arrived_in_holes_is_found_by_no_more_listings_than_there_are_holes_or_pages(
    ranges: list[tuple[int, int]], stored: set[int], page: int
) -> None:
    holes = without([(first, first + more) for first, more in ranges], ())
    asked: list[int] = []

    def page_after(seq: int) -> dict[int, int]:
        asked.append(seq)
        return dict.fromkeys(sorted(one for one in stored if one > seq)[:page], 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray_jobs.holes.PAGE", page)
        assert set(arrived_in(holes, page_after)) == stored & seqs_in(holes)
    assert len(asked) <= len(holes) + len(stored) // page
