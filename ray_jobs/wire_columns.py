"""Protobuf messages of one layout as columns at once, from their bytes: no message is parsed but the first.

Messages of equal length are the rows of a matrix of bytes. Where the bytes between the values (tags and lengths) are
those of the first message in all of them, each field is the same columns of that matrix. A number of variable length
makes several layouts of one type; what has too many, or anything that a plain message has not, is None: parse them.
Encoding: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor
from numpy.typing import NDArray

from edge.segment import Topic
from ray_jobs.column_types import Path
from ray_jobs.messages import protobuf_parser
from ray_jobs.protobuf_columns import type_of_field

Bytes = NDArray[np.uint8]

_MAX_LAYOUTS, _EACH_OF = 16, 64  # at most, and in so many messages each
_EXACT = 2**53
_LONGEST = 10  # bytes of a number of 64 bits
_VARINT, _FIXED64, _SIZED, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED = {
    FieldDescriptor.TYPE_DOUBLE: "<f8",
    FieldDescriptor.TYPE_FLOAT: "<f4",
    FieldDescriptor.TYPE_FIXED64: "<u8",
    FieldDescriptor.TYPE_SFIXED64: "<i8",
    FieldDescriptor.TYPE_FIXED32: "<u4",
    FieldDescriptor.TYPE_SFIXED32: "<i4",
}
_VARINTS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT32,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_ENUM,
}
_SHORT = {
    FieldDescriptor.CPPTYPE_INT32: np.int32,
    FieldDescriptor.CPPTYPE_UINT32: np.uint32,
    FieldDescriptor.CPPTYPE_ENUM: np.int32,
}
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


class _NotPlain(Exception):
    """Parse these messages."""


@dataclass(slots=True)
class _Value:
    """A field that a message holds, and where: `spans` of bytes, more than one of a list of texts."""

    field: Any
    spans: list[tuple[int, int]] = field(default_factory=list)


def columns_of_wire(
    fields: Mapping[Path, pa.Field], topic: Topic, encoded: Sequence[bytes]
) -> dict[str, pa.Array] | None:
    """Column → values of all messages; None where one of them needs a closer look."""
    kind = protobuf_parser(topic)(b"").DESCRIPTOR
    try:
        parts = list(_parts(kind, fields, encoded))
    except _NotPlain:
        return None
    if len(parts) == 1:
        return parts[0][1]
    order = pa.array(np.argsort(np.concatenate([rows for rows, _ in parts])))
    names = [column.name for column in fields.values()]
    return {name: pa.concat_arrays([columns[name] for _, columns in parts]).take(order) for name in names}


def _parts(
    kind: Any, fields: Mapping[Path, pa.Field], encoded: Sequence[bytes]
) -> Iterator[tuple[NDArray[np.int64], dict[str, pa.Array]]]:
    """Numbers of the messages of one layout, and their columns."""
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    left = min(_MAX_LAYOUTS, 1 + len(encoded) // _EACH_OF)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        joined = b"".join([encoded[row] for row in rows.tolist()])
        matrix = np.frombuffer(joined, np.uint8).reshape(len(rows), size)
        while len(rows):
            if not left:
                raise _NotPlain
            left -= 1
            values, same = _layout(kind, matrix)
            yield rows[same], _columns(kind, fields, matrix[same], values)
            rows, matrix = rows[~same], matrix[~same]


def _layout(kind: Any, matrix: Bytes) -> tuple[dict[Path, _Value], NDArray[np.bool_]]:
    """The fields of the first message by their paths, and which rows of the matrix are laid out as it is."""
    values: dict[Path, _Value] = {}
    _read(values, (), kind, matrix[0].tobytes(), 0, matrix.shape[1])
    between = np.ones(matrix.shape[1], bool)
    same = np.ones(len(matrix), bool)
    for value in values.values():
        for start, end in value.spans:
            between[start:end] = False
            if value.field.type in _VARINTS:
                last = 0x7F if end - start < _LONGEST else 1  # it has the 64th bit only
                same &= (matrix[:, start : end - 1] >= 0x80).all(axis=1) & (matrix[:, end - 1] <= last)
    same &= (matrix[:, between] == matrix[0, between]).all(axis=1)
    return values, same


def _read(values: dict[Path, _Value], path: Path, kind: Any, data: bytes, at: int, end: int) -> None:
    """Add the fields of the message that `data[at:end]` holds. Each comes once, but for the items of lists of texts."""
    while at < end:
        tag, at = _varint(data, at, end)
        found = kind.fields_by_number.get(tag >> 3)
        start, at = _span(data, at, end, tag & 7)
        if found is None or _is_special(found):
            raise _NotPlain
        here = (*path, found.name)
        if found.message_type and not found.is_repeated and tag & 7 == _SIZED:
            if here in values:
                raise _NotPlain
            values[here] = _Value(found)
            _read(values, here, found.message_type, data, start, at)
        elif _is_read(found, tag & 7, at - start) and (here not in values or _is_list_of_texts(found)):
            values.setdefault(here, _Value(found)).spans.append((start, at))
        else:
            raise _NotPlain


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A tag or a length, and where it ends."""
    value = 0
    for number, byte in enumerate(data[at : min(at + 4, end)]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    raise _NotPlain


def _span(data: bytes, at: int, end: int, wire_type: int) -> tuple[int, int]:
    """Where a field's value lies, without its length."""
    if wire_type == _SIZED:
        size, at = _varint(data, at, end)
    elif wire_type == _VARINT:
        size = next((number for number, byte in enumerate(data[at : min(at + _LONGEST, end)], 1) if byte < 0x80), 2**31)
    else:
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire_type, 2**31)
    if at + size > end:
        raise _NotPlain
    return at, at + size


def _is_special(found: Any) -> bool:
    """Of a group of which one is set, a field that must be there, or one that takes only some numbers."""
    if found.is_required or (found.enum_type is not None and found.enum_type.is_closed):
        return True
    return len(found.containing_oneof.fields) > 1 if found.containing_oneof else False


def _is_read(found: Any, wire_type: int, size: int) -> bool:
    """Whether a value on the wire is one that its type leads to, and one that is read here."""
    kind: int = found.type
    is_list: bool = found.is_repeated
    if kind in _FIXED:
        width: int = np.dtype(_FIXED[kind]).itemsize
        if is_list:
            return wire_type == _SIZED and size % width == 0
        return wire_type == (_FIXED64 if width == 8 else _FIXED32)
    if kind in _VARINTS:
        return wire_type == _VARINT and not is_list
    return kind in _TEXTS and wire_type == _SIZED


def _is_list_of_texts(found: Any) -> bool:
    return bool(found.is_repeated) and found.type == FieldDescriptor.TYPE_STRING


def _columns(
    kind: Any, fields: Mapping[Path, pa.Field], matrix: Bytes, values: Mapping[Path, _Value]
) -> dict[str, pa.Array]:
    found: dict[Path, pa.Array] = {}
    _take(found, (), kind, fields, matrix, values)
    return {
        column.name: found[path] if path in found else pa.nulls(len(matrix), column.type)
        for path, column in fields.items()
    }


def _take(
    found: dict[Path, pa.Array],
    path: Path,
    kind: Any,
    fields: Mapping[Path, pa.Field],
    matrix: Bytes,
    values: Mapping[Path, _Value],
) -> None:
    """Add the columns of all fields of a message's type, those too that are not on the wire."""
    for one in kind.fields:
        here = (*path, one.name)
        value = values.get(here)
        if one.message_type and not one.is_repeated:
            if value is None or not one.message_type.fields:
                raise _NotPlain
            _take(found, here, one.message_type, fields, matrix, values)
        elif here in fields:
            found[here] = _array(one, matrix, value, fields[here].type)
        else:
            raise _NotPlain


def _array(one: Any, matrix: Bytes, value: _Value | None, column: pa.DataType) -> pa.Array:
    """The values of a field as its column has them."""
    type_ = type_of_field(one)
    size = column.list_size if pa.types.is_fixed_size_list(column) else None
    if type_ != column and (size is None or type_ != pa.list_(column.value_type)):
        raise _NotPlain
    if value is None:
        if size is not None:
            raise _NotPlain
        absent = [] if one.is_repeated else None if one.has_presence else one.default_value
        return pa.array([absent] * len(matrix), type_)
    if one.type in _TEXTS:
        return _texts(matrix, value.spans, type_)
    (start, end) = value.spans[0]
    if one.type in _VARINTS:
        return pa.array(_integers(one, matrix[:, start:end]), type_)
    numbers = np.ascontiguousarray(matrix[:, start:end]).view(_FIXED[one.type])
    return _lists(numbers, column, size) if one.is_repeated else pa.array(_exactly(numbers[:, 0], type_), type_)


def _lists(numbers: NDArray[Any], column: pa.DataType, size: int | None) -> pa.Array:
    """Rows of numbers as lists, or as vectors of this size."""
    rows, width = numbers.shape
    if numbers.dtype.kind != "f" and bool((numbers > _EXACT).any() or (numbers.astype(np.int64) < -_EXACT).any()):
        raise _NotPlain
    flat = pa.array(numbers.ravel().astype(np.float64, copy=False))
    if size is None:
        return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * width, pa.int32()), flat)
    if width != size:
        raise _NotPlain
    return pa.FixedSizeListArray.from_arrays(flat, type=column)


def _exactly(numbers: NDArray[Any], type_: pa.DataType) -> NDArray[Any]:
    if numbers.dtype == np.uint64 and bool((numbers >= 2**63).any()):
        raise _NotPlain
    return numbers.astype(np.float64 if pa.types.is_float64(type_) else np.int64)


def _integers(one: Any, groups: Bytes) -> NDArray[Any]:
    """Numbers of seven bits a byte, the lowest first."""
    number: NDArray[Any] = np.zeros(len(groups), np.uint64)
    for index in range(groups.shape[1]):
        number |= (groups[:, index] & 0x7F).astype(np.uint64) << np.uint64(7 * index)
    if one.type == FieldDescriptor.TYPE_BOOL:
        return number.astype(bool)
    if one.type == FieldDescriptor.TYPE_SINT32:
        number &= np.uint64(0xFFFFFFFF)
    if one.type in (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64):
        number = (number >> np.uint64(1)) ^ (np.uint64(0) - (number & np.uint64(1)))
    if one.cpp_type in _SHORT:
        return number.astype(_SHORT[one.cpp_type]).astype(np.int64)
    return number.view(np.int64) if one.cpp_type == FieldDescriptor.CPPTYPE_INT64 else _exactly(number, pa.int64())


def _texts(matrix: Bytes, spans: Sequence[tuple[int, int]], type_: pa.DataType) -> pa.Array:
    """Texts, or lists of them, of which each has one length in all messages."""
    where = np.concatenate([np.arange(start, end) for start, end in spans])
    widths = np.tile([end - start for start, end in spans], len(matrix))
    ends = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    content = pa.py_buffer(np.ascontiguousarray(matrix[:, where.astype(np.int64)]).tobytes())
    item = pa.binary() if pa.types.is_binary(type_) else pa.string()
    texts = pa.Array.from_buffers(item, len(widths), [None, pa.py_buffer(ends), content])
    try:
        texts.validate(full=True)  # that it is UTF-8
    except pa.ArrowInvalid:
        raise _NotPlain from None
    if not pa.types.is_list(type_):
        return texts
    return pa.ListArray.from_arrays(pa.array(np.arange(len(matrix) + 1) * len(spans), pa.int32()), texts)
