"""Columns made of protobuf's bytes are those made of parsed messages, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.segment import Topic
from ray_jobs import wire_columns
from ray_jobs.flatten import fields_of, infer_types, table_schema
from ray_jobs.plain_protobuf import PlainProtobuf
from ray_jobs.protobuf_columns import columns_of_protobuf
from ray_jobs.wire_columns import columns_of_wire

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = (
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
    "sfixed64", "bool", "string", "bytes",
)  # fmt: skip
LISTS = ("double", "float", "sfixed32", "sfixed64", "fixed64", "string")


def _types() -> tuple[bytes, dict[str, Any]]:
    """`All`: a field of each kind, lists of those that lists are read of, an enum, a message in a message."""
    file = descriptor_pb2.FileDescriptorProto(name="wire.proto", package="test", syntax="proto3")
    modes = file.enum_type.add(name="Mode")
    for number in range(3):
        modes.value.add(name=f"MODE_{number}", number=number)
    one, many = FIELD.LABEL_OPTIONAL, FIELD.LABEL_REPEATED
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="z", number=1, type=FIELD.TYPE_FLOAT, label=one)
    part = file.message_type.add(name="Part")
    part.field.add(name="x", number=1, type=FIELD.TYPE_DOUBLE, label=one)
    part.field.add(name="inner", number=2, type=FIELD.TYPE_MESSAGE, type_name=".test.Inner", label=one)
    every = file.message_type.add(name="All")
    for number, name in enumerate(SCALARS, 1):
        every.field.add(name=name, number=number, type=getattr(FIELD, f"TYPE_{name.upper()}"), label=one)
    for number, name in enumerate(LISTS, 20):
        every.field.add(name=f"{name}s", number=number, type=getattr(FIELD, f"TYPE_{name.upper()}"), label=many)
    every.field.add(name="part", number=30, type=FIELD.TYPE_MESSAGE, type_name=".test.Part", label=one)
    every.field.add(name="mode", number=31, type=FIELD.TYPE_ENUM, type_name=".test.Mode", label=one)
    every.oneof_decl.add(name="_maybe")
    every.field.add(name="maybe", number=2000, type=FIELD.TYPE_INT64, label=one, proto3_optional=True, oneof_index=0)
    odd = file.message_type.add(name="Odd")
    odd.oneof_decl.add(name="either")
    odd.field.add(name="a", number=1, type=FIELD.TYPE_INT32, label=one, oneof_index=0)
    odd.field.add(name="b", number=2, type=FIELD.TYPE_INT32, label=one, oneof_index=0)
    ints = file.message_type.add(name="Ints")
    ints.field.add(name="n", number=1, type=FIELD.TYPE_INT32, label=many)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("All", "Odd", "Ints")
    found = {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}")) for name in names}
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString(), found


SCHEMA, TYPES = _types()


def topic(name: str) -> Topic:
    return Topic("/x", "protobuf", f"test.{name}", "protobuf", SCHEMA)


signed32, signed64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
unsigned32, unsigned64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=2)
floats = st.floats(width=32)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(), "float": floats, "int32": signed32, "int64": signed64, "uint32": unsigned32,
    "uint64": unsigned64, "sint32": signed32, "sint64": signed64, "fixed32": unsigned32, "fixed64": unsigned64,
    "sfixed32": signed32, "sfixed64": signed64, "bool": st.booleans(), "string": text, "bytes": st.binary(max_size=2),
    "doubles": st.lists(st.floats(), max_size=2), "floats": st.lists(floats, max_size=2),
    "sfixed32s": st.lists(signed32, max_size=2), "sfixed64s": st.lists(signed64, max_size=2),
    "fixed64s": st.lists(unsigned64, max_size=2), "strings": st.lists(text, max_size=2),
    "part": st.fixed_dictionaries({"x": st.floats(), "inner": st.fixed_dictionaries({"z": floats})}),
    "mode": st.integers(0, 2), "maybe": signed64,
}  # fmt: skip
messages = st.fixed_dictionaries({"part": VALUES["part"]}, optional={n: v for n, v in VALUES.items() if n != "part"})
FULL: dict[str, Any] = {
    **dict.fromkeys(SCALARS, 1), "bool": True, "string": "aü", "bytes": b"\xff", "doubles": [0.5, -0.0],
    "floats": [1.5], "sfixed32s": [-1], "sfixed64s": [-2, 3], "fixed64s": [4], "strings": ["ü", "", "b"],
    "part": {"x": 2.5, "inner": {"z": 1.25}}, "mode": 2, "maybe": -1,
}  # fmt: skip


def schema_of(name: str, *values: bytes) -> pa.Schema:
    plain = PlainProtobuf(typed_arrays=True)
    types = infer_types((plain(TYPES[name].FromString(value)) for value in values), typed=True)
    lists = {(f"{kind}s",): pa.list_(pa.string() if kind == "string" else pa.float64()) for kind in LISTS}
    return table_schema(({**lists, **types}) if name == "All" else types)


def agree(schema: pa.Schema, name: str, encoded: Sequence[bytes]) -> bool:
    """Whether they were made at once; then they must be the same."""
    fields = fields_of(schema)
    found = columns_of_wire(fields, topic(name), encoded)
    if found is None:
        return False
    expected = columns_of_protobuf(fields, [TYPES[name].FromString(one) for one in encoded])
    assert expected is not None
    assert found.keys() == expected.keys()
    for column, values in found.items():
        values.validate(full=True)
        assert values.type == expected[column].type
        assert repr(values.to_pylist()) == repr(expected[column].to_pylist())
    return True


def test_every_kind_of_field_is_read_from_its_bytes() -> None:
    other = {**FULL, "double": -7.5, "int32": 100, "string": "bü", "sint32": -50, "doubles": [9, 1e300], "mode": 1}
    encoded = [TYPES["All"](**one).SerializeToString() for one in (FULL, other, FULL, {**FULL, "int64": 2**40})]
    assert agree(schema_of("All", *encoded), "All", encoded * 40)


@given(st.lists(messages, min_size=1, max_size=3), st.lists(messages, min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_columns_of_any_messages_are_those_of_parsed_ones(first: list[Any], more: list[Any]) -> None:
    encoded = [TYPES["All"](**one).SerializeToString() for one in (*first, *more)]
    agree(schema_of("All", *encoded[: len(first)]), "All", encoded)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=3))
@settings(deadline=None, max_examples=300)
def test_damaged_bytes_are_none_or_what_a_parser_makes_of_them(damages: list[tuple[int, int]]) -> None:
    plain = TYPES["All"](**FULL).SerializeToString()
    torn = bytearray(plain)
    for at, byte in damages:
        torn[at % len(torn)] = byte
    for encoded in ([plain, bytes(torn)] * 70, [bytes(torn)]):
        try:
            agree(schema_of("All", plain), "All", encoded)
        except DecodeError:
            assert columns_of_wire(fields_of(schema_of("All", plain)), topic("All"), encoded) is None


def test_numbers_that_grow_are_a_few_layouts_in_their_order() -> None:
    encoded = [
        TYPES["All"](**{**FULL, "uint64": 100 + 3 * n, "int32": 16_000 + n}).SerializeToString() for n in range(500)
    ]
    assert len({len(one) for one in encoded}) > 2
    assert agree(schema_of("All", *encoded[:2]), "All", encoded)


@pytest.mark.parametrize(
    "changed",
    [
        {"part": None}, {"part": {"x": 1}}, {"fixed64": 2**63}, {"sfixed64s": [2**53 + 1, 1]},
        {"fixed64s": [2**53 + 1]}, {"doubles": [1]},
    ],
)  # fmt: skip
def test_a_message_that_its_columns_cannot_hold_needs_a_closer_look(changed: dict[str, Any]) -> None:
    plain = TYPES["All"](**FULL).SerializeToString()
    odd = TYPES["All"](**{**FULL, **changed}).SerializeToString()
    schema = schema_of("All", plain, plain)
    assert agree(schema, "All", [plain] * 100)
    assert columns_of_wire(fields_of(schema), topic("All"), [plain] * 100 + [odd]) is None


@pytest.mark.parametrize("more", [b"\xf8\x7f\x01", b"\x08\x01", b"\x0b\x0c", b"\xa2\x01\x00"])
def test_what_is_unknown_comes_twice_or_ends_early_needs_a_closer_look(more: bytes) -> None:
    plain = TYPES["All"](**FULL).SerializeToString()
    schema = schema_of("All", plain)
    assert agree(schema, "All", [plain])
    assert columns_of_wire(fields_of(schema), topic("All"), [plain + more]) is None


def test_choices_and_packed_numbers_of_any_length_need_a_closer_look() -> None:
    for name, value in (("Odd", {"a": 1}), ("Ints", {"n": [1, 300]})):
        encoded = TYPES[name](**value).SerializeToString()
        assert columns_of_wire(fields_of(schema_of(name, encoded)), topic(name), [encoded]) is None


def test_too_many_layouts_need_a_closer_look() -> None:
    encoded = [TYPES["All"](**{**FULL, "string": "x" * n}).SerializeToString() for n in range(1, 40)] * 100
    schema = schema_of("All", *encoded[:2])
    assert agree(schema, "All", encoded[:3] * 200)
    assert columns_of_wire(fields_of(schema), topic("All"), encoded) is None
    assert np.unique([len(one) for one in encoded]).size > wire_columns._MAX_LAYOUTS
