"""What a spool folder holds, stream by stream: what is recorded, where it is now, and whether the sums agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from edge import checked, ledger
from edge.spool import Spool, Spooled
from edge.state_file import read_state


@dataclass(slots=True)
class StreamStatus:
    """One stream over all recordings, in messages (a camera: frames).

    recorded = uploaded + waiting + quarantined + dropped, of what is sealed. `dropped`: evicted or lost, told to the
    server in gap records. `damaged`: stretches of open segments that a crash or the disk spoilt (kept in quarantine).
    `open`: not sealed yet. `not_taken`: readings that the recorder had to let go before they were recorded.
    """

    stream: str
    recorded: int = 0
    uploaded: int = 0
    waiting: int = 0
    quarantined: int = 0
    dropped: int = 0
    damaged: int = 0
    open: int = 0
    not_taken: int = 0
    waiting_segments: int = 0
    waiting_bytes: int = 0
    oldest_waiting_ns: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Overview:
    """The streams, and what the agent and live recorders told last (empty where there are none)."""

    streams: list[StreamStatus]
    agent: dict[str, Any]
    recorders: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        lines = [line.as_json() for line in self.streams]
        return {"streams": lines, "agent": self.agent, "recorders": self.recorders}


def overview(spool: Spool) -> Overview:
    """Everything that can be seen from outside."""
    recorders = _recorders(spool)
    streams = {line.stream: line for line in status(spool)}
    for recording, state in recorders.items():
        _count_live(spool, recording, state, streams)
    agent = read_state(spool.agent_state_path)
    ordered = sorted(streams.values(), key=lambda line: line.stream)
    return Overview(ordered, agent, recorders)


def status(spool: Spool) -> list[StreamStatus]:
    """One line a stream, of what is sealed."""
    found: dict[str, StreamStatus] = {}
    waiting, aside = list(spool.waiting()), list(spool.quarantined())
    set_aside = {one.stem for one, _ in aside if one.cause != "damaged"}
    for one in waiting:
        if not one.is_gap and one.stem not in set_aside:
            line = _count(found, [one], "waiting")
            line.waiting_segments += 1
            line.waiting_bytes += one.bytes
            line.oldest_waiting_ns = min(one.start_ns, line.oldest_waiting_ns or one.start_ns)
    stored = [one for recording in spool.recordings() for one in spool.acknowledged(recording)]
    here = {one.stem: one.sha256 for one in waiting}
    _count(found, (one for one in stored if not one.is_gap and here.get(one.stem) != one.sha256), "uploaded")
    _count(found, (one for one, _ in aside if one.cause != "damaged"), "quarantined")
    gaps = [one for one in (*waiting, *stored) if one.is_gap and one.stem not in set_aside]
    _count_gone(found, spool, gaps, stored={one.stem: one for one in stored if not one.is_gap})
    _count(found, (one for one, _ in aside if one.cause == "damaged"), "damaged")
    _count_folded(found, spool)
    return sorted(found.values(), key=lambda line: line.stream)


def _count_gone(
    found: dict[str, StreamStatus], spool: Spool, gaps: Iterable[Spooled], *, stored: dict[str, Spooled]
) -> None:
    """What went, each once: told to the server, waiting to be told, or (`.evicted`) not yet part of a record.

    Segments of a gap may have arrived after all: then they are in `stored`. The rest behind the first of them has a
    record of its own, which for a moment lies inside the whole one.
    """
    told: set[tuple[str, str, int]] = set()
    for one in sorted(gaps, key=lambda gap: (gap.recording, gap.stream, gap.seq, -gap.last_seq)):
        if one.cause in ("evicted", "lost") and (one.recording, one.stream, one.seq) not in told:
            told |= {(one.recording, one.stream, seq) for seq in range(one.seq, one.last_seq + 1)}
            _count(found, [replace(one, counts={"": ledger.gone(one, stored)})], "dropped")
    evicted = (Spooled.parse(checked.read(path)) for path in spool.paths("sealed/*/*/*.evicted"))
    untold = (
        one for one in evicted if one and one.stem not in stored and (one.recording, one.stream, one.seq) not in told
    )
    _count(found, untold, "dropped")


def _count_folded(found: dict[str, StreamStatus], spool: Spool) -> None:
    kept = set(spool.recordings())
    for recording, streams in dict(ledger.folded(spool)).items():
        for stream, sums in streams.items() if recording not in kept else ():
            line = found.setdefault(stream, StreamStatus(stream))
            for where, messages in sums.items():
                setattr(line, where, getattr(line, where) + messages)
                line.recorded += messages


def _count(found: dict[str, StreamStatus], items: Iterable[Spooled], where: str) -> StreamStatus:
    line = StreamStatus("")
    for one in items:
        line = found.setdefault(one.stream, StreamStatus(one.stream))
        setattr(line, where, getattr(line, where) + one.messages)
        if where != "damaged":
            line.recorded += one.messages
    return line


def _recorders(spool: Spool) -> dict[str, dict[str, Any]]:
    """What live recorders told last, by recording."""
    names = sorted(path.name for path in (spool.folder / "open").iterdir())
    told = {name: read_state(spool.recorder_state_path(name)) for name in names if spool.is_live(name)}
    return {name: state for name, state in told.items() if state}


def _count_live(spool: Spool, recording: str, state: dict[str, Any], streams: dict[str, StreamStatus]) -> None:
    """Add what a recorder has taken and not sealed, and what it could not take."""
    sealed: dict[str, int] = {}
    for item in spool.items(recording).values():
        sealed[item.stream] = sealed.get(item.stream, 0) + item.messages
    for stream, recorded in state.get("recorded", {}).items():
        line = streams.setdefault(stream, StreamStatus(stream))
        line.open += max(0, recorded - sealed.get(stream, 0))
    for stream, dropped in state.get("dropped", {}).items():
        line = streams.setdefault(stream, StreamStatus(stream))
        line.not_taken += dropped
