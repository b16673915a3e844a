"""Protobuf messages as plain values. How each field is read is worked out once a type, not once a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtobufMessage

_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: np.int32,
    FieldDescriptor.CPPTYPE_INT64: np.int64,
    FieldDescriptor.CPPTYPE_UINT32: np.uint32,
    FieldDescriptor.CPPTYPE_UINT64: np.uint64,
    FieldDescriptor.CPPTYPE_DOUBLE: np.float64,
    FieldDescriptor.CPPTYPE_FLOAT: np.float32,
    FieldDescriptor.CPPTYPE_ENUM: np.int32,
    FieldDescriptor.CPPTYPE_BOOL: np.bool_,
}

Read = Callable[[ProtobufMessage], Any]


class PlainProtobuf:
    """Every field of a message's type by its name; None where it has presence and is not set.

    typed_arrays  repeated numbers are 1-D arrays of their type; else lists
    wanted        of a message that has all of these fields, they are all that is read
    """

    def __init__(self, *, typed_arrays: bool, wanted: frozenset[str] | None = None) -> None:
        self._typed_arrays = typed_arrays
        self._wanted = wanted
        self._fields: dict[str, list[tuple[str, Read]]] = {}  # a type's full name → its fields
        self._outer: dict[str, list[tuple[str, Read]]] = {}  # the same of those that are wanted

    def __call__(self, message: ProtobufMessage) -> dict[str, Any]:
        descriptor = message.DESCRIPTOR
        fields = self._outer.get(descriptor.full_name)
        if fields is None:
            known = {field.name for field in descriptor.fields}
            names = self._wanted if self._wanted and self._wanted <= known else known
            fields = [(field.name, self._reading(field)) for field in descriptor.fields if field.name in names]
            self._outer[descriptor.full_name] = fields
        return {name: read(message) for name, read in fields}

    def _whole(self, message: ProtobufMessage) -> dict[str, Any]:
        descriptor = message.DESCRIPTOR
        fields = self._fields.get(descriptor.full_name)
        if fields is None:
            fields = [(field.name, self._reading(field)) for field in descriptor.fields]
            self._fields[descriptor.full_name] = fields
        return {name: read(message) for name, read in fields}

    def _reading(self, field: Any) -> Read:
        name = field.name
        if field.is_repeated:
            return self._reading_repeated(field)
        if field.message_type:
            return lambda message: self._whole(getattr(message, name)) if message.HasField(name) else None
        if field.has_presence:
            return lambda message: getattr(message, name) if message.HasField(name) else None
        return lambda message: getattr(message, name)

    def _reading_repeated(self, field: Any) -> Read:
        name, kind = field.name, _NUMBERS.get(field.cpp_type)
        if field.message_type and field.message_type.GetOptions().map_entry:
            return lambda message: {str(key): self._item(item) for key, item in getattr(message, name).items()}
        if field.message_type:
            return lambda message: [self._whole(item) for item in getattr(message, name)]
        if kind and self._typed_arrays:
            return lambda message: np.array(getattr(message, name)[:], kind)
        return lambda message: getattr(message, name)[:]  # a list, in a third of the time that list() takes

    def _item(self, item: Any) -> Any:
        return self._whole(item) if isinstance(item, ProtobufMessage) else item
