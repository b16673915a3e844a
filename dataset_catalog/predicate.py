"""What stands in our WHERE: one expression, whoever asks; of a stranger one on a row, whose cost its length bounds.

DuckDB's limits of memory and time do not reach everything (`range(10**9)` is computed while the query is planned), so
a predicate is parsed and every part of it must be known here. Subqueries, windows and lambdas are not.
"""

from __future__ import annotations

import json
from typing import Any

import duckdb

from dataset_catalog.errors import QueryError
from dataset_catalog.sql import SEALED

_CLASSES = {
    "BETWEEN",
    "CASE",
    "CAST",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "OPERATOR",
    "TYPE",
}
_OPERATORS = ("+", "-", "*", "/", "//", "%", "||", "~~", "!~~", "~~*", "!~~*")
_FUNCTIONS = {
    *_OPERATORS,
    *("abs", "ceil", "floor", "round", "sign", "sqrt", "least", "greatest", "isnan", "isfinite"),
    *("lower", "upper", "length", "strlen", "trim", "contains", "prefix", "suffix", "starts_with", "ends_with"),
    *("regexp_matches", "like_escape", "ilike_escape", "coalesce", "nullif", "ifnull"),
    *("list_contains", "len", "list_value", "row", "make_timestamp_ns", "epoch_ns", "date_part", "date_trunc"),
}
_TYPES = {
    *("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "VARCHAR"),
    *("DATE", "TIME", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE", "INTERVAL"),
}
MAX_CHARACTERS, MAX_OPEN = 4096, 64


def check_predicate(where: str) -> None:
    """Raises `QueryError`, with what is wrong, unless `where` is one expression of parts that are allowed."""
    if len(where) > MAX_CHARACTERS:
        raise QueryError(f"a predicate has at most {MAX_CHARACTERS} characters, got {len(where)}")
    if sum(map(where.count, "([{")) > MAX_OPEN:  # the parser's time grows with a power of them
        raise QueryError(f"a predicate has at most {MAX_OPEN} opening brackets")
    try:
        _check(_expression(where))
    except RecursionError as error:
        raise QueryError("the predicate is nested too deeply") from error


def bracketed(where: str) -> str:
    """The predicate as it can stand in SQL of ours: no comment in it swallows what follows, nothing binds outside.

    It is one expression between one pair of brackets, or a `QueryError`: what closes that pair is within another.
    """
    _expression(where)
    return f"((\n{where}\n))"


def _expression(where: str) -> list[Any]:
    if not where.strip():
        raise QueryError("a predicate is one expression, got none")
    node = _parsed(where)
    rest = {name: node[name] for name in ("modifiers", "where_clause", "group_expressions", "having", "qualify")}
    if any(rest.values()) or node["from_table"]["type"] != "EMPTY" or len(node["select_list"]) != 1:
        raise QueryError("a predicate is one expression")
    found: list[Any] = node["select_list"]
    return found


def _parsed(where: str) -> dict[str, Any]:
    with duckdb.connect(config=SEALED) as connection:
        try:
            (text,) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{where}\n)"]).fetchone()
        except duckdb.Error as error:
            raise QueryError("the predicate cannot be parsed") from error
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise QueryError("the predicate is nested too deeply") from error
    if found["error"]:
        raise QueryError(f"the predicate cannot be parsed: {found['error_message']}")
    if len(found["statements"]) != 1 or found["statements"][0]["node"]["type"] != "SELECT_NODE":
        raise QueryError("a predicate is one expression")
    node: dict[str, Any] = found["statements"][0]["node"]
    return node


def _check(part: Any) -> None:
    if isinstance(part, list):
        for one in part:
            _check(one)
    elif isinstance(part, dict):
        if "class" in part:
            _check_class(part)
        for one in part.values():
            _check(one)


def _check_class(part: dict[str, Any]) -> None:
    kind = part["class"]
    if kind not in _CLASSES:
        raise QueryError(f"a predicate may hold no {kind.lower().replace('_', ' ')}")
    if kind == "FUNCTION" and part["function_name"].lower() not in _FUNCTIONS:
        raise QueryError(f"a predicate may not call {part['function_name']}; it may call {_listed()}")
    if kind == "TYPE" and (part["type_name"].upper() not in _TYPES or part["children"]):
        raise QueryError(f"a predicate may not cast to {part['type_name']}")


def _listed() -> str:
    return ", ".join(sorted(_FUNCTIONS - set(_OPERATORS)))
