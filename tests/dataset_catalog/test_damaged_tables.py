"""A table whose files are cut or gone is an error of ours that names it, wherever it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dataset_catalog.__main__ import app
from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import QueryError, StorageError

READ: dict[str, Callable[[Any], Any]] = {
    "series": lambda dataset: dataset.windows({"state": [0.0]})[0],
    "steps": lambda dataset: dataset.lineage(0),
    "gops": lambda dataset: dataset.windows({"head": [0.0]})[0],
    "statistics": lambda dataset: dataset.statistics("state"),
    "episodes": lambda dataset: dataset.episodes(),
}


def damage(catalog: Catalog, table: str, how: str) -> None:
    for file in (Path(catalog.storage.url) / f"datasets/pick/{table}.lance/data").glob("*.lance"):
        file.write_bytes(file.read_bytes()[:-300] if how == "cut" else b"")


@pytest.mark.parametrize("how", ["cut", "empty"])
@pytest.mark.parametrize("table", READ)
def test_a_damaged_table_is_named(catalog: Catalog, table: str, how: str) -> None:
    damage(catalog, table, how)
    with pytest.raises(StorageError, match=r"cannot (be )?read") as caught:
        READ[table](catalog.dataset("pick"))
    assert "/rustc/" not in str(caught.value)
    assert table == "gops" or f"{table}.lance: " in str(caught.value)  # gops are asked for by SQL


def test_sql_tells_a_damaged_table_from_a_query_that_cannot_be_run(catalog: Catalog) -> None:
    damage(catalog, "steps", "cut")
    with pytest.raises(StorageError, match="a table cannot be read"):
        catalog.sql("SELECT sum(state[1]) FROM pick.steps")
    with pytest.raises(QueryError):
        catalog.sql("SELECT nosuch FROM pick.steps")


def test_a_command_that_meets_one_says_so_in_a_sentence(catalog: Catalog) -> None:
    damage(catalog, "statistics", "cut")
    done = CliRunner().invoke(app, ["statistics", "pick", "--lake", catalog.storage.url])
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
    assert "statistics.lance" in done.output


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"n": 1, "tables": {"steps": "x"}}', b'{"n": 1, "tables": 3}', b"\xff"]
)
def test_a_damaged_manifest_or_tag_is_named(catalog: Catalog, body: bytes) -> None:
    newest, folder = catalog.dataset("pick").version, Path(catalog.storage.url) / "datasets/pick"
    (folder / "tags").mkdir(exist_ok=True)
    (folder / "tags/good.json").write_bytes(body)
    with pytest.raises(StorageError, match="a tag of datasets/pick is damaged"):
        catalog.dataset("pick", version="good")
    (folder / f"versions/{newest:010d}.json").write_bytes(body)
    with pytest.raises(StorageError, match=f"the manifest of version {newest} of datasets/pick is damaged"):
        catalog.dataset("pick")
