"""Columns made of protobuf messages at once are those made message by message, or none."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.flatten import EXTRA, fields_of, infer_types, table_schema, to_batch
from ray_jobs.plain_protobuf import PlainProtobuf
from ray_jobs.protobuf_columns import columns_of_protobuf

FIELD = descriptor_pb2.FieldDescriptorProto
OWN_ROW = {"robot_id": "r", "recording_id": "x", "stream": "telemetry", "seq": 0, "t_ns": 1, "sequence": 2}
# name → (type, whether it is a list)
KINDS = {
    "double": (FIELD.TYPE_DOUBLE, False),
    "float": (FIELD.TYPE_FLOAT, False),
    "int64": (FIELD.TYPE_INT64, False),
    "uint64": (FIELD.TYPE_UINT64, False),
    "bool": (FIELD.TYPE_BOOL, False),
    "string": (FIELD.TYPE_STRING, False),
    "bytes": (FIELD.TYPE_BYTES, False),
    "doubles": (FIELD.TYPE_DOUBLE, True),
    "floats": (FIELD.TYPE_FLOAT, True),
    "int64s": (FIELD.TYPE_INT64, True),
    "strings": (FIELD.TYPE_STRING, True),
}


def _types() -> dict[str, Any]:
    """`All` has a field of each kind and a `Part`; `Truths` has a list of truth values, which has no column."""
    file = descriptor_pb2.FileDescriptorProto(name="all.proto", package="test", syntax="proto3")
    part = file.message_type.add(name="Part")
    part.field.add(name="x", number=1, type=FIELD.TYPE_DOUBLE, label=FIELD.LABEL_OPTIONAL)
    every = file.message_type.add(name="All")
    for number, (name, (kind, repeated)) in enumerate(KINDS.items(), 2):
        label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
        every.field.add(name=name, number=number, type=kind, label=label)
    every.field.add(name="part", number=1, type=FIELD.TYPE_MESSAGE, type_name=".test.Part", label=FIELD.LABEL_OPTIONAL)
    truths = file.message_type.add(name="Truths")
    truths.field.add(name="truths", number=1, type=FIELD.TYPE_BOOL, label=FIELD.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("All", "Truths")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}")) for name in names}


TYPES = _types()
int64s = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(width=32)
messages = st.builds(
    TYPES["All"],
    part=st.none() | st.fixed_dictionaries({"x": st.floats()}),
    double=st.floats(),
    float=floats,
    int64=int64s,
    uint64=st.integers(0, 2**64 - 1),
    bool=st.booleans(),
    string=st.text(st.characters(exclude_categories=["Cs"]), max_size=2),
    bytes=st.binary(max_size=2),
    doubles=st.lists(st.floats(), max_size=2),
    floats=st.lists(floats, max_size=2),
    int64s=st.lists(int64s, max_size=2),
    strings=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=1), max_size=2),
)


def _schema(messages: list[Any]) -> pa.Schema:
    plain = PlainProtobuf(typed_arrays=True)
    return table_schema(infer_types(map(plain, messages), typed=True))


@given(st.lists(messages, min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_columns_made_at_once_are_those_made_message_by_message(values: list[Any]) -> None:
    schema = _schema(values)

    found = columns_of_protobuf(fields_of(schema), values)

    one_by_one = to_batch(schema, [OWN_ROW] * len(values), [PlainProtobuf(typed_arrays=True)(one) for one in values])
    if found is not None:
        assert one_by_one[EXTRA].null_count == len(values)
        for name, column in found.items():
            assert column.type == one_by_one[name].type
            assert repr(column.to_pylist()) == repr(one_by_one[name].to_pylist())  # NaN is like itself
    whole = all(one.HasField("part") and one.uint64 < 2**63 for one in values)
    exact = all(abs(number) <= 2**53 for one in values for number in one.int64s)
    known = any(one.strings for one in values)  # else the list has no column
    assert (found is not None) == (whole and exact and known)


@pytest.mark.parametrize("changed", [{"part": None}, {"uint64": 2**63}, {"int64s": [2**53 + 1]}])
def test_a_message_that_its_columns_cannot_hold_needs_a_closer_look(changed: dict[str, Any]) -> None:
    sound = {"part": {"x": 1.5}, "int64s": [1], "strings": ["a"]}
    values = [TYPES["All"](**sound), TYPES["All"](**{**sound, **changed})]
    schema = _schema(values[:1])

    assert columns_of_protobuf(fields_of(schema), values[:1]) is not None
    assert columns_of_protobuf(fields_of(schema), values) is None


def test_a_field_without_a_column_needs_a_closer_look() -> None:
    values = [TYPES["Truths"](truths=[True])]
    assert columns_of_protobuf(fields_of(_schema(values)), values) is None


def test_a_column_that_the_type_no_longer_has_is_null() -> None:
    later = table_schema({("truths",): pa.string()})
    older = fields_of(pa.schema([*_schema([TYPES["All"](part={"x": 1}, strings=["a"])]), later.field("truths")]))

    found = columns_of_protobuf(older, [TYPES["All"](part={"x": 2})])

    assert found is not None
    assert found["truths"].to_pylist() == [None]
    assert found["part_x"].to_pylist() == [2.0]


def test_a_column_of_another_type_needs_a_closer_look() -> None:
    """The topic's type has changed since its table was made."""
    value = TYPES["All"](part={"x": 1}, strings=["a"], int64=7)
    types = infer_types([PlainProtobuf(typed_arrays=True)(value)], typed=True)
    schema = table_schema({**types, ("int64",): pa.float64()})

    assert columns_of_protobuf(fields_of(schema), [value]) is None
