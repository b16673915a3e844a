"""A recording's own words, each a segment of the stream `_agent`: what made it, how it does, and where it ended.

The last word names the last seq of each stream, so that the server sees a missing tail without asking the robot; a
status in between does the same for a robot that never comes back.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

from edge import segment
from edge.clock import Clock, boot_id, read_clocks
from edge.errors import SpoolError
from edge.records import Topic
from edge.segment import Message
from edge.spool import Spool, Spooled
from edge.topics import AGENT_STREAM, RECORDING_CLOSED, RECORDING_OPENED, STATUS, encode_json
from edge.wire import MCAP_TYPE


def opening(
    *, software_version: str, calibration: Mapping[str, Any] | None = None, wall: Clock = time.time_ns
) -> dict[str, Any]:
    """What made the recording. `wall_ns` and `monotonic_ns` were read together: `publish_time` runs on the latter."""
    read = read_clocks(wall=wall)
    return {
        "software_version": software_version,
        "host": platform.node(),
        "calibration": dict(calibration or {}),
        "boot": boot_id(),
        "wall_ns": read.wall_ns,
        "monotonic_ns": read.mono_ns,
    }


class Words:
    """Seals the words of one recording, in order. What the disk does not take now is sealed at a later call."""

    def __init__(self, spool: Spool, recording: str, *, first_seq: int = 0) -> None:
        self._spool, self._recording = spool, recording
        self._waiting: list[tuple[Topic, int, Callable[[int], Mapping[str, Any]]]] = []
        self.next_seq = first_seq

    def say(self, topic: Topic, t_ns: int, message: Callable[[int], Mapping[str, Any]]) -> bool:
        """Seal a word; `message` makes it, given the seq that it will have. False where it has to wait."""
        self._waiting.append((topic, t_ns, message))
        return self.seal()

    def seal(self) -> bool:
        """Seal what waits. False where the disk does not take it."""
        while self._waiting:
            topic, t_ns, message = self._waiting[0]
            try:
                _write(self._spool, self._recording, self.next_seq, topic, t_ns, message(self.next_seq))
            except OSError:
                return False
            self._waiting.pop(0)
            self.next_seq += 1
        return True

    def open(self, t_ns: int, message: Mapping[str, Any]) -> None:
        self.say(RECORDING_OPENED, t_ns, lambda _: message)

    def tell(self, t_ns: int, status: Mapping[str, Any]) -> None:
        self.say(STATUS, t_ns, lambda _: status)

    def close(self, t_ns: int, *, last_seq: Mapping[str, int], dropped: Mapping[str, int]) -> None:
        """The last word. `dropped`: what was let go, by stream. `SpoolError` where the disk takes nothing."""
        told = {"dropped": dict(dropped), "recovered": False}
        if not self.say(RECORDING_CLOSED, t_ns, lambda seq: {"last_seq": {**last_seq, AGENT_STREAM: seq}, **told}):
            raise SpoolError(f"recording {self._recording} has no last word: the disk takes nothing")


def write_opening(spool: Spool, recording: str, t_ns: int, *, software_version: str) -> Spooled:
    """Seal segment 0 of `_agent`, for a recording that no `Recorder` makes."""
    return _write(spool, recording, 0, RECORDING_OPENED, t_ns, opening(software_version=software_version))


def write_closing(
    spool: Spool, recording: str, t_ns: int, *, dropped: Mapping[str, int], recovered: bool
) -> Spooled | None:
    """Seal the last word from what the spool holds; None where nothing was recorded at all, or it is closed already."""
    last = spool.last_seqs(recording)
    if not last or is_closed(spool, recording):
        return None
    seq = _next_seq(spool, recording, last.get(AGENT_STREAM, -1))
    message = {"last_seq": {**last, AGENT_STREAM: seq}, "dropped": dict(dropped), "recovered": recovered}
    return _write(spool, recording, seq, RECORDING_CLOSED, t_ns, message)


def _next_seq(spool: Spool, recording: str, last: int) -> int:
    """Where the next word goes. Bytes without facts, which a crash left, are written over: nobody has seen them."""
    folder = spool.folder / "sealed" / recording / AGENT_STREAM
    left = {path.suffix for path in folder.glob(f"{last:010d}.*")} - {".tmp"}
    return last if left == {".mcap"} else last + 1


def is_closed(spool: Spool, recording: str) -> bool:
    """Whether the last word of a recording has been sealed, wherever it is now."""
    aside = (one for one, _ in spool.quarantined(recording))
    words = (*spool.waiting(recording, stream=AGENT_STREAM), *spool.acknowledged(recording), *aside)
    return any(RECORDING_CLOSED.name in one.counts for one in words)


def _write(spool: Spool, recording: str, seq: int, topic: Topic, t_ns: int, message: Mapping[str, Any]) -> Spooled:
    built = segment.build([Message(topic, t_ns, seq, encode_json(message))])
    assert built is not None  # noqa: S101 - for the type checker: there is a message
    return spool.add((recording, AGENT_STREAM, seq), *built, kind="telemetry", content_type=MCAP_TYPE)
