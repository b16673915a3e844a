"""From decoded messages to a column's series: its vectors at their native rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_jobs.align_spec import Column
from ray_jobs.errors import SpecError

MAX_FLOAT32 = float(np.finfo(np.float32).max)
_OBJECT_VECTORS = (("w", "x", "y", "z"), ("x", "y", "z"))


@dataclass(frozen=True, slots=True)
class Series:
    """`t_ns` (n,) int64 ascending, `values` (n, size) float32. `names` of the elements, or None."""

    t_ns: NDArray[np.int64]
    values: NDArray[np.float32]
    names: tuple[str, ...] | None

    def within(self, start_ns: int, end_ns: int) -> Series:
        a, b = np.searchsorted(self.t_ns, [start_ns, end_ns])
        return Series(self.t_ns[a:b], self.values[a:b], self.names)


def to_series(name: str, column: Column, messages: Sequence[tuple[int, Any]]) -> Series:
    """The column's series from its topic's messages (time, decoded), in any order.

    A message without the field, or with a null in it, is no reading. Raises `SpecError` where no message at all has the
    field, where vectors have another size, and where the names of the elements change.
    """
    at_once = _values_at_once(column, messages)
    times, values = _readings(name, column, messages) if at_once is None else ([t for t, _ in messages], at_once)
    t_ns = np.array(times, np.int64)
    order = np.argsort(t_ns, kind="stable")
    return Series(t_ns[order], values[order], _names(name, column, messages))


def _values_at_once(column: Column, messages: Sequence[tuple[int, Any]]) -> NDArray[np.float32] | None:
    """(n, size) where every message holds a plain vector of finite numbers; None where one needs a closer look."""
    found = [message for _, message in messages]
    for part in column.field.split("."):
        found = [message.get(part) if type(message) is dict else None for message in found]
    try:
        values = np.array(found)
    except (ValueError, OverflowError):  # vectors of different sizes
        return None
    if values.ndim == 1:
        values = values[:, np.newaxis]
    if not found or values.dtype.kind not in "fiub" or values.shape != (len(found), column.size):
        return None
    doubles = values.astype(np.float64, copy=False)
    return doubles.astype(np.float32) if bool((np.abs(doubles) <= MAX_FLOAT32).all()) else None


def _readings(name: str, column: Column, messages: Sequence[tuple[int, Any]]) -> tuple[list[int], NDArray[np.float32]]:
    """Times and vectors, message by message. Raises as `to_series`."""
    readings = [(t_ns, vector) for t_ns, message in messages if (vector := vector_at(message, column.field))]
    if messages and not readings:
        fields = sorted(messages[0][1]) if isinstance(messages[0][1], dict) else type(messages[0][1]).__name__
        raise SpecError(f"column {name}: no message of {column.topic} has numbers at {column.field!r}, but {fields}")
    for _, vector in readings:
        if len(vector) != column.size:
            raise SpecError(
                f"column {name}: {column.topic} {column.field} has {len(vector)} numbers, not {column.size}"
            )
    values = np.array([vector for _, vector in readings], np.float32).reshape(-1, column.size)
    return [t_ns for t_ns, _ in readings], values


def vector_at(message: Any, field: str) -> list[float] | None:
    """The numbers at a path of a message; None if there are none, or not all are finite as float32."""
    value = _at(message, field)
    if isinstance(value, Mapping):
        value = next(([value[key] for key in keys] for keys in _OBJECT_VECTORS if set(keys) == set(value)), None)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(number, int | float) and abs(number) <= MAX_FLOAT32 for number in numbers):
        return None
    return numbers


def _at(message: Any, field: str) -> Any:
    for part in field.split("."):
        message = message.get(part) if isinstance(message, Mapping) else None
    return message


def _names(name: str, column: Column, messages: Sequence[tuple[int, Any]]) -> tuple[str, ...] | None:
    if not isinstance(column.names, str):
        return column.names
    found = {tuple(map(str, names)) for _, message in messages if (names := _at(message, column.names))}
    if len(found) > 1:
        raise SpecError(f"column {name}: the names at {column.topic} {column.names} change within the episode")
    names = found.pop() if found else None
    if names and len(names) != column.size:
        raise SpecError(f"column {name}: {column.topic} {column.names} has {len(names)} names, not {column.size}")
    return names
