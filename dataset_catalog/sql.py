"""SQL over tables, in a DuckDB that can see nothing else: no file, no network, no extension, no Python variable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from dataset_catalog.errors import QueryError

_SEALED = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
}


@dataclass(frozen=True, slots=True)
class View:
    """A table under the name it has in SQL; `columns` None shows them all."""

    name: str
    table: Any  # a LanceDataset or a pyarrow.Table
    schema: str = "main"
    columns: tuple[str, ...] | None = None


def query(sql: str, views: Iterable[View], parameters: Sequence[object] = ()) -> pa.Table:
    """The result of one SELECT (or DESCRIBE, SHOW, SUMMARIZE) over the views.

    Raises `QueryError` with one sentence for anything else, and for SQL that does not parse, bind or run.
    """
    with duckdb.connect(config=_SEALED) as connection:
        for view in views:
            _create_view(connection, view)
        connection.execute("USE main")
        try:
            _check_select(sql)
            return connection.sql(sql, params=list(parameters)).to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(_sentence(error)) from error


def quote(identifier: str) -> str:
    """An SQL identifier, whatever characters it has."""
    return '"' + identifier.replace('"', '""') + '"'


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
    text = str(error).split("\n\nLINE ")[0]
    return " ".join(text.split())
