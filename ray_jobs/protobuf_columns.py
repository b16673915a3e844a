"""Protobuf messages of one type as columns at once, as `columns.py` does it for plain values.

Their type says what every value is: nothing has to be looked at but whether a part is set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtobufMessage

from ray_jobs.column_types import Path, as_vectors

_TYPES = {
    FieldDescriptor.CPPTYPE_INT32: pa.int64(),
    FieldDescriptor.CPPTYPE_INT64: pa.int64(),
    FieldDescriptor.CPPTYPE_UINT32: pa.int64(),
    FieldDescriptor.CPPTYPE_UINT64: pa.int64(),
    FieldDescriptor.CPPTYPE_ENUM: pa.int64(),
    FieldDescriptor.CPPTYPE_DOUBLE: pa.float64(),
    FieldDescriptor.CPPTYPE_FLOAT: pa.float64(),
    FieldDescriptor.CPPTYPE_BOOL: pa.bool_(),
    FieldDescriptor.CPPTYPE_STRING: pa.string(),
}
_LIST_ITEMS = {pa.int64(): pa.float64(), pa.float64(): pa.float64(), pa.string(): pa.string()}  # of column_types.py


def columns_of_protobuf(
    fields: Mapping[Path, pa.Field], messages: Sequence[ProtobufMessage]
) -> dict[str, pa.Array] | None:
    """Column → values of all messages, which are of one type; None where one of them needs a closer look."""
    found: dict[Path, pa.Array] = {}
    try:
        if not _take(found, (), fields, messages):
            return None
    except (pa.ArrowInvalid, OverflowError):  # an integer that its column cannot hold
        return None
    nothing = {path: pa.nulls(len(messages), column.type) for path, column in fields.items() if path not in found}
    return {fields[path].name: values for path, values in (found | nothing).items()}


def _take(
    found: dict[Path, pa.Array], path: Path, fields: Mapping[Path, pa.Field], messages: Sequence[ProtobufMessage]
) -> bool:
    """Add the columns of the fields below `path`; whether each has its column, and each part is set."""
    for field in messages[0].DESCRIPTOR.fields:
        name, here = field.name, (*path, field.name)
        if field.message_type and not field.is_repeated:
            if not field.message_type.fields or not all(message.HasField(name) for message in messages):
                return False
            if not _take(found, here, fields, [getattr(message, name) for message in messages]):
                return False
        else:
            values = _column(fields[here].type, field, messages) if here in fields else None
            if values is None:
                return False
            found[here] = values
    return True


def _column(column_type: pa.DataType, field: Any, messages: Sequence[ProtobufMessage]) -> pa.Array | None:
    """None where its column is of another type, or a vector and a list is of another size."""
    type_ = type_of_field(field)
    if type_ == column_type:
        return pa.array(_values(field, messages), type_)
    if pa.types.is_fixed_size_list(column_type) and type_ == pa.list_(column_type.value_type):
        return as_vectors(pa.array(_values(field, messages), type_), column_type)
    return None


def type_of_field(field: Any) -> pa.DataType | None:
    """The column type of a field; None where it has none: lists of messages, of bytes, of truth values."""
    one = pa.binary() if field.type == FieldDescriptor.TYPE_BYTES else _TYPES.get(field.cpp_type)
    if not field.is_repeated or one is None:
        return one
    return pa.list_(_LIST_ITEMS[one]) if one in _LIST_ITEMS else None


def _values(field: Any, messages: Sequence[ProtobufMessage]) -> list[Any]:
    name = field.name
    if field.is_repeated:
        return [getattr(message, name)[:] for message in messages]
    if field.has_presence:
        return [getattr(message, name) if message.HasField(name) else None for message in messages]
    return [getattr(message, name) for message in messages]
