"""From decoded messages to a column's series: its vectors at their native rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.align import Series
from ray_jobs.align_spec import Column
from ray_jobs.errors import SpecError

MAX_FLOAT32 = float(np.finfo(np.float32).max)
Messages = Sequence[tuple[int, Any]]  # (time, decoded), in any order
_OBJECT_VECTORS = (("w", "x", "y", "z"), ("x", "y", "z"))


class Readings:
    """One column's readings, collected segment by segment: the messages themselves need not stay in memory."""

    def __init__(self, name: str, column: Column) -> None:
        self._name, self._column = name, column
        self._t_ns: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float32]] = []
        self._names: set[tuple[str, ...]] = set()
        self._other = ""  # what a message had in place of the field

    def add(self, messages: Messages) -> None:
        """More messages of the column's topic. A message without the field, or with a null in it, is no reading.

        Raises `SpecError` where vectors have another size than the column.
        """
        if not messages:
            return
        at_once = _values_at_once(self._column, messages)
        if at_once is None:
            times, values = _one_by_one(self._name, self._column, messages)
        else:
            times, values = [t_ns for t_ns, _ in messages], at_once
        if not times:
            self._other = self._other or _fields(messages[0][1])
        self._t_ns.append(np.array(times, np.int64))
        self._values.append(values)
        if isinstance(self._column.names, str):
            self._names |= _names_in(self._column.names, messages)

    def series(self) -> Series:
        """All of them in order of time.

        Raises `SpecError` where no message at all has the field, and where the names of the elements change.
        """
        t_ns = np.concatenate([np.empty(0, np.int64), *self._t_ns])
        if self._other and not len(t_ns):
            topic, field = self._column.topic, self._column.field
            raise SpecError(f"column {self._name}: no message of {topic} has numbers at {field!r}, but {self._other}")
        values = np.concatenate([np.empty((0, self._column.size), np.float32), *self._values])
        order = np.argsort(t_ns, kind="stable")
        return Series(t_ns[order], values[order], self._element_names())

    def _element_names(self) -> tuple[str, ...] | None:
        column = self._column
        if not isinstance(column.names, str):
            return column.names
        if len(self._names) > 1:
            raise SpecError(
                f"column {self._name}: the names at {column.topic} {column.names} change within the episode"
            )
        names = next(iter(self._names), None)
        if names and len(names) != column.size:
            raise SpecError(
                f"column {self._name}: {column.topic} {column.names} has {len(names)} names, not {column.size}"
            )
        return names


def _values_at_once(column: Column, messages: Messages) -> NDArray[np.float32] | None:
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


def _one_by_one(name: str, column: Column, messages: Messages) -> tuple[list[int], NDArray[np.float32]]:
    """Times and vectors, message by message."""
    readings = [(t_ns, vector) for t_ns, message in messages if (vector := vector_at(message, column.field))]
    for _, vector in readings:
        if len(vector) != column.size:
            raise SpecError(
                f"column {name}: {column.topic} {column.field} has {len(vector)} numbers, not {column.size}"
            )
    values = np.array([vector for _, vector in readings], np.float32).reshape(-1, column.size)
    return [t_ns for t_ns, _ in readings], values


def _fields(message: Any) -> str:
    return str(sorted(message)) if isinstance(message, dict) else type(message).__name__


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


def _names_in(path: str, messages: Messages) -> set[tuple[str, ...]]:
    return {tuple(map(str, names)) for _, message in messages if (names := _at(message, path))}
