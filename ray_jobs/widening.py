"""How a topic's table grows when its messages change: a column for a new field, one beside for another type.

A field that comes with another type than its column's gets a second column, `<column>_as_<type>`; the first stays as it
is, and a row has a value in one of them. In the schema its path ends in a mark that no field's name begins with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from ray_jobs.column_types import MISFIT, Path, fit, type_of

TYPES: dict[str, pa.DataType] = {
    "double": pa.float64(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "binary": pa.binary(),
    "doubles": pa.list_(pa.float64()),
    "strings": pa.list_(pa.string()),
}
_NAMES = {type_: name for name, type_ in TYPES.items()}
MARK = "\0as_"

Needed = dict[tuple[Path, str], None]  # paths of columns and names of their types, in the order in which they were seen


def beside(path: Path, type_: pa.DataType) -> Path:
    """The path of the second column of a field."""
    return (*path, MARK + _NAMES[type_])


def besides(path: Path) -> Iterator[Path]:
    """Where a value may stand that does not fit its field's column."""
    return ((*path, MARK + name) for name in TYPES)


def needed(leaves: Iterable[tuple[Path, Any]], fields: Mapping[Path, pa.Field], *, typed: bool) -> Needed:
    """The columns that these fields of a message lack. What fits no column whatever its type needs none."""
    found: Needed = {}
    for path, value in leaves:
        kind = type_of(value, typed=typed)
        if kind is None or fit(value, kind) is MISFIT:
            continue
        known = fields.get(path)
        if known is None:
            found[path, _NAMES[kind]] = None
        elif kind != known.type and fit(value, known.type) is MISFIT and beside(path, kind) not in fields:
            found[beside(path, kind), _NAMES[kind]] = None
    return found


def columns(needed: Iterable[tuple[Path, str]]) -> dict[Path, pa.DataType]:
    """Path → type of the new columns. Of two types of a new field the first has its column, the other goes beside."""
    found: dict[Path, pa.DataType] = {}
    for path, name in needed:
        if found.setdefault(path, TYPES[name]) != TYPES[name]:
            found[beside(path, TYPES[name])] = TYPES[name]
    return found
