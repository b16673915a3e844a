"""What a stream is worth and over which link it goes follows from its name, its kind and the settings."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edge.policy import Policy, StreamPolicy, may_send, policy_of

PINNED = StreamPolicy(priority=1, send="on_request")


@pytest.mark.parametrize(
    ("stream", "kind", "priority"),
    [
        ("_agent", "telemetry", 0),
        ("_events", "telemetry", 0),
        ("telemetry", "telemetry", 10),
        ("hand_preview", "telemetry", 10),
        ("head_camera_preview", "video", 20),
        ("head_camera", "video", 30),
        ("preview", "video", 30),
    ],
)
def test_without_settings_words_outlast_numbers_and_numbers_outlast_pictures(
    stream: str, kind: Any, priority: int
) -> None:
    assert policy_of(stream, kind, {}) == Policy(priority=priority, send="always")


def test_the_exact_name_wins_over_every_pattern() -> None:
    streams = {
        "head_camera*": StreamPolicy(priority=5),
        "head_camera": PINNED,
        "[h]ead_camera": StreamPolicy(priority=6),
    }
    assert policy_of("head_camera", "video", streams) == Policy(priority=1, send="on_request")


@pytest.mark.parametrize("names", [("*", "*_camera"), ("*_camera", "*")])
def test_the_longest_pattern_wins_in_whatever_order_they_are_written(names: tuple[str, str]) -> None:
    policies = {"*": StreamPolicy(priority=5), "*_camera": PINNED}
    assert policy_of("head_camera", "video", {name: policies[name] for name in names}).priority == 1


@pytest.mark.parametrize("names", [("head_*", "*_left"), ("*_left", "head_*")])
def test_of_two_patterns_of_one_length_the_first_by_alphabet_wins(names: tuple[str, str]) -> None:
    policies = {"*_left": StreamPolicy(priority=1), "head_*": StreamPolicy(priority=2)}
    assert policy_of("head_left", "video", {name: policies[name] for name in names}).priority == 1


def test_what_is_not_declared_keeps_its_default() -> None:
    streams = {"*_camera": StreamPolicy(send="unmetered"), "imu": StreamPolicy(priority=0)}
    assert policy_of("head_camera", "video", streams) == Policy(priority=30, send="unmetered")
    assert policy_of("imu", "telemetry", streams) == Policy(priority=0, send="always")
    assert policy_of("telemetry", "telemetry", streams) == Policy(priority=10, send="always")


@pytest.mark.parametrize("pattern", ["*", "?agent", "[_]agent"])
def test_a_pattern_for_all_streams_does_not_silence_the_agent(pattern: str) -> None:
    assert policy_of("_agent", "telemetry", {pattern: PINNED}) == Policy(priority=0, send="always")


def test_the_agents_streams_can_be_meant_by_a_pattern_of_their_own() -> None:
    assert policy_of("_events", "telemetry", {"_*": PINNED}) == Policy(priority=1, send="on_request")


def test_letters_are_told_apart_by_case() -> None:
    assert policy_of("head_camera", "video", {"HEAD*": PINNED}).priority == 30


@pytest.mark.parametrize(
    ("send", "metered", "requested", "goes"),
    [
        ("always", True, False, True),
        ("always", False, False, True),
        ("unmetered", False, False, True),
        ("unmetered", True, False, False),
        ("unmetered", True, True, True),
        ("on_request", False, False, False),
        ("on_request", True, False, False),
        ("on_request", True, True, True),
    ],
)
def test_a_costly_link_carries_only_what_must_go_or_is_asked_for(
    send: Any, metered: bool, requested: bool, goes: bool
) -> None:
    assert may_send(StreamPolicy(send=send), metered=metered, requested=requested) is goes


@pytest.mark.parametrize("wrong", [{"send": "sometimes"}, {"priority": -1}, {"prio": 3}, {"priority": "high"}])
def test_a_policy_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StreamPolicy(**wrong)
