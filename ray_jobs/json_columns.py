"""JSON messages of one shape as columns at once, by Arrow's own reader: no Python object is made for a value.

Arrow reads lines of JSON into columns of given types, and refuses fields that have none, values of another type and
keys that come twice. What it takes otherwise than `flatten.split` does is looked for here; then, and where it refuses,
the answer is None: look at each message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from ray_jobs.column_types import Path, as_vectors
from ray_jobs.widening import MARK

_NEGATIVE_ZERO = re.compile(rb"-0(?![.eE])")  # an integer, whose sign is nothing
_EXACT = 2.0**53  # from here on a double may stand for an integer that has lost digits
_READ = {pa.float64(), pa.bool_(), pa.string()}
Tree = dict[str, Any]  # name → column, or the tree of the object's fields


def columns_of_json(fields: Mapping[Path, pa.Field], encoded: Sequence[bytes]) -> dict[str, pa.Array] | None:
    """Column → values of all messages; None where one of them needs a closer look."""
    own = {path: column for path, column in fields.items() if not path[-1].startswith(MARK)}
    tree = _tree({path: column for path, column in own.items() if _item(column.type) in _READ})
    lines = b"\n".join(encoded)
    if not tree or not _is_an_object_a_line(lines, len(encoded)) or not _is_text(lines):
        return None
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(lines),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(_schema(tree)), unexpected_field_behavior="error"
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    found: dict[str, pa.Array] = {}
    # a line begins and ends an object, so none reaches into the next one, and none holds several if the sum is right
    if table.num_rows != len(encoded) or not _take(found, tree, table.combine_chunks().to_batches()[0], lines):
        return None
    lacking = {column.name: pa.nulls(len(encoded), column.type) for column in fields.values()}
    return lacking | found


def _item(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_) else type_


def _is_an_object_a_line(lines: bytes, count: int) -> bool:
    """Whether no message has a line break, and each begins with { and ends with }."""
    if not lines.startswith(b"{") or not lines.endswith(b"}"):
        return False
    characters = np.frombuffer(lines, np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    braces = (characters[ends - 1] == ord("}")) & (characters[ends + 1] == ord("{"))
    return len(ends) == count - 1 and bool(braces.all())


def _is_text(lines: bytes) -> bool:
    """Arrow asks no questions about the encoding."""
    try:
        return lines.isascii() or bool(lines.decode())
    except UnicodeDecodeError:
        return False


def _tree(fields: Mapping[Path, pa.Field]) -> Tree | None:
    """None where a field is a value and an object."""
    tree: Tree = {}
    for path, column in fields.items():
        inside: Any = tree
        for name in path[:-1]:
            inside = inside.setdefault(name, {})
            if not isinstance(inside, dict):
                return None
        if path[-1] in inside:
            return None
        inside[path[-1]] = column
    return tree


def _schema(tree: Tree) -> list[pa.Field]:
    return [
        pa.field(name, pa.struct(_schema(inside)) if isinstance(inside, dict) else _as_read(inside.type))
        for name, inside in tree.items()
    ]


def _as_read(type_: pa.DataType) -> pa.DataType:
    return pa.list_(type_.value_type) if pa.types.is_fixed_size_list(type_) else type_


def _take(found: dict[str, pa.Array], tree: Tree, values: Any, lines: bytes) -> bool:
    """Add the columns of an object's fields; whether all of them are what the messages say."""
    for name, inside in tree.items():
        column = values.field(name) if isinstance(values, pa.StructArray) else values.column(name)
        if isinstance(inside, dict):
            # {} and null are words of their own, and Arrow does not tell them from an object whose fields are null
            if column.null_count or not _has_values(column) or not _take(found, inside, column, lines):
                return False
        else:
            fitted = _fitted(column, inside.type, lines)
            if fitted is None:
                return False
            found[inside.name] = fitted
    return True


def _has_values(objects: Any) -> bool:
    """Whether each object has a field with a value."""
    some = np.zeros(len(objects), bool)
    for number in range(objects.type.num_fields):
        some |= objects.field(number).is_valid().to_numpy(zero_copy_only=False)
    return bool(some.all())


def _fitted(column: Any, type_: pa.DataType, lines: bytes) -> pa.Array | None:
    """A column as its table has it; None where a value may be something else."""
    items = column.values if pa.types.is_list(column.type) else column
    if pa.types.is_float64(items.type):
        if not _are_plain(items, lines):
            return None
    elif items is not column and items.null_count:
        return None
    return as_vectors(column, type_) if pa.types.is_fixed_size_list(type_) else column


def _are_plain(numbers: Any, lines: bytes) -> bool:
    """Numbers that are the same whether they were written as integers or not, and that JSON has words for."""
    found = numbers.drop_null().to_numpy()
    if not bool((np.abs(found) < _EXACT).all()):
        return False
    return not bool(np.signbit(found[found == 0]).any()) or not _NEGATIVE_ZERO.search(lines)
