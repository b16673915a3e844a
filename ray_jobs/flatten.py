"""From messages of any shape to a table of fixed columns, without losing a field.

A topic is one table, named by `dataset_catalog.topic_names`.

A nested field is a column named by its path with underscores: `{"pose": {"x": 1}}` → `pose_x`. A field named as one of
our own columns, or as another field, gets underscores behind it. Columns are `double` for JSON numbers, else `bool`,
`int64`, `double`, `string`, `binary` (bytes and arrays of uint8), `list<double>` and `list<string>`, and, for lists of
numbers that have one length in a topic's first segment, `fixed_size_list<double>[n]`.

A table grows with its topic (`ray_jobs/widening.py`): a new field gets a column behind the others, null in the rows
before it, and a field that comes with another type one beside its own. What fits none of them exactly (an integer that
no double holds, a list of objects), and what is beyond `MAX_COLUMNS`, stands in `extra`: JSON of the same nesting.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from dataset_catalog.topic_names import table_name as table_name  # part of this module's own interface
from ray_jobs.column_types import MISFIT, Path, declared_types, fit, type_of, vector_type
from ray_jobs.widening import besides

OWN = (
    pa.field("robot_id", pa.string()),
    pa.field("recording_id", pa.string()),
    pa.field("stream", pa.string()),
    pa.field("seq", pa.int64()),
    pa.field("t_ns", pa.int64()),
    pa.field("sequence", pa.int64()),
)
EXTRA = "extra"
UNDECODED = "_undecoded"
NOT_AN_OBJECT = "_value"

MAX_COLUMNS = 1000  # of one topic; what is beyond them goes to `extra`
MAX_DEPTH = 16
_PATH = b"path"  # metadata of a column: its path as a JSON list


def infer_types(messages: Iterable[Any], *, typed: bool, json_schema: bytes = b"") -> dict[Path, pa.DataType]:
    """Path → column type: what the JSON schema declares, then what the first message that has the field holds.

    A list of numbers that has one length in all these messages, two at least, is a vector.
    """
    types = dict(declared_types(json_schema))
    lists: dict[Path, list[Any]] = {}
    for message in messages:
        for path, value in leaves(message):
            found = types.get(path) or type_of(value, typed=typed)
            if found is not None:
                types[path] = found
            if isinstance(value, list | np.ndarray):
                lists.setdefault(path, []).append(value)
    vectors = {path: vector_type(values) for path, values in lists.items() if types.get(path) == pa.list_(pa.float64())}
    return types | {path: vector for path, vector in vectors.items() if vector}


def table_schema(types: Mapping[Path, pa.DataType]) -> pa.Schema:
    """Own columns, the fields' columns, `extra`."""
    fields = _new_fields(types, taken={field.name for field in OWN} | {EXTRA}, room=MAX_COLUMNS)
    return pa.schema([*OWN, *fields, pa.field(EXTRA, pa.string())])


def widened(schema: pa.Schema, types: Mapping[Path, pa.DataType]) -> pa.Schema:
    """A `table_schema` with columns for more paths behind the others, as far as there is room for them."""
    known = sum(1 for field in schema if field.metadata)
    taken = {name.lower() for name in schema.names}
    return pa.schema([*schema, *_new_fields(types, taken=taken, room=MAX_COLUMNS - known)])


def _new_fields(types: Mapping[Path, pa.DataType], *, taken: set[str], room: int) -> Iterator[pa.Field]:
    """What has no column goes to `extra`."""
    for path, kind in islice(types.items(), max(room, 0)):
        name = _column_name(path)
        while name.lower() in taken:
            name += "_"
        taken.add(name.lower())
        yield pa.field(name, kind, metadata={_PATH: json.dumps(path)})


def _column_name(path: Path) -> str:
    """A path as a name that Lance and SQL take: no dot in it, and not a name that Lance keeps for itself (`_row…`)."""
    name = "_".join(re.sub(r"[^\w -]", "_", part.removeprefix("\0")) for part in path) or "_"
    return f"_{name}" if name.startswith("_row") else name


def to_batch(schema: pa.Schema, own: Sequence[Mapping[str, Any]], messages: Sequence[Any]) -> pa.RecordBatch:
    """Rows of `own` columns and decoded messages, one each, as a batch of a `table_schema`."""
    fields = fields_of(schema)
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row, message in zip(own, messages, strict=True):
        for name, value in row.items():
            columns[name].append(value)
        values, extra = split(message, fields)
        for field in fields.values():
            columns[field.name].append(values.get(field.name))
        columns[EXTRA].append(extra)
    return pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def fields_of(schema: pa.Schema) -> dict[Path, pa.Field]:
    """Path → column, of a `table_schema`, in its order."""
    return {tuple(json.loads(field.metadata[_PATH])): field for field in schema if field.metadata}


def split(message: Any, fields: Mapping[Path, pa.Field]) -> tuple[dict[str, Any], str | None]:
    """Column values of one message, and the JSON text of all that does not fit them."""
    values: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for path, value in leaves(message):
        field, fitted = _column_of(path, value, fields)
        if fitted is not MISFIT and field is not None:
            values[field.name] = fitted
        elif value is not None or field is None:
            _nest(rest, path, value)
    return values, _to_json(rest) if rest else None


def _column_of(path: Path, value: Any, fields: Mapping[Path, pa.Field]) -> tuple[pa.Field | None, Any]:
    """The field's column, or the one beside that takes the value; and the value as that takes it, or `MISFIT`."""
    field = fields.get(path)
    fitted = MISFIT if field is None else fit(value, field.type)
    if field is None or fitted is not MISFIT or value is None:
        return field, fitted
    for other in filter(None, map(fields.get, besides(path))):
        if (found := fit(value, other.type)) is not MISFIT:
            return other, found
    return field, MISFIT


def leaves(message: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field that is not itself an object with fields, down to `MAX_DEPTH`."""
    if not isinstance(message, dict):
        yield path or (NOT_AN_OBJECT,), message
        return
    for name, value in message.items():
        if isinstance(value, dict) and value and len(path) < MAX_DEPTH:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def undecoded(data: bytes) -> dict[str, str]:
    """The stand-in for a message that cannot be decoded: its bytes, in `extra`."""
    return {UNDECODED: base64.b64encode(data).decode()}


def _nest(into: dict[str, Any], path: Path, value: Any) -> None:
    for name in path[:-1]:
        into = into.setdefault(name, {})
    into[path[-1]] = value


def _to_json(value: Any) -> str:
    return json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _jsonable(value: Any) -> Any:
    """Bytes as base64; NaN and infinities, which JSON cannot hold, as "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
