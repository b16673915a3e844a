"""The first and the last word of a recording: what made it, and the last seq of each of its streams.

Both are segments of the stream `_agent`, so they travel as everything else does. The last word lets the server see
that a tail is missing without asking the robot.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import cast

from edge.segment import Message, SegmentFacts, Topic, build
from edge.spool import Spool, Spooled
from edge.topics import AGENT_STREAM, RECORDING_CLOSED, RECORDING_OPENED, encode_json
from edge.wire import MCAP_TYPE


def write_opening(spool: Spool, recording: str, t_ns: int, *, software_version: str) -> Spooled:
    """Seal segment 0 of `_agent`: the software version and the host."""
    message = {"software_version": software_version, "host": platform.node()}
    return _write(spool, recording, 0, RECORDING_OPENED, t_ns, encode_json(message))


def write_closing(
    spool: Spool, recording: str, t_ns: int, *, dropped: Mapping[str, int], recovered: bool
) -> Spooled | None:
    """Seal the last segment of a recording; None where nothing was recorded at all, or it is closed already.

    `dropped` counts, by stream, what the recorder had to let go because the robot could not keep up.
    """
    last = spool.last_seqs(recording)
    if not last or any(RECORDING_CLOSED.name in one.counts for one in spool.segments(recording).values()):
        return None
    seq = last.get(AGENT_STREAM, -1) + 1
    message = {"last_seq": {**last, AGENT_STREAM: seq}, "dropped": dict(dropped), "recovered": recovered}
    return _write(spool, recording, seq, RECORDING_CLOSED, t_ns, encode_json(message))


def _write(spool: Spool, recording: str, seq: int, topic: Topic, t_ns: int, data: bytes) -> Spooled:
    facts, body = cast(tuple[SegmentFacts, bytes], build([Message(topic, t_ns, 0, data)]))
    return spool.add((recording, AGENT_STREAM, seq), facts, body, kind="telemetry", content_type=MCAP_TYPE)
