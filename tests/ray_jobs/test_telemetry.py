"""Messages of many segments become rows together, in the order of their segments, whatever is odd among them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from edge.segment import Message, Topic, build
from edge.wire import SegmentId
from ray_jobs import telemetry
from ray_jobs.flatten import EXTRA
from ray_jobs.telemetry import Held

PLAIN = Topic("/arm", "json")
DECLARED = Topic("/arm", "json", "Arm", "jsonschema", b'{"type":"object"}')
CDR = Topic("/arm", "cdr", "std_msgs/msg/Float64", "ros2msg", b"float64 n\n")


def held(seq: int, *messages: tuple[Topic, bytes]) -> list[Held]:
    built = build(Message(topic, 1000 * seq + n, n, data) for n, (topic, data) in enumerate(messages))
    assert built
    return telemetry.read(SegmentId(f"robot-{seq % 2}", "01J00000000000000000000000", "telemetry", seq), built[1])


def rows(batches: list[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize("cached_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("odd", [b'{"n":"x"}', b'{"n":1,"more":2}', b"torn"])
def test_one_odd_segment_among_others_changes_nothing_about_them(
    odd: bytes, cached_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "CACHED_BYTES", cached_bytes)
    bodies = [[json.dumps({"n": 10 * seq + n}).encode() for n in range(3)] for seq in range(9)]
    bodies[5][1] = odd
    segments = [held(seq, *((PLAIN, data) for data in body)) for seq, body in enumerate(bodies)]
    schema = telemetry.infer_schema(segments[0][0].messages.messages())

    loaded = telemetry.load(schema, [one for segment in segments for one in segment])

    found = rows(loaded.batches)
    numbers = [10 * (n // 3) + n % 3 for n in range(27)]
    assert [row["n"] for row in found] == [*numbers[:16], 1 if b"more" in odd else None, *numbers[17:]]
    assert [row["seq"] for row in found] == [n // 3 for n in range(27)]
    assert [row["robot_id"] for row in found] == [f"robot-{n // 3 % 2}" for n in range(27)]
    assert [row["t_ns"] for row in found] == [1000 * (n // 3) + n % 3 for n in range(27)]
    assert [row["sequence"] for row in found] == [n % 3 for n in range(27)]
    assert [n for n, row in enumerate(found) if row[EXTRA]] == [16]
    assert loaded.undecoded == (odd == b"torn")
    assert bool(loaded.needed) == (odd != b"torn")


def test_a_topic_whose_description_changes_within_a_segment_keeps_its_order() -> None:
    numbers = [(PLAIN, b'{"n":0}'), (DECLARED, b'{"n":1}'), (PLAIN, b'{"n":2}'), (PLAIN, b'{"n":3}'), (CDR, bytes(12))]
    segment = held(0, *numbers)
    assert [len(one.messages.data) for one in segment] == [1, 1, 2, 1]

    loaded = telemetry.load(telemetry.infer_schema(segment[0].messages.messages()), segment)

    assert [row["n"] for row in rows(loaded.batches)] == [0, 1, 2, 3, 0]
    assert [row["sequence"] for row in rows(loaded.batches)] == [0, 1, 2, 3, 4]


def test_what_robots_log_over_and_over_is_one_batch() -> None:
    segments = [one for seq in range(5) for one in held(seq, (PLAIN, b'{"q":[1,2.5]}'), (PLAIN, b'{"q":[3,4]}'))]
    loaded = telemetry.load(telemetry.infer_schema(segments[0].messages.messages()), segments)
    assert [batch.num_rows for batch in loaded.batches] == [10]
    assert loaded.batches[0]["q"].type == pa.list_(pa.float64(), 2)
