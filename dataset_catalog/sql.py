"""SQL over tables, in a DuckDB that can see nothing else: no file, no network, no extension, no Python variable."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from dataset_catalog.errors import QueryError, StorageError
from dataset_catalog.schema import NOT_IN_SQL

SEALED = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
}


_NOT_PUSHED = "No match for FieldRef"  # of Arrow, which then lacks a column that only the condition asks for
_UNREAD = "External error: "  # of Lance, whose files are gone or damaged


@dataclass(frozen=True, slots=True)
class View:
    """A table under the name it has in SQL; `columns` None shows them all."""

    name: str
    table: Any  # a LanceDataset or a pyarrow.Table
    schema: str = "main"
    columns: tuple[str, ...] | None = None


def view_of(table: Any, name: str, *, schema: str = "main") -> View:
    """A lake's table as it is shown: without its column of pictures."""
    hidden = NOT_IN_SQL.get(name) if schema != "telemetry" else None
    shown = tuple(column for column in table.schema.names if column != hidden) if hidden else None
    return View(name, table, schema, shown)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a stranger's SQL may take of a server."""

    seconds: float
    memory_bytes: int
    threads: int = 1


def query(
    sql: str, views: Iterable[View], parameters: Sequence[object] = (), *, bounds: Bounds | None = None
) -> pa.Table:
    """The result of one SELECT (or DESCRIBE, SHOW, SUMMARIZE) over the views.

    Raises `QueryError` with one sentence for anything else, for SQL that does not parse, bind or run, and for what
    exceeds the bounds; `StorageError` where a table's files cannot be read.
    """
    views = list(views)
    try:
        return _query(sql, views, parameters, bounds, _config(bounds))
    except _NotPushed:
        return _query(sql, views, parameters, bounds, _config(bounds) | {"disabled_optimizers": "filter_pushdown"})


def _query(
    sql: str, views: Iterable[View], parameters: Sequence[object], bounds: Bounds | None, config: dict[str, str]
) -> pa.Table:
    with duckdb.connect(config=config) as connection, _interrupted(connection, bounds):
        for view in views:
            _create_view(connection, view)
        connection.execute("USE main")
        try:
            _check_select(sql)
            return connection.sql(sql, params=list(parameters)).to_arrow_table()
        except duckdb.InterruptException as error:
            raise QueryError(f"the query took longer than {bounds.seconds if bounds else 0:g} s") from error
        except duckdb.Error as error:
            if _UNREAD in str(error) and _NOT_PUSHED not in str(error):
                raise StorageError(f"a table cannot be read: {_sentence(error)}") from error
            kind = _NotPushed if _NOT_PUSHED in str(error) else QueryError
            raise kind(_sentence(error)) from error


class _NotPushed(QueryError):
    """DuckDB handed a condition to Lance that Lance's scanner cannot take: a vector that is null, or is not."""


def quote(identifier: str) -> str:
    """An SQL identifier, whatever characters it has."""
    return '"' + identifier.replace('"', '""') + '"'


def _config(bounds: Bounds | None) -> dict[str, str]:
    if bounds is None:
        return SEALED
    return {**SEALED, "memory_limit": f"{bounds.memory_bytes}B", "threads": str(bounds.threads)}


@contextmanager
def _interrupted(connection: Any, bounds: Bounds | None) -> Iterator[None]:
    """Whatever runs on the connection ends when its time is up."""
    if bounds is None:
        yield
        return
    timer = threading.Timer(bounds.seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _create_view(connection: Any, view: View) -> None:
    schema = quote(view.schema)
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; USE {schema}")
    rows = connection.from_arrow(view.table)  # a scan at query time, with the query's columns and filters
    if view.columns:
        rows = rows.select(*map(duckdb.ColumnExpression, view.columns))
    rows.create_view(view.name)


def _check_select(sql: str) -> None:
    statements = duckdb.extract_statements(sql)
    if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise QueryError(f"expected one SELECT, got {kinds}")


def _sentence(error: duckdb.Error) -> str:
    """DuckDB's message without the picture of the line."""
    text = str(error).split("\n\nLINE ")[0].split(", /rustc/")[0]
    return " ".join(text.split())
