"""Messages of any shape become rows of fixed columns, and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.flatten import OWN, infer_types, leaves, table_name, table_schema, to_batch, undecoded

OWN_ROW = {"robot_id": "r", "recording_id": "x", "stream": "telemetry", "seq": 0, "t_ns": 1, "sequence": 2}
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab_.", max_size=3), inner, max_size=4),
    max_leaves=8,
)


def load(first: Any, *more: Any, typed: bool = False, json_schema: bytes = b"") -> list[dict[str, Any]]:
    """Rows of messages whose table was fixed by the first."""
    schema = table_schema(infer_types([first], typed=typed, json_schema=json_schema))
    return list(to_batch(schema, [OWN_ROW] * (1 + len(more)), [first, *more]).to_pylist())


def restored(schema: pa.Schema, row: dict[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves that a row tells of: its columns, and what stands in `extra`."""
    found = {
        tuple(json.loads(field.metadata[b"path"])): row[field.name]
        for field in schema
        if field.metadata and row[field.name] is not None
    }
    return sorted((found | dict(leaves(json.loads(row["extra"] or "{}")))).items(), key=repr)


@given(values, st.lists(values, max_size=3))
def test_no_field_of_any_message_is_lost(first: Any, others: list[Any]) -> None:
    schema = table_schema(infer_types([first], typed=False))
    batch = to_batch(schema, [OWN_ROW] * (1 + len(others)), [first, *others])
    for message, row in zip([first, *others], batch.to_pylist(), strict=True):
        told = {(path, value) for path, value in map(_frozen, restored(schema, row)) if value != "null"}
        wanted = {(path, value) for path, value in map(_frozen, leaves(message)) if value != "null"}
        empty = not message and isinstance(message, dict)
        assert told == (set() if empty else wanted)


def _frozen(leaf: tuple[tuple[str, ...], Any]) -> tuple[tuple[str, ...], str]:
    """Numbers compared by value: a JSON 1 comes back from a double column as 1.0."""
    path, value = leaf
    return path, json.dumps(_floats(value))


def _floats(value: Any) -> Any:
    if isinstance(value, list):
        return [_floats(item) for item in value]
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    exact = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53
    return float(value) if exact else value


@given(st.lists(st.text(min_size=1, max_size=6), unique=True, min_size=2))
@settings(deadline=None)
def test_no_two_topics_share_a_table(topics: list[str]) -> None:
    assert len({table_name(topic) for topic in topics}) == len(topics)


@pytest.mark.parametrize(
    ("topic", "table"),
    [
        ("/joint_states", "joint_states"),
        ("/arm/left", "arm.left"),
        ("/observation.state", "observation~2Estate"),
        ("chatter", "~~chatter"),
        ("/ü", "~C3~BC"),
    ],
)
def test_a_table_is_named_by_its_topic(topic: str, table: str) -> None:
    assert table_name(topic) == table


def test_nested_fields_are_columns_with_underscores() -> None:
    (row,) = load({"pose": {"x": 1, "frame": "map"}, "on": True, "q": [1, 2], "names": ["a"], "at": []})
    assert {name: row[name] for name in ("pose_x", "pose_frame", "on", "q", "names")} == {
        "pose_x": 1.0,
        "pose_frame": "map",
        "on": True,
        "q": [1.0, 2.0],
        "names": ["a"],
    }
    assert json.loads(row["extra"]) == {"at": []}


def test_names_that_collide_stay_apart() -> None:
    (row,) = load({"seq": 7, "a": {"b": 1}, "a_b": 2, "extra": "more"})
    assert (row["seq"], row["seq_"], row["a_b"], row["a_b_"], row["extra_"], row["extra"]) == (0, 7, 1, 2, "more", None)


def test_what_does_not_fit_exactly_is_told_in_extra() -> None:
    _, row, null = load({"a": 1, "b": True}, {"a": 2**60 + 1, "b": 1, "c": {"d": None}}, {"a": None, "b": None})
    assert (row["a"], row["b"], json.loads(row["extra"])) == (None, None, {"a": 2**60 + 1, "b": 1, "c": {"d": None}})
    assert (null["a"], null["extra"]) == (None, None)


def test_typed_encodings_keep_integers_and_bytes() -> None:
    message = {"n": 2**60 + 1, "f": 0.5, "raw": b"\x00\xff", "pixels": np.array([1, 2], np.uint8)}
    arrays = {"v": np.array([1, 2], np.float32), "none": np.zeros(0, np.int32), "big": np.array([2**60 + 1])}
    (row,) = load(message | arrays, typed=True)
    assert (row["n"], row["raw"], row["pixels"], row["v"], row["none"]) == (2**60 + 1, b"\x00\xff", b"\1\2", [1, 2], [])
    assert (row["big"], json.loads(row["extra"])) == (None, {"big": [2**60 + 1]})


def test_a_json_schema_declares_columns_that_no_message_has_yet() -> None:
    properties = {"note": {"type": ["string", "null"]}, "pose": {"type": "object", "properties": {"x": {}}}}
    nested = {"deep": {"type": "object", "properties": {"v": {"type": "array", "items": {"type": "number"}}}}}
    schema = json.dumps({"type": "object", "properties": properties | nested}).encode()
    (row,) = load({}, json_schema=schema)
    assert {name for name in row if name not in {field.name for field in OWN}} == {"note", "deep_v", "extra"}
    assert load({}, json_schema=b"{torn")[0]["extra"] is None


def test_bytes_that_are_no_message_are_kept() -> None:
    (row,) = load(undecoded(b"\xff\x00"))
    assert row["_undecoded"] == "/wA="
    assert json.loads(load({"a": 1}, undecoded(b"\xff"))[1]["extra"]) == {"_undecoded": "/w=="}
