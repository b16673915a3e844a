"""Upkeep changes no row and no older version, says what it would do, and loses against another writer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from dataset_catalog import publish, versions
from dataset_catalog.errors import CommitLost, NotFound, VersionConflict
from dataset_catalog.schema import SEGMENTS, steps_schema
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from ray_jobs import cleanup, maintain, upkeep
from ray_jobs.indices import wanted
from ray_jobs.settings import JobsSettings

CHAIN = versions.TELEMETRY
SCHEMA = pa.schema([("robot_id", pa.string()), ("t_ns", pa.int64()), ("message", pa.string())])
GOPS = pa.schema([("episode_id", pa.string()), ("start_ns", pa.int64())])
SETTINGS = JobsSettings(compact_fragments=4, keep_version_days=7)
WEEK_S = 7 * cleanup.DAY_S


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


def add(lake: Storage, *, chain: str = CHAIN, table: str = "log", schema: pa.Schema = SCHEMA, rows: int = 10) -> None:
    """One version more, with one fragment of `rows` rows."""
    manifest = versions.newest(lake, chain)
    number = manifest.n if manifest else 0
    base = publish.begin(lake, chain, planned_on=manifest, schemas={table: schema})
    columns = {
        "robot_id": [f"g1-{row % 3}" for row in range(rows)],
        "episode_id": [f"e{row}" for row in range(rows)],
        "t_ns": [number * rows + row for row in range(rows)],
        "start_ns": list(range(rows)),
        "message": [f"motor {row} is too warm" for row in range(rows)],
    }
    batch = pa.RecordBatch.from_pydict({name: columns[name] for name in schema.names}, schema=schema)
    written = publish.write(lake, chain, table, schema, [batch])
    publish.commit(
        base, {table: written}, positions={"segments": number}, facts={"of": "a test"}, now_ns=time.time_ns()
    )


def newest(lake: Storage, chain: str = CHAIN) -> versions.Manifest:
    manifest = versions.newest(lake, chain)
    assert manifest
    return manifest


def table(lake: Storage, name: str = "log", *, chain: str = CHAIN, n: int | None = None) -> Any:
    manifest = newest(lake, chain) if n is None else versions.read(lake, chain, n)
    return open_table(lake, chain, manifest, name)


def test_many_small_fragments_become_one_and_no_row_changes(lake: Storage) -> None:
    for _ in range(5):
        add(lake)
    before = [table(lake, n=n).to_table().to_pydict() for n in range(1, 6)]
    summary = maintain.run(lake, SETTINGS)
    assert (summary.counts["tables kept up"], summary.versions) == (1, (6,))
    assert len(table(lake).get_fragments()) == 1
    assert table(lake).to_table().to_pydict() == before[-1]
    assert [table(lake, n=n).to_table().to_pydict() for n in range(1, 6)] == before, "who reads them is not disturbed"
    assert (newest(lake).positions, newest(lake).facts) == ({"segments": 4}, {"of": "a test"})


def test_every_row_is_found_by_its_indices_afterwards(lake: Storage) -> None:
    for _ in range(3):
        add(lake)
    maintain.run(lake, SETTINGS)
    add(lake)
    assert "10 rows without an index" in str(maintain.run(lake, SETTINGS).notes)
    opened = table(lake)
    assert {one.name for one in opened.describe_indices()} == {"robot_id_idx", "t_ns_idx", "message_idx"}
    assert {one.num_rows_indexed for one in opened.describe_indices()} == {40}
    plan = opened.scanner(filter="t_ns >= 5 AND t_ns < 12").explain_plan()
    assert "ScalarIndexQuery" in plan
    assert opened.to_table(filter="t_ns >= 5 AND t_ns < 12")["t_ns"].to_pylist() == list(range(5, 12))
    assert opened.to_table(full_text_query="warm").num_rows == 40
    assert opened.to_table(filter="robot_id = 'g1-1'").num_rows == 12


def test_a_second_run_finds_nothing_to_do(lake: Storage) -> None:
    for _ in range(4):
        add(lake)
    assert maintain.run(lake, SETTINGS).versions
    after = newest(lake)
    summary = maintain.run(lake, SETTINGS)
    assert (summary.versions, summary.counts["tables kept up"], summary.notes) == ((), 0, ())
    assert newest(lake) == after


def test_a_dry_run_says_what_is_due_and_changes_nothing(lake: Storage) -> None:
    for _ in range(5):
        add(lake)
    everything = {path: path.stat().st_mtime_ns for path in Path(lake.url).rglob("*")}
    summary = maintain.run(lake, SETTINGS, dry_run=True)
    assert summary.counts["tables kept up"] == 1
    assert summary.notes == (
        "lake/telemetry log: 5 small fragments, 0 rows without an index, no index on robot_id, t_ns, message",
    )
    assert {path: path.stat().st_mtime_ns for path in Path(lake.url).rglob("*")} == everything


def test_video_is_never_copied(lake: Storage) -> None:
    chain = f"{versions.DATASETS}/arm"
    for _ in range(6):
        add(lake, chain=chain, table="gops", schema=GOPS)
    fragments = [one.fragment_id for one in table(lake, "gops", chain=chain).get_fragments()]
    maintain.run(lake, SETTINGS)
    opened = table(lake, "gops", chain=chain)
    assert [one.fragment_id for one in opened.get_fragments()] == fragments
    assert {one.name for one in opened.describe_indices()} == {"episode_id_idx", "start_ns_idx"}


def test_an_empty_lake_and_an_empty_table_need_nothing(lake: Storage) -> None:
    assert maintain.run(lake, SETTINGS).versions == ()
    add(lake, rows=0)
    assert maintain.run(lake, SETTINGS).versions == ()


@pytest.mark.parametrize("step", ["refresh", "compact"])
def test_another_writer_that_takes_over_meanwhile_wins(
    lake: Storage, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It fences the chain off while the upkeep is under way, wherever that is."""
    for _ in range(5):
        add(lake)
    manifest = newest(lake)

    def take_over_first(work: Callable[..., Any]) -> Callable[..., Any]:
        def slowly(*arguments: Any, **named: Any) -> Any:
            monkeypatch.undo()
            add(lake)
            return work(*arguments, **named)

        return slowly

    if step == "refresh":
        monkeypatch.setattr("ray_jobs.indices.refresh", take_over_first(upkeep.indices.refresh))
    else:
        optimizer = type(lance.dataset(versions.table_uri(lake, CHAIN, "log")).optimize)
        monkeypatch.setattr(optimizer, "compact_files", take_over_first(optimizer.compact_files))
    with pytest.raises((CommitLost, VersionConflict)):
        upkeep.keep_up(lake, CHAIN, manifest, upkeep.needs(lake, CHAIN, manifest))
    assert newest(lake).n == 6
    assert sorted(table(lake).to_table()["t_ns"].to_pylist()) == list(range(60))


def test_a_writer_that_began_before_and_wakes_up_meanwhile_publishes_nothing(
    lake: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        add(lake)
    late = publish.begin(lake, CHAIN, planned_on=newest(lake), schemas={})
    batch = pa.RecordBatch.from_pydict({"robot_id": ["g1-9"], "t_ns": [99], "message": [""]}, schema=SCHEMA)
    written = publish.write(lake, CHAIN, "log", SCHEMA, [batch])
    refresh = upkeep.indices.refresh

    def slowly(opened: Any) -> None:
        monkeypatch.undo()
        with pytest.raises(CommitLost):
            publish.commit(late, {"log": written}, positions={}, now_ns=1)
        refresh(opened)

    monkeypatch.setattr("ray_jobs.indices.refresh", slowly)
    assert maintain.run(lake, SETTINGS).versions == (6,)
    assert sorted(table(lake).to_table()["t_ns"].to_pylist()) == list(range(50))


def test_a_run_that_lost_says_so_and_the_next_one_does_it(lake: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        add(lake)

    def lose(*_: Any) -> None:
        raise CommitLost("another writer was faster")

    with monkeypatch.context() as patch:
        patch.setattr("ray_jobs.upkeep.keep_up", lose)
        assert "left for the next run" in maintain.run(lake, SETTINGS).notes[0]
    assert maintain.run(lake, SETTINGS).versions == (6,)


# -- old versions ----------------------------------------------------------------------------------------------


def test_old_versions_and_manifests_go_and_what_a_kept_one_names_stays(lake: Storage) -> None:
    for _ in range(4):
        add(lake)
    for name in ("a", "b"):
        add(lake, table=name)
    old = cleanup.find_old(lake, CHAIN, keep_days=0)
    assert old.manifests == (1, 2, 3, 4, 5)
    assert cleanup.remove(lake, old, keep_days=0) > 0
    assert versions.list_versions(lake, CHAIN) == [6]
    for name, rows in {"log": 40, "a": 10, "b": 10}.items():
        opened = table(lake, name)
        assert opened.count_rows() == rows == opened.to_table().num_rows
        assert {one["version"] for one in opened.versions()} <= {opened.version, opened.latest_version}
    with pytest.raises(NotFound):
        versions.read(lake, CHAIN, 3)
    add(lake)
    assert table(lake).count_rows() == 50
    assert cleanup.find_old(lake, CHAIN, keep_days=7).count == 0


def test_every_version_of_a_dataset_stays_readable_and_what_a_dead_run_left_goes(lake: Storage) -> None:
    chain = f"{versions.DATASETS}/arm"
    for _ in range(3):
        add(lake, chain=chain, table="steps")
    publish.begin(lake, chain, planned_on=newest(lake, chain), schemas={})  # and then it died
    add(lake, chain=chain, table="steps")
    old = cleanup.find_old(lake, chain, keep_days=0)
    assert old.manifests == ()
    assert old.count > 0
    cleanup.remove(lake, old, keep_days=0)
    assert [table(lake, "steps", chain=chain, n=n).to_table().num_rows for n in (1, 2, 3, 4)] == [10, 20, 30, 40]
    assert cleanup.find_old(lake, chain, keep_days=0).count == 0


def test_what_is_young_stays_whatever_nobody_names(lake: Storage) -> None:
    for _ in range(3):
        add(lake)
    publish.begin(lake, CHAIN, planned_on=newest(lake), schemas={})
    assert cleanup.find_old(lake, CHAIN, keep_days=7).count == 0
    later_s = os.stat(lake.url).st_mtime + WEEK_S + 60
    assert cleanup.find_old(lake, CHAIN, keep_days=7, now_s=later_s).count > 0


def test_a_run_under_way_is_not_disturbed_by_a_cleanup(lake: Storage) -> None:
    """Its fragments are written, its tables fenced and its manifest not published yet."""
    for _ in range(3):
        add(lake)
    base = publish.begin(lake, CHAIN, planned_on=newest(lake), schemas={"log": SCHEMA})
    batch = pa.RecordBatch.from_pydict({"robot_id": ["g1-9"], "t_ns": [99], "message": [""]}, schema=SCHEMA)
    written = publish.write(lake, CHAIN, "log", SCHEMA, [batch])
    cleanup.remove(lake, cleanup.find_old(lake, CHAIN, keep_days=0), keep_days=0)
    publish.commit(base, {"log": written}, positions={}, now_ns=1)
    assert table(lake).to_table()["t_ns"].to_pylist() == [*range(30), 99]


def test_only_words_get_an_index_of_words() -> None:
    schema = pa.schema([("message", pa.int64()), ("task", pa.string()), ("value", pa.float64())])
    assert [(index.column, index.kind) for index in wanted(schema)] == [("task", "INVERTED")]


def test_a_vector_that_has_an_indexed_columns_name_gets_no_index() -> None:
    steps = steps_schema({"state": 3}, [])

    assert "state" not in {index.column for index in wanted(steps)}
    assert "state" in {index.column for index in wanted(SEGMENTS)}
