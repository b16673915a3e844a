"""A full disk costs the least valuable and oldest, no more than is needed, and never anything within the limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.retention import Evictable, choose_evictions

RECORDINGS = ("01J00000000000000000000000", "01J00000000000000000000001", "01K00000000000000000000000")
STREAMS = ("_agent", "head_camera", "telemetry")


def _segment(
    seq: int = 0, *, priority: int = 10, stream: str = "telemetry", size: int = 100, recording: str = RECORDINGS[0]
) -> Evictable:
    return Evictable(f"{recording}/{stream}/{seq:010d}", priority, recording, stream, seq, size)


def _choose(items: Sequence[Evictable], **limits: Any) -> list[Evictable]:
    """With limits that hold, but for the given ones."""
    used = {"used_bytes": sum(one.size_bytes for one in items), "max_bytes": 10**9, "hysteresis": 0.0}
    return choose_evictions(items, **{**used, "free_bytes": 10**12, "min_free_bytes": 0, **limits})


def _unread() -> Iterator[Evictable]:
    raise AssertionError("nothing needs to be looked at")
    yield


segments = st.builds(
    _segment,
    st.integers(0, 20),
    priority=st.sampled_from([0, 10, 20, 30]),
    stream=st.sampled_from(STREAMS),
    size=st.integers(0, 200),
    recording=st.sampled_from(RECORDINGS),
)
spools = st.lists(segments, max_size=40, unique_by=lambda one: one.stem)
limits = st.fixed_dictionaries(
    {
        "max_bytes": st.integers(0, 5000),
        "free_bytes": st.integers(0, 1000),
        "min_free_bytes": st.integers(0, 1000),
        "hysteresis": st.sampled_from([0.0, 0.05, 0.5]),
    }
)


def _order(one: Evictable) -> tuple[int, str, int, str]:
    return -one.priority, one.recording, one.seq, one.stream


def _size(items: Sequence[Evictable]) -> int:
    return sum(one.size_bytes for one in items)


def test_within_the_limits_nothing_goes_and_nothing_is_looked_at() -> None:
    assert choose_evictions(_unread(), used_bytes=10, max_bytes=10, free_bytes=5, min_free_bytes=5) == []


def test_the_least_valuable_goes_first_even_if_it_is_the_newest() -> None:
    old_telemetry, new_video = _segment(0, priority=10), _segment(9, priority=30, stream="head_camera")
    assert _choose([old_telemetry, new_video], max_bytes=150) == [new_video]


def test_of_equal_value_the_oldest_goes_first() -> None:
    newer_recording, late, early = _segment(0, recording=RECORDINGS[1]), _segment(2), _segment(1)
    assert _choose([newer_recording, late, early], max_bytes=0) == [early, late, newer_recording]


def test_streams_of_equal_value_go_side_by_side() -> None:
    items = [_segment(seq, stream=stream) for stream in STREAMS for seq in range(2)]
    assert [(one.seq, one.stream) for one in _choose(items, max_bytes=0)] == [
        (n, one) for n in (0, 1) for one in STREAMS
    ]


def test_a_disk_filled_by_others_costs_only_what_is_missing_to_the_free_space() -> None:
    items = [_segment(seq) for seq in range(10)]
    assert _choose(items, free_bytes=300, min_free_bytes=500) == items[:2]


def test_room_is_made_so_that_the_next_segment_evicts_nothing() -> None:
    items = [_segment(seq) for seq in range(101)]
    gone = _choose(items, max_bytes=10_000, hysteresis=0.05)
    assert gone == items[:6]
    assert _choose([*items[6:], _segment(101)], max_bytes=10_000, hysteresis=0.05) == []


def test_a_limit_far_above_the_spools_size_does_not_empty_it() -> None:
    items = [_segment(seq) for seq in range(100)]
    assert len(_choose(items, max_bytes=10**15, free_bytes=0, min_free_bytes=1, hysteresis=0.05)) == 6


def test_what_holds_no_bytes_is_not_taken_once_there_is_enough() -> None:
    items = [_segment(0), _segment(1, size=0)]
    assert _choose(items, max_bytes=0) == [items[0]]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"hysteresis": 1.0}, "hysteresis must be within 0..1, got 1.0"),
        ({"hysteresis": -0.1}, "hysteresis must be within 0..1, got -0.1"),
        ({"max_bytes": -1}, "max_bytes must be >= 0, got -1"),
        ({"min_free_bytes": -2}, "min_free_bytes must be >= 0, got -2"),
        ({"used_bytes": -3}, "used_bytes must be >= 0, got -3"),
    ],
)
def test_a_number_that_cannot_be_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        _choose([], **wrong)


@given(spools, limits)
def test_the_choice_is_the_shortest_beginning_of_the_order_that_is_enough(
    items: list[Evictable], limits: dict[str, Any]
) -> None:
    gone = _choose(items, **limits)
    assert gone == sorted(items, key=_order)[: len(gone)]
    used, excess = (
        _size(items),
        max(_size(items) - limits["max_bytes"], limits["min_free_bytes"] - limits["free_bytes"]),
    )
    needed = excess + int(limits["hysteresis"] * min(used, limits["max_bytes"])) if excess > 0 else 0
    assert _size(gone) >= needed or len(gone) == len(items)
    assert not gone or _size(gone[:-1]) < needed


@given(spools, limits)
def test_nothing_more_valuable_goes_while_something_less_valuable_stays(
    items: list[Evictable], limits: dict[str, Any]
) -> None:
    gone = _choose(items, **limits)
    stays = [one for one in items if one not in gone]
    assert max((one.priority for one in stays), default=0) <= min((one.priority for one in gone), default=99)


@given(spools, limits)
def test_once_it_is_gone_nothing_more_goes(items: list[Evictable], limits: dict[str, Any]) -> None:
    gone = _choose(items, **limits)
    stays = [one for one in items if one not in gone]
    after = {**limits, "free_bytes": limits["free_bytes"] + _size(gone)}
    assert not stays or _choose(stays, **after) == []


@given(spools, limits, st.randoms())
def test_the_order_in_which_the_spool_is_read_changes_nothing(
    items: list[Evictable], limits: dict[str, Any], random_: Any
) -> None:
    mixed = random_.sample(items, len(items))
    assert _choose(mixed, **limits) == _choose(items, **limits)
