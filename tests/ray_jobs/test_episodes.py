"""Which episodes a recording holds, and when one has arrived."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ray_jobs.episodes import Label, Recording, episodes_of, is_ready, lost_label

T = 1000


def rows(**streams: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """stream=[(start, end), …]: rows of segments 0, 1, … The topic of each stream is named as it."""
    return [
        row(stream, seq, start, end) for stream, ranges in streams.items() for seq, (start, end) in enumerate(ranges)
    ]


def row(stream: str, seq: int, start: int, end: int, **more: Any) -> dict[str, Any]:
    same = {"stream": stream, "seq": seq, "last_seq": None, "start_ns": start, "end_ns": end, "state": "ok"}
    return {**same, "topics": [{"name": f"/{stream}"}], **more}


def gap(stream: str, seq: int, last_seq: int, start: int, end: int, *topics: str) -> dict[str, Any]:
    lost = [{"name": topic} for topic in topics]
    return row(stream, seq, start, end, last_seq=last_seq, state="gap", topics=lost, reason="evicted: full")


def label(identity: str, event: str, t_ns: int, **more: Any) -> Label:
    found = Label.parse(t_ns, {"episode_id": identity, "event": event, "task": "wave", **more})
    assert found
    return found


def recording(labels: list[Label], *, closed: dict[str, int] | None = None, **streams: Any) -> Recording:
    return Recording("r", "REC", rows(**(streams or {"telemetry": [(0, T), (T, 2 * T)]})), labels, closed)


def ranges(of: Recording) -> list[tuple[str, int, int]]:
    return [(episode.episode_id, episode.start_ns, episode.end_ns) for episode in episodes_of(of)]


def test_half_a_character_in_a_label_stops_no_table() -> None:
    """JSON lets it through, UTF-8 does not."""
    half = "\ud800"
    found = Label.parse(0, {"episode_id": "e", "event": "start", "task": f"wave{half}", "notes": half})
    assert found
    assert (found.task, found.notes) == ("wave?", "?")
    assert Label.parse(0, {"episode_id": f"e{half}", "event": "start"}) is None


def test_labels_make_episodes_and_the_last_end_counts() -> None:
    labels = [
        label("E", "start", 5),
        label("E", "end", 9, success=False),
        label("E", "end", 11, success=True, notes="twice"),
    ]
    (episode,) = episodes_of(recording(labels))
    assert (episode.start_ns, episode.end_ns, episode.success, episode.notes) == (5, 11, True, "twice")


def test_an_episode_without_an_end_waits_for_the_complete_recording() -> None:
    """Its end label may be on its way; only then does it end with the next one, or with the recording."""
    labels = [label("A", "start", 5), label("B", "start", 50)]
    assert ranges(recording(labels)) == []
    assert ranges(recording(labels, closed={"telemetry": 1, "_events": 0})) == []
    assert ranges(recording(labels, closed={"telemetry": 1})) == [("A", 5, 50), ("B", 50, 2 * T)]
    late = [*labels, label("A", "end", 90)]  # A encloses B
    assert ranges(recording(late)) == [("A", 5, 90)]


def test_a_recording_without_labels_is_one_episode_once_it_is_complete() -> None:
    streams = {"telemetry": [(10, T)], "camera": [(5, T + 7)], "_agent": [(0, 9 * T)]}
    assert ranges(recording([], **streams)) == []
    assert ranges(recording([], closed={"telemetry": 1}, **streams)) == []
    assert ranges(recording([], closed={"telemetry": 0, "camera": 0}, **streams)) == [("REC", 5, T + 7)]


def test_labels_that_come_last_find_no_episode_made_of_the_whole_recording() -> None:
    streams = {"telemetry": [(0, T)], "_agent": [(0, 9 * T)]}
    closed = {"telemetry": 0, "_agent": 0, "_events": 1}
    assert ranges(recording([], closed=closed, **streams)) == []
    begun = recording([label("E", "start", 5)], closed=closed, _events=[(5, 6)], **streams)
    assert ranges(begun) == []
    labels = [label("E", "start", 5), label("E", "end", 9)]
    assert ranges(recording(labels, closed=closed, _events=[(5, 6), (9, 10)], **streams)) == [("E", 5, 9)]


def test_a_gap_counts_as_arrived_up_to_its_last_seq_and_end() -> None:
    own = [*rows(telemetry=[(0, T), (T, 2 * T)]), gap("telemetry", 2, 5, 2 * T, 6 * T, "/telemetry")]
    assert Recording("r", "REC", own).until_ns == {"telemetry": 6 * T}
    for last, complete in ((5, True), (6, False)):
        assert Recording("r", "REC", own, last_seq={"telemetry": last}).is_complete == complete
    inside = [*own, row("telemetry", 3, 3 * T, 4 * T)]
    assert Recording("r", "REC", inside, last_seq={"telemetry": 5}).is_complete


def test_a_recording_without_labels_does_not_begin_or_end_with_a_gap() -> None:
    own = [gap("telemetry", 0, 4, 1, T), row("telemetry", 5, T, 2 * T), gap("camera", 0, 9, 5, 9 * T)]
    closed = {"telemetry": 5, "camera": 9}
    assert ranges(Recording("r", "REC", own, last_seq=closed)) == [("REC", T, 2 * T)]
    gone = [one for one in own if one["state"] == "gap"]
    assert ranges(Recording("r", "REC", gone, last_seq={"telemetry": 4, "camera": 9})) == [("REC", 1, 9 * T)]


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (gap("telemetry", 2, 5, 10, 50, "/telemetry", "/episode"), True),
        (gap("telemetry", 2, 5, 10, 50, "/telemetry"), False),
        (gap("_events", 0, 1, 10, 50), True),
        (gap("_events", 0, 1, 10, 50, "/log"), False),
        (row("_events", 0, 10, 50, state="quarantined", topics=None), True),
        (row("telemetry", 2, 10, 50, state="quarantined", topics=None), False),
    ],
)
def test_where_labels_are_lost_nobody_knows_where_an_episode_without_an_end_ends(
    lost: dict[str, Any], named: bool
) -> None:
    own = [*rows(telemetry=[(0, T), (T, 2 * T)]), lost]
    labels = [label("A", "start", 1), label("A", "end", 5), label("B", "start", 7), label("C", "start", 60)]
    for told, expected in (([], {"REC": named}), (labels, {"A": False, "B": named, "C": False})):
        one = Recording("r", "REC", own, told, last_seq={"telemetry": 1})
        assert {e.episode_id: lost_label(e, one) is lost for e in episodes_of(one)} == expected


def test_an_episode_is_ready_when_every_stream_is_indexed_past_what_it_may_take() -> None:
    labels = [label("E", "start", 0), label("E", "end", T)]
    for until, ready in ((T + 9, False), (T + 10, True)):
        one = recording(labels, telemetry=[(0, until)], camera=[(0, 2 * T)], _events=[(0, 1)])
        (episode,) = episodes_of(one)
        assert is_ready(episode, one, cameras=["camera"], topics=["/telemetry"], reach_ns=10) == ready
        assert not is_ready(episode, one, cameras=["camera", "other"], topics=[], reach_ns=10)


def test_labels_that_come_first_wait_for_every_topic_asked_for_or_the_end_of_the_recording() -> None:
    labels = [label("E", "start", 0), label("E", "end", T)]
    first = recording(labels, camera=[(0, 2 * T)], _events=[(0, 1)])
    (episode,) = episodes_of(first)
    asked: dict[str, Any] = {"cameras": ["camera"], "topics": ["/telemetry"], "reach_ns": 0}
    assert not is_ready(episode, first, **asked)
    assert is_ready(episode, replace(first, last_seq={"camera": 0, "_events": 0}), **asked)
    lost = replace(first, rows=[*first.rows, gap("telemetry", 0, 3, 0, 2 * T, "/telemetry")])
    assert is_ready(episode, lost, **asked)


@pytest.mark.parametrize(
    "message", [None, [], {}, {"episode_id": "", "event": "end"}, {"episode_id": "E", "event": "x"}]
)
def test_a_message_that_is_no_label_is_ignored(message: Any) -> None:
    assert Label.parse(0, message) is None
