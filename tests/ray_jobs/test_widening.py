"""Whatever messages a topic's next software sends, each of their fields is found again in some column."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from ray_jobs.column_types import MISFIT, fit, type_of
from ray_jobs.flatten import MAX_COLUMNS, fields_of, infer_types, leaves, table_schema, to_batch, widened
from ray_jobs.widening import MARK, Needed, columns, needed

OWN_ROW = {"robot_id": "r", "recording_id": "x", "stream": "telemetry", "seq": 0, "t_ns": 1, "sequence": 0}
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text("ab\u00e4", max_size=3)
    | st.binary(max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abAB_."), inner, max_size=4),
    max_leaves=6,
)
messages = st.dictionaries(st.sampled_from("abcAB_."), values, max_size=5)
segments = st.lists(st.lists(messages, min_size=1, max_size=3), min_size=1, max_size=4)


def grown(schema: pa.Schema, segment: Sequence[Any], *, typed: bool) -> pa.Schema:
    """As the job does it: one look with what there is, a second one with what was lacking."""
    lacking: Needed = {}
    for message in segment:
        lacking |= needed(leaves(message), fields_of(schema), typed=typed)
    return widened(schema, columns(lacking))


def told(schema: pa.Schema, row: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The leaves that stand in columns, and those that stand in `extra`."""
    found = []
    for path, field in fields_of(schema).items():
        if row[field.name] is not None:
            found.append(frozen(path[:-1] if path[-1].startswith(MARK) else path, row[field.name]))
    return sorted(found), sorted(frozen(path, value) for path, value in leaves(json.loads(row["extra"] or "{}")))


def frozen(path: tuple[str, ...], value: Any) -> tuple[tuple[str, ...], str]:
    """Numbers by their value, bytes and infinities by their text: so a column and JSON tell the same of the same."""
    return path, json.dumps(plain(value))


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [[key, plain(item)] for key, item in items]
    exact = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53
    return float(value) if exact else value


@example([[{"a": [[math.inf]]}]], False)
@given(segments, st.booleans())
def test_every_field_of_every_message_is_found_again(sent: list[list[Any]], typed: bool) -> None:
    schema = table_schema(infer_types(sent[0], typed=typed))
    for segment in sent:
        before, schema = schema, grown(schema, segment, typed=typed)
        assert schema.names[: len(before.names)] == before.names
        assert len({name.lower() for name in schema.names}) == len(schema.names)
        rows = to_batch(schema, [OWN_ROW] * len(segment), segment).to_pylist()
        for message, row in zip(segment, rows, strict=True):
            in_columns, in_extra = told(schema, row)
            fields = [(path, value) for path, value in leaves(message) if value is not None]
            by_type = [(path, value) for path, value in fields if has_column(value, typed=typed)]
            assert {frozen(path, value) for path, value in by_type} <= set(in_columns)
            without_bytes = [(path, value) for path, value in fields if "bytes" not in frozen(path, value)[1]]
            wanted = {frozen(path, value) for path, value in without_bytes}
            assert wanted <= {*in_columns, *in_extra}


def has_column(value: Any, *, typed: bool) -> bool:
    """Whether there is a type of column that takes a value as it is."""
    kind = type_of(value, typed=typed)
    return kind is not None and fit(value, kind) is not MISFIT


def test_a_field_of_another_type_goes_beside_and_the_first_keeps_its_column() -> None:
    schema = table_schema(infer_types([{"x": 1}], typed=True))
    schema = grown(schema, [{"x": 2.5}, {"x": "a"}, {"x": [1.0]}, {"x": 3}], typed=True)
    rows = to_batch(schema, [OWN_ROW] * 4, [{"x": 2.5}, {"x": "a"}, {"x": [1.0]}, {"x": 3}]).to_pylist()
    found = [{name: value for name, value in row.items() if name not in OWN_ROW and value is not None} for row in rows]
    assert found == [{"x_as_double": 2.5}, {"x_as_string": "a"}, {"x_as_doubles": [1.0]}, {"x": 3}]


def test_two_types_of_a_new_field_are_parted_at_once() -> None:
    schema = grown(table_schema({}), [{"x": "a"}, {"x": 1.5}], typed=False)
    assert schema.names[-3:] == ["extra", "x", "x_as_double"]


def test_a_field_may_be_named_as_a_column_beside_another() -> None:
    sent = [{"x": 1.0, "x_as_string": "own"}, {"x": "other", "x_as_string": "own"}]
    schema = grown(table_schema({}), sent, typed=False)
    rows = to_batch(schema, [OWN_ROW] * 2, sent).to_pylist()
    assert [(row["x_as_string"], row["x_as_string_"]) for row in rows] == [("own", None), ("own", "other")]


def test_a_table_stops_growing_and_nothing_is_lost() -> None:
    schema = table_schema(infer_types([{f"f{n}": n for n in range(MAX_COLUMNS - 1)}], typed=False))
    schema = grown(schema, [{"a": 1, "b": 2, "c": 3}], typed=False)
    (row,) = to_batch(schema, [OWN_ROW], [{"a": 1, "b": 2, "c": 3}]).to_pylist()
    assert (row["a"], json.loads(row["extra"])) == (1.0, {"b": 2, "c": 3})
    assert len(fields_of(schema)) == MAX_COLUMNS
