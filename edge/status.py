"""What a spool folder holds, stream by stream: what is recorded, where it is now, and whether the sums agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from edge.spool import Spool, Spooled


@dataclass(slots=True)
class StreamStatus:
    """One stream over all recordings, in messages (a camera: frames). recorded = uploaded + waiting + quarantined."""

    stream: str
    recorded: int = 0
    uploaded: int = 0
    waiting: int = 0
    quarantined: int = 0
    waiting_segments: int = 0
    waiting_bytes: int = 0
    oldest_waiting_ns: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def status(spool: Spool) -> list[StreamStatus]:
    """One line a stream. What is still in an open segment is not counted yet."""
    found: dict[str, StreamStatus] = {}
    waiting = list(spool.waiting())
    for one in waiting:
        line = _count(found, [one], "waiting")
        line.waiting_segments += 1
        line.waiting_bytes += one.bytes
        line.oldest_waiting_ns = min(one.start_ns, line.oldest_waiting_ns or one.start_ns)
    stems = {one.stem for one in waiting}
    for recording in spool.recordings():
        _count(found, (one for one in spool.acknowledged(recording) if one.stem not in stems), "uploaded")
    _count(found, (one for one, _ in spool.quarantined() if one.stem not in stems), "quarantined")
    return sorted(found.values(), key=lambda line: line.stream)


def _count(found: dict[str, StreamStatus], segments: Iterable[Spooled], where: str) -> StreamStatus:
    line = StreamStatus("")
    for one in segments:
        line = found.setdefault(one.stream, StreamStatus(one.stream))
        messages = sum(one.counts.values())
        line.recorded += messages
        setattr(line, where, getattr(line, where) + messages)
    return line
