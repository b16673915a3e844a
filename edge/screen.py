"""`fleetfeed edge status` for people: one table of the streams, and below it the link, the clock and what is wrong."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from edge.status import Overview, StreamStatus

STALE_S = 10.0
WIDTH = 80
HEADER = ("recorded", "uploaded", "waiting", "dropped", "aside", "open", "MB", "oldest")
LEGEND = "aside: in quarantine; open: not sealed yet; MB, oldest: of what waits"


def overview_of(seen: Overview, *, now_ns: int) -> RenderableType:
    below = (*_damaged(seen.streams), *_recorders(seen.recorders), *_agent(seen.agent, now_ns))
    lines = [Text(line) for line in (*_table(seen.streams, now_ns), *below)]
    recorders = (text for one in seen.recorders.values() for text in one.get("alarms", ()))
    lines += [Text(f"alarm: {text}", style="red") for text in (*seen.agent.get("alarms", ()), *recorders)]
    return Group(*lines)


def _table(streams: list[StreamStatus], now_ns: int) -> list[str]:
    """One row a stream, in 80 columns: a name for which there is no room stands on a line of its own."""
    rows = [HEADER, *(_numbers(line, now_ns) for line in streams)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    names = ["stream", *(line.stream for line in streams)]
    room = min(max(map(len, names)), max(len(names[0]), WIDTH - len(numbers[0]) - 2))
    table = []
    for name, row in zip(names, numbers, strict=True):
        fits = len(name) <= room
        table += [] if fits else [name]
        table.append(f"{name if fits else '':<{room}}  {row}")
    return [*table, LEGEND, ""]


def _numbers(line: StreamStatus, now_ns: int) -> tuple[str, ...]:
    oldest = _age((now_ns - line.oldest_waiting_ns) / 1e9) if line.oldest_waiting_ns else ""
    counts = (line.recorded, line.uploaded, line.waiting, line.dropped, line.quarantined, line.open)
    return (*map(str, counts), f"{line.waiting_bytes / 1e6:.1f}", oldest)


def _damaged(streams: list[StreamStatus]) -> list[str]:
    return [f"{line.stream}: {line.damaged} damaged stretches in quarantine" for line in streams if line.damaged]


def _recorders(recorders: dict[str, dict[str, Any]]) -> list[str]:
    if not recorders:
        return ["recorder: none is running"]
    lines = []
    for recording, state in recorders.items():
        let_go = sum(state.get("dropped", {}).values())
        lines.append(f"recorder: {recording}" + (f", could not take {let_go} readings" if let_go else ""))
    return lines


def _agent(agent: dict[str, Any], now_ns: int) -> list[str]:
    if not agent:
        return ["agent: has not run here yet"]
    age_s = (now_ns - agent.get("told_ns", 0)) / 1e9
    if not agent.get("is_running") or age_s > STALE_S:
        return [f"agent: not running, last seen {_age(age_s)} ago", *_last_error(agent)]
    link = (*_link(agent), *_last_error(agent), *_clock(agent.get("clock")))
    return [f"agent: running (pid {agent.get('pid')})", *link]


def _link(agent: dict[str, Any]) -> list[str]:
    link = agent.get("link", {})
    failures = link.get("failures_in_a_row", 0)
    state = f"down, {failures} failures in a row" if failures else "up"
    metered = f", metered ({link.get('metered_because')})" if link.get("metered") else ""
    sent = f"{link.get('uploaded', 0)} uploads, {link.get('uploaded_bytes', 0) / 1e6:.1f} MB since it started"
    return [f"link: {state}{metered}; {sent}"]


def _last_error(agent: dict[str, Any]) -> list[str]:
    error = agent.get("link", {}).get("last_error", "")
    return [f"last error: {error}"] if error else []


def _clock(clock: dict[str, Any] | None) -> list[str]:
    if clock is None:
        return []
    offset_ms, half_ms = clock["offset_ns"] / 1e6, clock["uncertainty_ns"] / 1e6
    drift, half = clock["drift_ppb"] / 1e3, clock["drift_uncertainty_ppb"] / 1e3
    return [f"clock: the server's is {offset_ms:+.1f} ± {half_ms:.1f} ms ahead, drift {drift:+.1f} ± {half:.1f} ppm"]


def _age(seconds: float) -> str:
    """In the largest unit that fits: 40 s, 5 min, 3 h, 2 d."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
