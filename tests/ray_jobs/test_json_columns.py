"""Columns that Arrow reads of JSON are those made message by message, or none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.segment import Message, Topic
from edge.segment_reader import TopicMessages
from ray_jobs.flatten import EXTRA, fields_of, infer_types, table_schema, to_batch, undecoded, widened
from ray_jobs.json_columns import columns_of_json
from ray_jobs.messages import UNDECODED, decode_each
from ray_jobs.widening import columns

OWN_ROW = {"robot_id": "r", "recording_id": "x", "stream": "telemetry", "seq": 0, "t_ns": 1, "sequence": 2}
STATE = {"frame": "base", "on": True, "q": [0.5, 1], "name": ["a", "b"], "pose": {"x": 1.5, "at": {"z": 2}}}

numbers = st.integers(-(2**70), 2**70) | st.floats() | st.booleans() | st.sampled_from([0, -0.0, 2**53, 2**53 + 1])
lists = st.lists(numbers | st.none(), max_size=2) | st.lists(st.text(max_size=1), max_size=2)
leaf = st.none() | numbers | st.text(max_size=2) | lists
names = st.sampled_from(["a", "b", "c"])
messages = st.lists(st.dictionaries(names, leaf | st.dictionaries(names, leaf, max_size=2), max_size=3), min_size=1)


def one_by_one(schema: pa.Schema, encoded: Sequence[bytes]) -> pa.RecordBatch:
    found = decode_each(TopicMessages.of([Message(Topic("/x", "json"), 0, 0, data) for data in encoded]))
    pairs = zip(found, encoded, strict=True)
    kept = [undecoded(data) if value is UNDECODED else value for value, data in pairs]
    return to_batch(schema, [OWN_ROW] * len(encoded), kept)


def agree(schema: pa.Schema, encoded: Sequence[bytes]) -> bool:
    """Whether they were made at once; then they must be the same."""
    found = columns_of_json(fields_of(schema), encoded)
    if found is None:
        return False
    expected = one_by_one(schema, encoded)
    assert expected[EXTRA].null_count == len(encoded)
    assert set(found) == {column.name for column in fields_of(schema).values()}
    for name, column in found.items():
        column.validate(full=True)
        assert column.type == expected[name].type
        assert repr(column.to_pylist()) == repr(expected[name].to_pylist())
    return True


def schema_of(*values: Any) -> pa.Schema:
    return table_schema(infer_types(values, typed=False))


@given(messages, st.booleans())
@settings(deadline=None)
@example([{"a": 0}, {"a": -0.0}], True)
@example([{"a": [1, 2]}, {"a": [3.5, 4]}, {"a": None}], True)
def test_columns_of_any_messages_are_those_made_message_by_message(values: list[Any], ascii_only: bool) -> None:
    encoded = [json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass") for value in values]
    agree(schema_of(*values[:2]), encoded)


@given(
    st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3), st.integers(0, 3)), max_size=3),
    st.integers(1, 3),
)
@settings(deadline=None)
def test_text_that_is_damaged_anywhere_is_none_or_the_same(damages: list[tuple[int, bytes, int]], count: int) -> None:
    encoded = [json.dumps(STATE).encode()] * count
    for at, put, instead in damages:
        text = encoded[at % count]
        encoded[at % count] = text[: at % len(text)] + put + text[at % len(text) + instead :]
    agree(schema_of(STATE, STATE), encoded)


def test_what_a_robot_logs_over_and_over_is_made_at_once() -> None:
    more = [{**STATE, "q": [-0.0, 2]}, {**STATE, "q": None, "name": [], "frame": "ü", "pose": {"at": {"z": -0.0}}}]
    values = [STATE, *more, {"on": None, "pose": STATE["pose"]}]
    assert agree(schema_of(STATE), [json.dumps(one, ensure_ascii=False).encode() for one in values])
    assert agree(schema_of(STATE, STATE), [json.dumps(one).encode() for one in values])


def test_a_column_beside_another_does_not_hinder() -> None:
    schema = widened(schema_of(STATE), columns([(("q", "\0as_string"), "string")]))
    assert agree(schema, [json.dumps(STATE).encode()] * 2)


@pytest.mark.parametrize(
    "odd",
    [
        b'{"on":true,"on":false}', b'{"frame":"a","frame":"b"}', b'{"x":1}', b'{"pose":{"y":1}}',
        b'{"pose":null}', b'{"pose":{}}', b'{"pose":{"x":1,"at":{}}}', b'{"pose":{"x":1,"at":null}}',
        b'{"q":[-0,1]}', b'{"q":[9007199254740993,1]}', b'{"q":[1e999,1]}', b'{"q":[NaN,1]}', b'{"q":[Inf,1]}',
        b'{"q":[1,2,3]}', b'{"q":[1,null]}', b'{"q":[true,1]}', b'{"q":["1",1]}', b'{"q":[[1],1]}', b'{"q":1}',
        b'{"name":["a",null]}', b'{"name":"a"}', b'{"frame":7}', b'{"frame":"\xff"}', b'{"frame":"\\ud800"}',
        b'{"on":1}', b'{"on":true}\n{"on":true}', b'{"on":true}{"on":true}', b'[1]', b'1', b'', b' {"on":true}',
        b'{"on":true} ', b'{"on":true', b'{"frame":"a\nb"}', b'\xef\xbb\xbf{"on":true}', b'{"on":/**/true}',
    ],
)  # fmt: skip
def test_one_odd_message_among_others_needs_a_closer_look(odd: bytes) -> None:
    state = {name: value for name, value in STATE.items() if name != "pose" or b"pose" in odd}
    plain = json.dumps(state).encode()
    schema = schema_of(state, state)
    assert agree(schema, [plain, b'{"pose":{"x":1,"at":{"z":2}}}' if "pose" in state else b"{}", plain])
    assert not agree(schema, [plain, odd, plain])


def test_messages_that_only_together_are_as_many_objects_are_none() -> None:
    schema = schema_of({"on": True})
    assert not agree(schema, [b'{"on":true}\n{"on":true}', b'{"on":', b"true}"])
    assert not agree(schema, [b'{"on":true}\n{"on":true}', b""])


def test_a_column_of_a_type_that_json_has_not_needs_a_closer_look_where_it_is_used() -> None:
    schema = table_schema({("n",): pa.int64(), ("b",): pa.binary(), ("on",): pa.bool_()})
    assert agree(schema, [b'{"on":true}'])
    assert not agree(schema, [b'{"on":true,"n":7}'])
    assert not agree(schema, [b'{"on":true,"b":"YQ=="}'])
    assert not agree(table_schema({}), [b"{}"])
