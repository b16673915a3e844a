"""What a victim's recordings have become, on the robot or at the server, and whether they are whole."""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from edge import segment
from edge.segment import Message
from edge.spool import Spool
from edge.wire import GAP_TYPE
from tests.edge.conftest import ScriptedServer, SpoolView
from tests.faults.victim import CAMERA, MESSAGES_A_ROUND

Streams = defaultdict[tuple[str, str], list[list[Message]]]  # (recording, stream): the messages of each segment, by seq


def waiting(folder: Path) -> Streams:
    """What waits in a robot's folder. `AssertionError` for a gap record or a hole in a stream."""
    view, found = SpoolView(Spool(folder)), Streams(list)
    for item in sorted(view.spool.waiting(), key=lambda one: one.stem):
        assert item.content_type != GAP_TYPE, item
        assert item.seq == len(found[item.recording, item.stream]), f"a hole before {item.stem}"
        found[item.recording, item.stream].append(list(segment.read_messages(io.BytesIO(view.body(item)))))
    return found


def stored(server: ScriptedServer) -> Streams:
    """The same of what a server has."""
    found = Streams(list)
    for key, body in sorted(server.stored.items(), key=lambda one: name_in(one[0])):
        recording, stream, seq = name_in(key)
        assert seq == len(found[recording, stream]), f"a hole before {key}"
        found[recording, stream].append(list(segment.read_messages(io.BytesIO(body))))
    return found


def name_in(target: str) -> tuple[str, str, int]:
    """The recording, stream and seq that an upload's target names."""
    found = re.search(r"recording=([^&]+)&stream=([^&]+)&seq=(\d+)", target)
    assert found is not None, target
    return found[1], found[2], int(found[3])


def check_whole(streams: Streams, *, flushed: Mapping[str, int]) -> None:
    """Each recording holds the rounds that were flushed, then perhaps more, without a hole or a repetition."""
    recordings = {recording for recording, _ in streams}
    assert flushed.keys() <= recordings, "a recorder that had started has left nothing"
    for recording in recordings:
        rounds = flushed.get(recording, 0)
        told = [message for part in streams[recording, "telemetry"] for message in part]
        assert [json.loads(one.data)["n"] for one in told] == list(range(len(told)))
        assert len(told) >= rounds * MESSAGES_A_ROUND
        for stream in (CAMERA, "_events"):
            times = [one.t_ns for part in streams[recording, stream] for one in part]
            assert times == list(range(1, len(times) + 1)), stream
            assert len(times) >= rounds, stream
        check_words(streams, recording)


def check_words(streams: Streams, recording: str) -> None:
    """The first word opens the recording, the last and no other closes it and names the last segment of each stream."""
    words = [message for part in streams[recording, "_agent"] for message in part]
    topics = [one.topic.name for one in words]
    assert topics[0] == "/recording/opened"
    assert [n for n, topic in enumerate(topics) if topic == "/recording/closed"] == [len(topics) - 1], topics
    last = {stream: len(parts) - 1 for (name, stream), parts in streams.items() if name == recording and parts}
    assert json.loads(words[-1].data)["last_seq"] == last
