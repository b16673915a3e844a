"""docs/LAKE.md names every table and column with its type, and its questions can be asked, with us and without us."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from dataset_catalog import schema, versions
from dataset_catalog.sql import quote
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest

PAGE = (Path(__file__).parents[2] / "docs" / "LAKE.md").read_text()
QUESTIONS = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
SCHEMAS = {
    "segments": schema.SEGMENTS,
    "steps": schema.steps_schema({"c": 2}, ["v"]),
    "series": schema.SERIES,
    "gops": schema.GOPS,
    "statistics": schema.STATISTICS,
    "episodes": schema.EPISODES,
    "labels": schema.LABELS,
}
TELEMETRY_OWN = ["robot_id", "recording_id", "stream", "seq", "t_ns", "sequence"]


def documented(table: str) -> dict[str, str]:
    """Column → type, as the page's section says."""
    section = PAGE.split(f"\n## {table}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \| .+ \|$", section, re.MULTILINE))


def plain(type_: pa.DataType) -> str:
    """A type as the page writes it."""
    if pa.types.is_struct(type_):
        return f"struct<{', '.join(field.name for field in type_)}>"
    if pa.types.is_fixed_size_list(type_):
        return f"fixed_size_list<{plain(type_.value_type)}>[{type_.list_size}]"
    if pa.types.is_list(type_):
        return f"list<{plain(type_.value_type)}>"
    return "blob" if isinstance(type_, pa.ExtensionType) else str(type_)


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_stands_there_with_its_type_in_order(table: str) -> None:
    assert list(documented(table).items()) == [(field.name, plain(field.type)) for field in SCHEMAS[table]]


def test_the_columns_of_every_topic_stand_there() -> None:
    assert list(documented("telemetry")) == [*TELEMETRY_OWN, "extra"]


def test_there_are_five_questions() -> None:
    assert len(QUESTIONS) == 5


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_the_same_by_the_catalog_and_by_duckdb_alone(lake: Any, question: str) -> None:
    ours = lake.catalog.sql(question)
    assert ours.num_rows > 0 or "missing" in question
    assert ours.to_pylist() == by_duckdb_alone(lake, question).to_pylist()


def test_what_is_missing_is_found(lake: Any) -> None:
    """Segments 0, 1, 4 and a gap over 5..7, in which 5 and 6 came late, then 9: two holes."""
    (question,) = (one for one in QUESTIONS if "missing" in one)
    rows = [(0, None), (1, None), (4, None), (5, 7), (5, None), (6, None), (9, None)]
    segments = pa.table(
        {
            "robot_id": ["h1"] * len(rows),
            "recording_id": ["r"] * len(rows),
            "stream": ["head"] * len(rows),
            "seq": [seq for seq, _ in rows],
            "last_seq": pa.array([last for _, last in rows], pa.int64()),
        }
    )
    with duckdb.connect() as connection:
        connection.register("segments", segments)
        found = connection.sql(question).fetchall()
    assert sorted(row[3:] for row in found) == [(1, 2), (7, 1)]


def by_duckdb_alone(lake: Any, question: str) -> pa.Table:
    """What anybody can do with the manifests and Lance."""
    chains = {
        "main": versions.SEGMENTS,
        "telemetry": versions.TELEMETRY,
        "pick": f"{versions.DATASETS}/pick",
    }
    with duckdb.connect() as connection:
        for name, chain in chains.items():
            manifest = versions.newest(lake.storage, chain)
            assert isinstance(manifest, Manifest)
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
            for table in manifest.tables:
                if table != "gops":
                    connection.execute(f"USE {name}")
                    opened = open_table(lake.storage, chain, manifest, table)
                    connection.from_arrow(opened).create_view(quote(table).strip('"'))
        connection.execute("USE main")
        return connection.sql(question).to_arrow_table()
