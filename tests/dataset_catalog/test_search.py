"""Words are found in logs and labels, with an index and without one, in the order of time."""

from __future__ import annotations

from typing import Any

import lance
import pyarrow as pa
import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import QueryError
from dataset_catalog.search import Wanted, find_words
from dataset_catalog.sql import View
from dataset_catalog.times import to_ns

T0 = to_ns("2026-01-01")


def test_all_words_must_be_there_in_any_order(lake: Any) -> None:
    found = lake.catalog.search("bottle slipped").to_pylist()
    assert [(row["t_ns"] - T0, row["table"], row["column"]) for row in found] == [
        (0, "telemetry.log", "message"),
        (2, "telemetry.log", "message"),
    ]
    assert found[1]["text"] == "it slipped: the bottle fell"
    assert lake.catalog.search("bottle exploded").num_rows == 0


def test_robot_and_time_narrow_it(lake: Any) -> None:
    assert lake.catalog.search("bottle", start=T0 + 1, end=T0 + 2)["t_ns"].to_pylist() == [T0 + 1]
    assert lake.catalog.search("bottle", robot="h1").num_rows == 3
    assert lake.catalog.search("bottle", robot="h2").num_rows == 0


def test_tasks_of_episodes_are_found_at_their_start(lake: Any) -> None:
    expected = lake.catalog.sql("SELECT start_ns FROM pick.episodes WHERE task = 'wave' ORDER BY start_ns")
    found = lake.catalog.search("WAVE")
    assert set(found["table"].to_pylist()) == {"pick.episodes"}
    assert found["t_ns"].to_pylist() == expected["start_ns"].to_pylist()


def test_an_index_also_finds_other_forms_and_rows_that_it_does_not_cover_yet(tmp_path: Any) -> None:
    def rows(*texts: str) -> pa.Table:
        size = len(texts)
        keys = {"robot_id": ["h1"] * size, "recording_id": ["r"] * size, "t_ns": list(range(size))}
        return pa.table(keys | {"msg": list(texts)})

    table = lance.write_dataset(rows("the gripper SLIPS", "all well"), tmp_path / "log.lance")
    table.create_scalar_index("msg", "INVERTED")
    table = lance.write_dataset(rows("It Slipped, again"), tmp_path / "log.lance", mode="append")
    found = find_words([View("arm.log", table, "telemetry")], Wanted("slipped"))
    assert sorted(found["text"].to_pylist()) == ["It Slipped, again", "the gripper SLIPS"]
    assert set(found["table"].to_pylist()) == {'telemetry."arm.log"'}


@pytest.mark.parametrize("words", ["it's 100% fine", "IT'S", "fine 100%"])
def test_without_an_index_case_and_signs_do_not_matter(tmp_path: Any, words: str) -> None:
    row = {"robot_id": ["h1"], "recording_id": ["r"], "t_ns": [1], "text": ["It's 100% fine."]}
    table = lance.write_dataset(pa.table(row), tmp_path / "words.lance")
    assert find_words([View("words", table, "telemetry")], Wanted(words)).num_rows == 1
    assert find_words([View("words", table, "telemetry")], Wanted("100x")).num_rows == 0


def test_the_best_of_too_many_come(lake: Any, empty: Catalog) -> None:
    assert lake.catalog.search("bottle", limit=1).num_rows == 1
    assert empty.search("bottle").num_rows == 0
    with pytest.raises(QueryError, match="needs a word"):
        lake.catalog.search("  ")
