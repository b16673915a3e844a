"""What the catalog answers, that it answers from what is published only, and that SQL stays in its box."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from dataset_catalog import schema
from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import NotFound, QueryError, StorageError
from dataset_catalog.settings import StorageSettings
from dataset_catalog.times import to_ns, to_text

T0 = to_ns("2026-01-01")


def test_robots_and_recordings_are_counted(lake: Any) -> None:
    robots = lake.catalog.robots().to_pylist()
    counts = [(r["robot_id"], r["segments"], r["quarantined"], r["gaps"]) for r in robots]
    assert counts == [("h1", 6, 0, 0), ("h2", 2, 1, 1)]
    assert robots[0]["end_ns"] - robots[0]["start_ns"] == 30_000_000_000
    (recording,) = lake.catalog.recordings("h1").to_pylist()
    assert recording["streams"] == ["head", "telemetry"]
    assert recording["bytes"] == 6000
    assert [(r["segments"], r["gaps"]) for r in lake.catalog.recordings().to_pylist()] == [(6, 0), (2, 1)]


def test_rows_that_no_manifest_names_are_not_seen(lake: Any) -> None:
    assert "h9" not in lake.catalog.robots()["robot_id"].to_pylist()
    assert lake.catalog.sql("SELECT count(*) AS n FROM segments WHERE robot_id = 'h9'")["n"].to_pylist() == [0]


def test_videos_are_found_by_robot_time_and_predicate(lake: Any) -> None:
    catalog = lake.catalog
    assert len(catalog.videos()) == 5
    assert catalog.videos().schema.names == [name for name in schema.SEGMENTS.names if name != "thumbnail"]
    assert catalog.videos("h1", start=T0 + 10 * 10**9, end=T0 + 20 * 10**9)["seq"].to_pylist() == [1]
    assert catalog.videos("h1", start="2026-01-01T00:00:20Z")["seq"].to_pylist() == [2]
    assert catalog.videos("h1", end=datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC))["seq"].to_pylist() == [0]
    assert catalog.videos(where="luma_mean < 70 OR state = 'quarantined'")["seq"].to_pylist() == [0, 1, 1]


def test_sql_asks_for_vectors_that_are_null(lake: Any) -> None:
    """Lance's scanner does not take that condition; DuckDB then looks itself."""

    def count(where: str) -> int:
        return int(lake.catalog.sql(f"SELECT count(*) AS n FROM pick.steps WHERE {where}")["n"][0].as_py())

    missing, there = count("state IS NULL"), count("state IS NOT NULL AND step >= 0")
    assert missing + there == count("true")
    assert missing == count("state_age_ns IS NULL")
    assert len(lake.catalog.dataset("pick").select(where="state IS NOT NULL")) == there > 0


def test_sql_reaches_every_table_under_its_documented_name(lake: Any) -> None:
    def one(query: str) -> Any:
        return lake.catalog.sql(query).to_pylist()[0]

    assert one("SELECT max(position[1]) AS p FROM telemetry.joint_states") == {"p": 1.5}
    assert one('SELECT min(percent) AS p FROM telemetry."power.battery"') == {"p": 60.0}
    assert one("SELECT count(*) AS n FROM pick.episodes WHERE success") == {"n": 2}
    assert (
        one("SELECT count(*) AS n FROM pick.steps JOIN pick.episodes USING (episode_id) WHERE task = 'wave'")["n"] > 60
    )
    assert one('SELECT count(DISTINCT "column") AS n FROM pick.series') == {"n": 3}
    assert one("SELECT count(*) AS n FROM pick.gops")["n"] > 30
    assert "payload" not in lake.catalog.sql("SELECT * FROM pick.gops LIMIT 1").schema.names
    assert one("SELECT count(*) AS n FROM labels") == {"n": 0}
    assert len(lake.catalog.sql("SHOW ALL TABLES")) == 10


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("selec 1", "Parser Error: syntax error at or near"),
        ("SELECT nosuch FROM segments", 'Referenced column "nosuch" not found'),
        ("SELECT * FROM telemetry.nosuch", "nosuch does not exist"),
        ("SELECT 1/'x'", "Could not convert string 'x'"),
        ("", "expected one SELECT, got nothing"),
        ("SELECT 1; SELECT 2", "expected one SELECT, got SELECT, SELECT"),
        ("DROP VIEW segments", "expected one SELECT, got DROP"),
        ("CREATE TABLE x AS SELECT 1", "expected one SELECT, got CREATE"),
        ("SET enable_external_access = true", "expected one SELECT, got SET"),
        ("PRAGMA version", "expected one SELECT, got PRAGMA"),
        ("COPY segments TO '/tmp/x.csv'", "expected one SELECT, got COPY"),
        ("ATTACH '/tmp/x.db'", "expected one SELECT, got ATTACH"),
        ("INSTALL httpfs", "expected one SELECT, got LOAD"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
        ("SELECT * FROM glob('/etc/*')", "disabled by configuration"),
        ("SELECT * FROM read_parquet('https://example.com/x')", "."),
        ("SELECT * FROM 's3://bucket/x.parquet'", "."),
        ("SELECT * FROM lake", "does not exist"),
    ],
)
def test_what_is_no_plain_select_is_refused_in_one_sentence(lake: Any, query: str, sentence: str) -> None:
    with pytest.raises(QueryError, match=sentence) as caught:
        lake.catalog.sql(query)
    assert "\n" not in str(caught.value)
    assert "^" not in str(caught.value)


def test_a_predicate_cannot_leave_its_place(lake: Any) -> None:
    for where in (
        "luma_mean <",
        "true) UNION SELECT * FROM read_csv('/etc/passwd') --",
        "nosuch = 1",
        "true; DROP VIEW segments",
        "1" + "+1" * 900 + ">0",
        "NOT " * 900 + "true",
    ):
        with pytest.raises(QueryError):
            lake.catalog.videos(where=where)
    assert len(lake.catalog.videos("nobody", where="true) OR (true")) == 0
    assert len(lake.catalog.videos(where="true -- all of them")) == len(lake.catalog.videos())


def test_an_empty_lake_has_empty_tables_with_the_right_columns(empty: Catalog, lake: Any) -> None:
    for ask in (Catalog.robots, Catalog.recordings, Catalog.videos, Catalog.datasets):
        assert len(ask(empty)) == 0
        assert ask(empty).schema.equals(ask(lake.catalog).schema)
    assert empty.sql("SELECT * FROM segments").schema == lake.catalog.sql("SELECT * FROM segments").schema
    with pytest.raises(NotFound, match="no dataset named 'pick'; there are"):
        empty.dataset("pick")


def test_datasets_are_listed_at_their_newest_version(lake: Any) -> None:
    (row,) = lake.catalog.datasets().to_pylist()
    steps = sum(len(episode.steps) for episode in lake.episodes.values())
    assert row == {
        "name": "pick",
        "version": 2,
        "created_ns": T0 + 2,
        "robots": 2,
        "episodes": 5,
        "steps": steps,
        "cameras": ["head"],
    }


@pytest.mark.parametrize("version", [1, "1", "v1"])
def test_a_version_can_be_pinned(lake: Any, version: int | str) -> None:
    dataset = lake.catalog.dataset("pick", version)
    assert dataset.version == 1
    assert dataset.episodes()["episode_id"].to_pylist() == ["e0", "e1", "e2"]
    assert lake.catalog.dataset("pick").version == 2


def test_a_dataset_that_a_job_has_begun_and_not_published_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "datasets" / "begun" / "steps.lance").mkdir(parents=True)
    catalog = Catalog.open(str(tmp_path))
    assert len(catalog.datasets()) == 0
    assert catalog.sql("SHOW ALL TABLES")["name"].to_pylist() == ["labels", "segments"]
    with pytest.raises(NotFound):
        catalog.dataset("begun")


def test_versions_and_datasets_that_are_not_there_are_not_found(lake: Any) -> None:
    with pytest.raises(NotFound, match="has no version 3"):
        lake.catalog.dataset("pick", 3)
    with pytest.raises(
        NotFound, match=r"a version is a number such as 7 or v7, or a tag of datasets/pick \(none\), got 'latest'"
    ):
        lake.catalog.dataset("pick", "latest")
    with pytest.raises(NotFound, match=r"no dataset named 'pack'; there are \['pick'\]"):
        lake.catalog.dataset("pack")


def test_a_lake_is_a_folder_or_s3() -> None:
    with pytest.raises(StorageError, match="a lake is s3://"):
        Catalog.open("ftp://x")


def test_a_store_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    settings = StorageSettings(
        endpoint_url="http://127.0.0.1:9", access_key_id="key", secret_access_key=SecretStr("secret")
    )
    with pytest.raises(
        StorageError, match=r"cannot reach s3://nowhere at http://127.0.0.1:9: Could not connect"
    ) as caught:
        Catalog.open("s3://nowhere", settings=settings).robots()
    assert "secret" not in str(caught.value)


def test_times_are_taken_in_every_form_and_without_a_zone_are_utc() -> None:
    assert to_ns(5) == to_ns(np.int64(5)) == 5  # type: ignore[arg-type]
    assert to_ns("1970-01-01T00:00:01.000001") == 1_000_001_000
    assert to_ns("1970-01-01T01:00:00+01:00") == 0
    assert to_ns(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == -1_000_000_000
    assert to_text(T0 + 250_000_000) == "2026-01-01T00:00:00.250Z"
    with pytest.raises(QueryError, match="got 'yesterday'"):
        to_ns("yesterday")
