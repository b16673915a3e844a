"""Words in what robots and people wrote: log lines, labels, notes. By Lance's full-text index, where there is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from lance.query import FullTextOperator, MatchQuery

from dataset_catalog.errors import QueryError
from dataset_catalog.sql import View, query, quote
from dataset_catalog.tables import contains

TEXT_COLUMNS = ("message", "msg", "text", "task", "notes")
_VALUE = "value"  # of labels
FOUND = pa.schema(
    [
        ("robot_id", pa.string()),
        ("recording_id", pa.string()),
        ("t_ns", pa.int64()),
        ("table", pa.string()),
        ("column", pa.string()),
        ("text", pa.string()),
    ]
)
_READING = "SELECT {columns} FROM texts WHERE {where} LIMIT {limit}"
_AT_A_TIME = 16  # tables

Find = tuple[float, dict[str, Any]]  # how well it matches, and the row


@dataclass(frozen=True, slots=True)
class Wanted:
    """All of `words`, of one robot or any, in `[start_ns, end_ns)` or ever; the `limit` best."""

    words: str
    robot: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    limit: int = 100

    def __post_init__(self) -> None:
        if not self.words.strip() or self.limit < 1:
            raise QueryError(f"a search needs a word and a limit >= 1, got {self.words!r} and {self.limit}")


def find_words(views: Iterable[View], wanted: Wanted) -> pa.Table:
    """`FOUND` rows of all texts of telemetry tables and of datasets' episodes, in order of time."""
    places = [(view, column) for view in views for column in _texts(view)]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        parts = pool.map(lambda place: list(_search(place[0], place[1], wanted)), places)
        found = [find for part in parts for find in part]
    found.sort(key=lambda find: -find[0])
    best = sorted(
        (row for _, row in found[: wanted.limit]), key=lambda row: (row["t_ns"], row["table"], row["robot_id"])
    )
    return pa.Table.from_pylist(best, schema=FOUND)


def _texts(view: View) -> Iterator[str]:
    """The columns of text in a table that has a robot and a time: a topic's, a dataset's episodes, the labels."""
    names = view.table.schema.names
    if {"robot_id", "recording_id", _time(view)} <= set(names):
        wanted = (_VALUE,) if view.name == "labels" and view.schema == "main" else TEXT_COLUMNS
        yield from (n for n in wanted if n in names and pa.types.is_string(view.table.schema.field(n).type))


def _time(view: View) -> str:
    return "t_ns" if view.schema == "telemetry" else "start_ns"


def _search(view: View, column: str, wanted: Wanted) -> Iterator[Find]:
    time = _time(view)
    where = [contains("robot_id", [wanted.robot])] if wanted.robot is not None else []
    where += [f"{time} >= {wanted.start_ns}"] if wanted.start_ns is not None else []
    where += [f"{time} < {wanted.end_ns}"] if wanted.end_ns is not None else []
    columns = ["robot_id", "recording_id", time, column]
    ask = _by_index if _is_indexed(view.table, column) else _by_reading
    for row in ask(view.table, columns, where, wanted):
        place = {"t_ns": row[time], "table": _sql_name(view), "column": column, "text": row[column]}
        keys = {name: row[name] for name in ("robot_id", "recording_id")}
        yield row.get("_score", 0.0), keys | place


def _is_indexed(table: Any, column: str) -> bool:
    if isinstance(table, pa.Table):
        return False
    return any(column in index.field_names and index.index_type == "Inverted" for index in table.describe_indices())


def _by_index(table: Any, columns: list[str], where: list[str], wanted: Wanted) -> list[dict[str, Any]]:
    """Rows that the index does not know yet are read one by one, by the same rules."""
    found: list[dict[str, Any]] = table.to_table(
        columns=[*columns, "_score"],
        full_text_query=MatchQuery(wanted.words.lower(), columns[-1], operator=FullTextOperator.AND),
        filter=" AND ".join(where) or None,
        prefilter=True,
        limit=wanted.limit,
    ).to_pylist()
    return found


def _by_reading(table: Any, columns: list[str], where: list[str], wanted: Wanted) -> list[dict[str, Any]]:
    """Lance's own search without an index minds case."""
    words = [word.replace("'", "''") for word in wanted.words.lower().split()]
    where = [*where, *(f"contains(lower({quote(columns[-1])}), '{word}')" for word in words)]
    sql = _READING.format(columns=", ".join(map(quote, columns)), where=" AND ".join(where), limit=wanted.limit)
    found: list[dict[str, Any]] = query(sql, [View("texts", table)]).to_pylist()
    return found


def _sql_name(view: View) -> str:
    """As it stands in SQL, quoted where it must be."""
    names = (view.name,) if view.schema == "main" else (view.schema, view.name)
    return ".".join(one if one.isidentifier() else f'"{one}"' for one in names)
