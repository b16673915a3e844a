"""Which column type a message's value asks for, and whether a value fits a column exactly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

Path = tuple[str, ...]
MISFIT = object()

_EXACT = 2**53  # integers up to here are doubles exactly
_JSON_TYPES = {"number": pa.float64(), "integer": pa.float64(), "string": pa.string(), "boolean": pa.bool_()}


def declared_types(json_schema: bytes) -> Iterator[tuple[Path, pa.DataType]]:
    """The typed `properties` of a JSON schema; nothing where there is none that can be read."""
    try:
        schema = json.loads(json_schema) if json_schema else {}
    except (ValueError, RecursionError):
        return
    yield from _declared_in(schema, ())


def _declared_in(schema: Any, path: Path) -> Iterator[tuple[Path, pa.DataType]]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for name, about in properties.items() if isinstance(properties, dict) else ():
        kind = about.get("type") if isinstance(about, dict) else None
        kinds = [one for one in (kind if isinstance(kind, list) else [kind]) if one != "null"]
        if kinds == ["object"]:
            yield from _declared_in(about, (*path, name))
        elif kinds == ["array"] and isinstance(about.get("items"), dict):
            item = _only_type(about["items"].get("type"))
            if item in (pa.float64(), pa.string()):
                yield (*path, name), pa.list_(item)
        elif (found := _only_type(kind)) is not None:
            yield (*path, name), found


def _only_type(kind: Any) -> pa.DataType | None:
    """The one scalar type that a schema's `type` allows, beside null."""
    kinds = [one for one in (kind if isinstance(kind, list) else [kind]) if one != "null"]
    return _JSON_TYPES.get(kinds[0]) if len(kinds) == 1 and isinstance(kinds[0], str) else None


def type_of(value: Any, *, typed: bool) -> pa.DataType | None:
    """None where a value tells no column type: null, an empty list, a list of objects."""
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if typed else pa.float64()
    for kind, type_ in ((float, pa.float64()), (str, pa.string()), (bytes, pa.binary())):
        if isinstance(value, kind):
            return type_
    if isinstance(value, np.ndarray):
        return _array_type(value)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return pa.list_(pa.string())
        if all(_is_number(item) for item in value):
            return pa.list_(pa.float64())
    return None


def vector_type(values: Sequence[Any]) -> pa.DataType | None:
    """The type of a column whose first values, two at least, are all as many numbers; None where they are not."""
    sizes = {len(value) if type_of(value, typed=True) == pa.list_(pa.float64()) else 0 for value in values}
    return pa.list_(pa.float64(), sizes.pop()) if len(values) > 1 and len(sizes) == 1 and 0 not in sizes else None


def as_vectors(lists: Any, type_: pa.DataType) -> pa.Array | None:
    """A column of lists as one of vectors, with nulls where it has some; None where one is of another size."""
    numbers, size = lists.flatten(), type_.list_size
    sizes = np.diff(lists.offsets.to_numpy())
    if numbers.null_count:
        return None
    if not lists.null_count:
        return pa.FixedSizeListArray.from_arrays(numbers, type=type_) if bool((sizes == size).all()) else None
    valid = lists.is_valid().to_numpy(zero_copy_only=False)
    if not bool((sizes[valid] == size).all()):
        return None
    filled = np.zeros((len(lists), size))
    filled[valid] = numbers.to_numpy().reshape(-1, size)
    return pa.FixedSizeListArray.from_arrays(pa.array(filled.ravel()), type=type_, mask=pa.array(~valid))


def _array_type(array: np.ndarray[Any, Any]) -> pa.DataType | None:
    if array.dtype == np.uint8:
        return pa.binary()
    return pa.list_(pa.float64()) if array.dtype.kind in "iuf" else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def fit(value: Any, type_: pa.DataType) -> Any:
    """The value as its column takes it, or `MISFIT` if that would change it."""
    if pa.types.is_list(type_):
        return _fit_list(value, type_)
    if pa.types.is_fixed_size_list(type_):
        return _fit_vector(value, type_)
    if pa.types.is_float64(type_):
        return float(value) if _is_exact_double(value) else MISFIT
    if pa.types.is_int64(type_):
        whole = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
        return value if whole else MISFIT
    if pa.types.is_binary(type_):
        if isinstance(value, np.ndarray) and value.dtype == np.uint8:
            return value.tobytes()
        return value if isinstance(value, bytes) else MISFIT
    return value if isinstance(value, bool if pa.types.is_boolean(type_) else str) else MISFIT


def _is_exact_double(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, float) or abs(value) <= _EXACT)


def _fit_vector(value: Any, type_: pa.DataType) -> Any:
    fitted = _fit_list(value, pa.list_(type_.value_type))
    same = fitted is not MISFIT and len(fitted) == type_.list_size and not any(item is None for item in fitted)
    return fitted if same else MISFIT


def _fit_list(value: Any, type_: pa.DataType) -> Any:
    if isinstance(value, np.ndarray):
        exact = value.dtype.kind == "f" or (value.dtype.kind in "iu" and not (np.abs(value) > _EXACT).any())
        return value.astype(np.float64) if exact and pa.types.is_float64(type_.value_type) else MISFIT
    if not isinstance(value, list):
        return MISFIT
    if pa.types.is_string(type_.value_type):
        return value if all(isinstance(item, str) for item in value) else MISFIT
    return value if all(item is None or _is_exact_double(item) for item in value) else MISFIT
