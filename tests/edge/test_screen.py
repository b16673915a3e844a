"""`fleetfeed edge status` for people: in 80 columns nothing is cut off, and what is wrong is said in words."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from edge.screen import overview_of
from edge.status import Overview, StreamStatus

NOW_NS = 1_760_000_000_000_000_000
LINK = {"uploaded": 12, "uploaded_bytes": 3_400_000, "failures_in_a_row": 0, "last_error": "", "metered": False}
CLOCK = {"offset_ns": -3_500_000, "uncertainty_ns": 1_200_000, "drift_ppb": 12_345, "drift_uncertainty_ppb": 900}


def shown(streams: list[StreamStatus] | None = None, **changed: Any) -> list[str]:
    """The lines on a screen of 80 columns."""
    console = Console(width=80, file=io.StringIO())
    seen = Overview(streams or [], changed.get("agent", {}), changed.get("recorders", {}))
    console.print(overview_of(seen, now_ns=NOW_NS))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in lines)
    return lines


def agent(**changed: Any) -> dict[str, Any]:
    running = {"is_running": True, "told_ns": NOW_NS - 10**9, "pid": 4321, "link": LINK, "clock": None, "alarms": []}
    return {**running, **changed}


def stream(name: str, **counts: int) -> StreamStatus:
    return StreamStatus(name, **counts)


def test_a_stream_is_one_row_under_its_headers() -> None:
    counts = {"recorded": 61, "uploaded": 30, "waiting": 21, "dropped": 7, "quarantined": 3, "open": 4}
    one = StreamStatus(
        "telemetry", **counts, waiting_bytes=1_234_567, oldest_waiting_ns=NOW_NS - 300 * 10**9, waiting_segments=3
    )
    head, row, *_ = shown([one])
    assert head.split() == ["stream", "recorded", "uploaded", "waiting", "dropped", "aside", "open", "MB", "oldest"]
    assert row.split() == ["telemetry", "61", "30", "21", "7", "3", "4", "1.2", "5", "min"]
    assert [head.index(name) + len(name) for name in ("recorded", "oldest")] == [row.index("61") + 2, len(row)]


@pytest.mark.parametrize("name", ["head_camera_preview", "x" * 63, "a", "_events"])
@pytest.mark.parametrize("size", [1, 10**8])
def test_no_name_header_or_number_is_cut_off(name: str, size: int) -> None:
    one = stream(name, recorded=size, uploaded=size, waiting=size, waiting_bytes=size * 300, oldest_waiting_ns=1)
    head, *rows = (line.split() for line in shown([one, stream("telemetry", recorded=7)]))
    assert head == ["stream", "recorded", "uploaded", "waiting", "dropped", "aside", "open", "MB", "oldest"]
    numbers = [*map(str, (size, size, size, 0, 0, 0)), f"{size * 300 / 1e6:.1f}", "20370", "d"]
    assert rows[:2] == [[name], numbers] or rows[0] == [name, *numbers]
    words = [word for row in rows for word in row]
    assert words[words.index("telemetry") + 1] == "7"


def test_an_empty_spool_has_headers_and_no_row() -> None:
    assert [line for line in shown() if "agent" in line] == ["agent: has not run here yet"]
    assert "recorder: none is running" in shown()


def test_what_is_damaged_is_told_below() -> None:
    assert "head: 2 damaged stretches in quarantine" in shown([stream("head", damaged=2), stream("telemetry")])


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ({}, "link: up; 12 uploads, 3.4 MB since it started"),
        ({"failures_in_a_row": 7}, "link: down, 7 failures in a row; 12 uploads, 3.4 MB since it started"),
        (
            {"metered": True, "metered_because": "yes"},
            "link: up, metered (yes); 12 uploads, 3.4 MB since it started",
        ),
    ],
)
def test_the_link_is_told(link: dict[str, Any], said: str) -> None:
    assert said in shown(agent=agent(link={**LINK, **link}))


def test_the_last_error_is_told_in_words_however_long() -> None:
    error = "ConnectionError: " + "could not be reached " * 8
    lines = shown(agent=agent(link={**LINK, "last_error": error}))
    assert error.split() == " ".join(lines).partition("last error: ")[2].split()


def test_the_clock_is_told_with_its_uncertainties() -> None:
    said = "clock: the server's is -3.5 ± 1.2 ms ahead, drift +12.3 ± 0.9 ppm"
    assert said in shown(agent=agent(clock=CLOCK))
    assert not [line for line in shown(agent=agent()) if line.startswith("clock")]


def test_alarms_of_the_agent_and_of_recorders_are_told() -> None:
    recorders = {"01J00000000000000000000000": {"dropped": {"head": 4}, "alarms": ["stream head: disk"]}}
    lines = shown(agent=agent(alarms=["disk full: 3 [segments] had to go"]), recorders=recorders)
    assert lines[-2:] == ["alarm: disk full: 3 [segments] had to go", "alarm: stream head: disk"]
    assert "recorder: 01J00000000000000000000000, could not take 4 readings" in lines


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "agent: running (pid 4321)"),
        ({"told_ns": NOW_NS - 40 * 10**9}, "agent: not running, last seen 40 s ago"),
        ({"told_ns": NOW_NS - 3 * 86_400 * 10**9}, "agent: not running, last seen 3 d ago"),
        ({"is_running": False}, "agent: not running, last seen 1 s ago"),
    ],
)
def test_an_agent_that_has_ended_or_hangs_is_not_called_running(changed: dict[str, Any], said: str) -> None:
    lines = shown(agent=agent(**changed))
    assert said in lines
    assert any(line.startswith("link: ") for line in lines) == ("pid" in said)


def test_a_state_of_another_version_disturbs_nothing() -> None:
    lines = shown(agent={"is_running": True, "told_ns": NOW_NS}, recorders={"01J00000000000000000000000": {}})
    assert "link: up; 0 uploads, 0.0 MB since it started" in lines
