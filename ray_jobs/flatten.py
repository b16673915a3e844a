"""From messages of any shape to a table of fixed columns, without losing a field.

A topic is one table, named by `dataset_catalog.topic_names`.

A nested field is a column named by its path with underscores: `{"pose": {"x": 1}}` → `pose_x`. A field named as one of
our own columns, or as another field, gets underscores behind it. Columns are `double` for JSON numbers, else `bool`,
`int64`, `double`, `string`, `binary` (bytes and arrays of uint8), `list<double>` and `list<string>`.

What does not fit its column exactly, and fields without a column, stand in `extra`: JSON text of the same nesting.
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
from ray_jobs.column_types import MISFIT, Path, declared_types, fit, type_of

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
    """Path → column type: what the JSON schema declares, then what the first message that has the field holds."""
    types = dict(declared_types(json_schema))
    for message in messages:
        for path, value in leaves(message):
            found = None if path in types else type_of(value, typed=typed)
            if found is not None:
                types[path] = found
    return types


def table_schema(types: Mapping[Path, pa.DataType]) -> pa.Schema:
    """Own columns, the fields' columns, `extra`."""
    taken = {field.name for field in OWN} | {EXTRA}
    fields = []
    for path, kind in islice(types.items(), MAX_COLUMNS):  # what has no column goes to `extra`
        name = _column_name(path)
        while name.lower() in taken:
            name += "_"
        taken.add(name.lower())
        fields.append(pa.field(name, kind, metadata={_PATH: json.dumps(path)}))
    return pa.schema([*OWN, *fields, pa.field(EXTRA, pa.string())])


def _column_name(path: Path) -> str:
    """A path as a name that Lance and SQL take: no dot in it, and not a name that Lance keeps for itself (`_row…`)."""
    name = "_".join(re.sub(r"[^\w -]", "_", part) for part in path) or "_"
    return f"_{name}" if name.startswith("_row") else name


def to_batch(schema: pa.Schema, own: Sequence[Mapping[str, Any]], messages: Sequence[Any]) -> pa.RecordBatch:
    """Rows of `own` columns and decoded messages, one each, as a batch of a `table_schema`."""
    fields = {tuple(json.loads(field.metadata[_PATH])): field for field in schema if field.metadata}
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row, message in zip(own, messages, strict=True):
        for name, value in row.items():
            columns[name].append(value)
        values, extra = split(message, fields)
        for field in fields.values():
            columns[field.name].append(values.get(field.name))
        columns[EXTRA].append(extra)
    return pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def split(message: Any, fields: Mapping[Path, pa.Field]) -> tuple[dict[str, Any], str | None]:
    """Column values of one message, and the JSON text of all that does not fit them."""
    values: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for path, value in leaves(message):
        field = fields.get(path)
        fitted = MISFIT if field is None else fit(value, field.type)
        if fitted is not MISFIT and field is not None:
            values[field.name] = fitted
        elif value is not None or field is None:
            _nest(rest, path, value)
    return values, _to_json(rest) if rest else None


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
