"""Columns made at once are those made message by message, or none."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.segment import Message, Topic, build
from edge.wire import SegmentId
from ray_jobs import telemetry
from ray_jobs.columns import columns_of
from ray_jobs.flatten import EXTRA, fields_of, infer_types, table_schema, to_batch

SEGMENT = SegmentId("r", "01J00000000000000000000000", "telemetry", 0)
OWN_ROW = {"robot_id": "r", "recording_id": "x", "stream": "telemetry", "seq": 0, "t_ns": 1, "sequence": 2}
STATE = {
    "frame": "base",
    "on": True,
    "position": [0.5, 1],
    "name": ["a", "b"],
    "pose": {"x": 1.5, "at": {"z": 2}},
}

numbers = st.integers(-(2**70), 2**70) | st.floats() | st.booleans()
lists = st.lists(numbers | st.none(), max_size=2) | st.lists(st.text(max_size=1))
leaf = st.none() | numbers | st.text(max_size=2) | lists
names = st.sampled_from(["a", "b", "c"])
messages = st.lists(st.dictionaries(names, leaf | st.dictionaries(names, leaf, max_size=2), max_size=3), min_size=1)


@given(messages, st.booleans())
@settings(deadline=None)
def test_columns_made_at_once_are_those_made_message_by_message(values: list[Any], typed: bool) -> None:
    schema = table_schema(infer_types(values[:1], typed=typed))

    found = columns_of(fields_of(schema), values)

    one_by_one = to_batch(schema, [OWN_ROW] * len(values), values)
    if found is not None:
        assert one_by_one[EXTRA].null_count == len(values)
        assert all(column.equals(one_by_one[name]) or _same(column, one_by_one[name]) for name, column in found.items())


def _same(column: pa.Array, other: pa.Array) -> bool:
    """Equal but for NaN, which Arrow holds to be like nothing."""
    return column.type == other.type and repr(column.to_pylist()) == repr(other.to_pylist())


def test_what_a_robot_logs_over_and_over_is_made_at_once() -> None:
    more = [{**STATE, "position": [None, 2]}, {**STATE, "position": None, "pose": {"x": None, "at": {"z": 3.5}}}]
    schema = table_schema(infer_types([STATE], typed=False))

    found = columns_of(fields_of(schema), [STATE, *more])

    assert found is not None
    assert found["pose_at_z"].to_pylist() == [2.0, 2.0, 3.5]
    assert found["position"].to_pylist() == [[0.5, 1.0], [None, 2.0], None]


@pytest.mark.parametrize(
    ("changed", "extra"),
    [
        ({"on": 1}, '{"on":1}'),
        ({"position": [True]}, '{"position":[true]}'),
        ({"position": [2**53 + 1]}, '{"position":[9007199254740993]}'),
        ({"position": [2**70]}, '{"position":[1180591620717411303424]}'),
        ({"more": None}, '{"more":null}'),
        ({"pose": None}, '{"pose":null}'),
        ({"pose": {}}, '{"pose":{}}'),
        ({"frame": {"id": "base"}}, '{"frame":{"id":"base"}}'),
        ({"name": ["a", None]}, '{"name":["a",null]}'),
    ],
)
def test_one_message_that_does_not_fit_keeps_all_it_says(changed: dict[str, Any], extra: str) -> None:
    """Among others that do, in a segment as robots send it."""
    schema = table_schema(infer_types([STATE], typed=False))
    topic = Topic("/state", "json")
    values = [STATE, {**STATE, **changed}, STATE]
    built = build(Message(topic, n, n, json.dumps(value).encode()) for n, value in enumerate(values))
    assert built

    loaded = telemetry.load(schema, telemetry.read(SEGMENT, built[1]))

    assert loaded.batches[0][EXTRA].to_pylist() == [None, extra, None]
    assert loaded.batches[0]["frame"].to_pylist()[::2] == ["base", "base"]
    assert not loaded.undecoded
