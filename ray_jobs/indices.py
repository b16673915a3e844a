"""Which scalar indices the lake's tables have, decided by their columns, and how many rows they do not cover yet.

BITMAP where a column has few values, BTREE where it is asked for by range or by one value of many, INVERTED for words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

Kind = Literal["BITMAP", "BTREE", "INVERTED"]

_KINDS: dict[str, Kind] = {
    "robot_id": "BITMAP",
    "stream": "BITMAP",
    "state": "BITMAP",
    "start_ns": "BTREE",
    "t_ns": "BTREE",
    "index_version": "BTREE",
    "episode_id": "BTREE",
    "recording_id": "BTREE",
    "task": "INVERTED",
    "notes": "INVERTED",
    "message": "INVERTED",  # of foxglove.Log
    "msg": "INVERTED",  # of rcl_interfaces/Log
    "text": "INVERTED",
}


@dataclass(frozen=True, slots=True)
class Index:
    """One scalar index; Lance's own default gives it its name."""

    column: str
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.column}_idx"


def wanted(schema: pa.Schema) -> Iterator[Index]:
    """The indices of a table with these columns."""
    for field in schema:
        kind = None if pa.types.is_nested(field.type) else _KINDS.get(field.name)  # a dataset may call a vector `state`
        if kind is not None and (kind != "INVERTED" or pa.types.is_string(field.type)):
            yield Index(field.name, kind)


def missing(table: Any) -> list[Index]:
    """Those that a `lance.LanceDataset` does not have yet."""
    there = {index.name for index in table.describe_indices()}
    return [index for index in wanted(table.schema) if index.name not in there]


def uncovered_rows(table: Any) -> int:
    """Rows that the index that covers least does not know: a query reads them one by one. 0 without an index."""
    rows = table.count_rows()
    return max((rows - index.num_rows_indexed for index in table.describe_indices()), default=0)


def refresh(table: Any) -> None:
    """Bring every index up to the newest row, then make the missing ones. Each is a version of the table."""
    if uncovered_rows(table):
        table.optimize.optimize_indices()
    for index in missing(table):
        table.create_scalar_index(index.column, index.kind, name=index.name)
