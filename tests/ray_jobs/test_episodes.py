"""Which episodes a recording holds, and when one has arrived."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.backlog import contiguous, plan_backlog
from ray_jobs.episodes import Label, Recording, episodes_of, is_ready

T = 1000


def rows(**streams: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """stream=[(start, end), …]: rows of segments 0, 1, …"""
    return [
        {"stream": stream, "seq": seq, "start_ns": start, "end_ns": end, "state": "ok"}
        for stream, ranges in streams.items()
        for seq, (start, end) in enumerate(ranges)
    ]


def label(identity: str, event: str, t_ns: int, **more: Any) -> Label:
    found = Label.parse(t_ns, {"episode_id": identity, "event": event, "task": "wave", **more})
    assert found
    return found


def recording(labels: list[Label], *, closed: dict[str, int] | None = None, **streams: Any) -> Recording:
    return Recording("r", "REC", rows(**(streams or {"telemetry": [(0, T), (T, 2 * T)]})), labels, closed)


def ranges(of: Recording) -> list[tuple[str, int, int]]:
    return [(episode.episode_id, episode.start_ns, episode.end_ns) for episode in episodes_of(of)]


def test_labels_make_episodes_and_the_last_end_counts() -> None:
    labels = [
        label("E", "start", 5),
        label("E", "end", 9, success=False),
        label("E", "end", 11, success=True, notes="twice"),
    ]
    (episode,) = episodes_of(recording(labels))
    assert (episode.start_ns, episode.end_ns, episode.success, episode.notes) == (5, 11, True, "twice")


def test_an_episode_without_an_end_ends_with_the_next_or_with_the_complete_recording() -> None:
    labels = [label("A", "start", 5), label("B", "start", 50)]
    assert ranges(recording(labels)) == [("A", 5, 50)]
    assert ranges(recording(labels, closed={"telemetry": 1})) == [("A", 5, 50), ("B", 50, 2 * T)]


def test_a_recording_without_labels_is_one_episode_once_it_is_complete() -> None:
    streams = {"telemetry": [(10, T)], "camera": [(5, T + 7)], "_agent": [(0, 9 * T)]}
    assert ranges(recording([], **streams)) == []
    assert ranges(recording([], closed={"telemetry": 1}, **streams)) == []
    assert ranges(recording([], closed={"telemetry": 0, "camera": 0}, **streams)) == [("REC", 5, T + 7)]


def test_an_episode_is_ready_when_every_stream_is_indexed_past_what_it_may_take() -> None:
    labels = [label("E", "start", 0), label("E", "end", T)]
    for until, ready in ((T + 9, False), (T + 10, True)):
        one = recording(labels, telemetry=[(0, until)], camera=[(0, 2 * T)])
        (episode,) = episodes_of(one)
        assert is_ready(episode, one, cameras=["camera"], reach_ns=10) == ready
        assert not is_ready(episode, one, cameras=["camera", "other"], reach_ns=10)


@pytest.mark.parametrize(
    "message", [None, [], {}, {"episode_id": "", "event": "end"}, {"episode_id": "E", "event": "x"}]
)
def test_a_message_that_is_no_label_is_ignored(message: Any) -> None:
    assert Label.parse(0, message) is None


@given(st.sets(st.integers(0, 30)), st.integers(-1, 10))
def test_the_contiguous_prefix_ends_before_the_first_hole(seqs: set[int], after: int) -> None:
    later = sorted(seq for seq in seqs if seq > after)
    count = contiguous(later, after)
    assert later[:count] == list(range(after + 1, after + 1 + count))
    assert after + 1 + count not in later


def test_a_limit_cuts_the_backlog_and_says_so() -> None:
    streams = {("r", "01JAAAAAAAAAAAAAAAAAAAAAAA", name): [0, 1, 3] for name in ("a", "b")}
    backlog = plan_backlog(streams, {}, limit=3)
    assert [(one.stream, one.seq) for one in backlog.ready] == [("a", 0), ("a", 1), ("b", 0)]
    assert (backlog.more, list(backlog.positions.values())) == (True, [1, 0])
    rest = plan_backlog({name: [3] if name[2] == "a" else [1, 3] for name in streams}, backlog.positions, limit=3)
    assert ([(one.stream, one.seq) for one in rest.ready], rest.waiting, rest.more) == ([("b", 1)], 2, False)
