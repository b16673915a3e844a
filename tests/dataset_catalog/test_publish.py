"""The commit: nothing, or everything, and never another writer's rows. On a folder; the jobs' tests do it on S3."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest

from dataset_catalog import publish, versions
from dataset_catalog.errors import CommitLost, DecodeError, RowsLost, VersionConflict
from dataset_catalog.publish import Base, Written
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table

CHAIN = "datasets/d"
SCHEMA = pa.schema([("x", pa.int64())])
SCHEMAS = {"steps": SCHEMA, "episodes": SCHEMA}


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


def begin(lake: Storage) -> Base:
    return publish.begin(lake, CHAIN, planned_on=versions.newest(lake, CHAIN), schemas=SCHEMAS)


def write(lake: Storage, *values: int, table: str = "steps") -> Written:
    batch = pa.RecordBatch.from_pydict({"x": list(values)}, schema=SCHEMA)
    return publish.write(lake, CHAIN, table, SCHEMA, [batch])


def commit(base: Base, gone: str = "", **written: Written) -> Any:
    return publish.commit(base, written, positions={"at": 1}, gone=gone, now_ns=5)


def leave_behind(base: Base, written: Written) -> None:
    """What a run leaves that dies after its first append."""
    publish._append(base, "steps", written, at=base.versions["steps"])


def values(lake: Storage, table: str = "steps") -> list[int]:
    manifest = versions.newest(lake, CHAIN)
    assert manifest
    return list(open_table(lake, CHAIN, manifest, table).to_table()["x"].to_pylist())


def test_versions_follow_each_other_and_an_untouched_table_keeps_its_own(lake: Storage) -> None:
    base = begin(lake)
    first = commit(base, steps=write(lake, 1, 2))
    second = commit(begin(lake), steps=write(lake, 3))
    assert (first.n, second.n, second.positions, values(lake), values(lake, "episodes")) == (
        1,
        2,
        {"at": 1},
        [1, 2, 3],
        [],
    )
    assert second.tables["episodes"] == first.tables["episodes"]
    steps = lance.dataset(versions.table_uri(lake, CHAIN, "steps"))
    assert {name: tag["version"] for name, tag in steps.tags.list().items()} == {
        f"v{manifest.n}": manifest.tables["steps"] for manifest in (first, second)
    }
    assert steps.has_stable_row_ids


@pytest.mark.parametrize("step", ["_create_empty", "_restore"])
def test_the_tables_of_a_chain_are_fenced_and_created_together_not_one_after_the_other(
    lake: Storage, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    schemas = {f"t{number}": SCHEMA for number in range(8)}
    if step == "_restore":
        commit(publish.begin(lake, CHAIN, planned_on=None, schemas=schemas))
    together, real = threading.Barrier(len(schemas), timeout=20), getattr(publish, step)

    def meet(*arguments: Any) -> Any:
        together.wait()
        return real(*arguments)

    monkeypatch.setattr(publish, step, meet)
    base = publish.begin(lake, CHAIN, planned_on=versions.newest(lake, CHAIN), schemas=schemas)
    assert base.versions == dict.fromkeys(schemas, 1 if step == "_create_empty" else 2)


def test_what_a_dead_run_left_behind_is_gone_and_never_published(lake: Storage) -> None:
    commit(begin(lake), steps=write(lake, 1))
    for leftover in (7, 8):
        leave_behind(begin(lake), write(lake, leftover))
    assert values(lake) == [1]
    commit(begin(lake), steps=write(lake, 2))
    assert values(lake) == [1, 2]


def test_a_first_run_that_died_leaves_tables_that_are_begun_anew(lake: Storage) -> None:
    leave_behind(begin(lake), write(lake, 7))
    commit(begin(lake), steps=write(lake, 1))
    assert values(lake) == [1]


def test_of_two_writers_one_publishes(lake: Storage) -> None:
    commit(begin(lake), steps=write(lake, 1))
    late, early = begin(lake), begin(lake)
    commit(early, steps=write(lake, 2))
    with pytest.raises((CommitLost, VersionConflict)):
        commit(late, steps=write(lake, 3))
    assert values(lake) == [1, 2]
    commit(begin(lake), steps=write(lake, 4))
    assert values(lake) == [1, 2, 4]


def test_a_commit_that_lands_behind_another_is_abandoned(lake: Storage) -> None:
    base = begin(lake)
    leave_behind(base, write(lake, 2))
    with pytest.raises(CommitLost, match="landed at 3, expected 2"):
        commit(base, steps=write(lake, 3))
    assert versions.newest(lake, CHAIN) is None


def test_work_planned_on_an_older_version_does_not_begin(lake: Storage) -> None:
    planned_on = versions.newest(lake, CHAIN)
    commit(begin(lake), steps=write(lake, 1))
    with pytest.raises(VersionConflict, match="was at version 0 when this run was planned and is at 1 now"):
        publish.begin(lake, CHAIN, planned_on=planned_on, schemas=SCHEMAS)


def test_rows_that_got_lost_are_noticed(lake: Storage) -> None:
    base, written = begin(lake), write(lake, 1, 2)
    with pytest.raises(RowsLost, match="hold 2 rows, workers wrote 3"):
        commit(base, steps=Written(3, written.fragments))
    assert versions.newest(lake, CHAIN) is None


@pytest.mark.parametrize("after", [0, 1, 3])
def test_what_making_a_batch_raises_is_raised_as_it_is(lake: Storage, after: int) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from [pa.RecordBatch.from_pydict({"x": [1]}, schema=SCHEMA)] * after
        raise DecodeError("the film is torn")

    begin(lake)
    with pytest.raises(DecodeError, match=r"^the film is torn$"):
        publish.write(lake, CHAIN, "steps", SCHEMA, batches())


def test_rows_go_in_the_version_in_which_others_come(lake: Storage) -> None:
    """Of one fragment a row goes, of another all; of the other table none, whose version stays then."""
    first = commit(begin(lake), steps=write(lake, 1, 2))
    commit(begin(lake), steps=write(lake, 3), episodes=write(lake, 9, table="episodes"))
    nothing = publish.write(lake, CHAIN, "episodes", SCHEMA, [])
    third = commit(begin(lake), "x IN (2, 3)", steps=write(lake, 5), episodes=nothing)
    assert (third.n, values(lake), values(lake, "episodes")) == (3, [1, 5], [9])
    assert open_table(lake, CHAIN, first, "steps").to_table()["x"].to_pylist() == [1, 2]
    fourth = commit(begin(lake), "x < 100", steps=publish.write(lake, CHAIN, "steps", SCHEMA, []))
    assert (fourth.n, values(lake)) == (4, [])
    commit(begin(lake), steps=write(lake, 6))
    assert values(lake) == [6]


def test_of_a_writer_that_deletes_and_one_that_appends_one_publishes(lake: Storage) -> None:
    commit(begin(lake), steps=write(lake, 1, 2))
    late = begin(lake)
    commit(begin(lake), steps=write(lake, 3))
    with pytest.raises((CommitLost, VersionConflict)):
        commit(late, "x = 1", steps=write(lake, 4))
    assert values(lake) == [1, 2, 3]


def test_rows_that_a_dead_run_took_out_are_there_again(lake: Storage) -> None:
    commit(begin(lake), steps=write(lake, 1, 2))
    base = begin(lake)
    publish._delete(base, "steps", "x = 1", at=base.versions["steps"])
    commit(begin(lake), steps=write(lake, 3))
    assert values(lake) == [1, 2, 3]


def test_a_first_run_that_another_was_faster_than_is_lost_and_a_broken_store_is_not(
    lake: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(what: str) -> Any:
        def raise_it(*_: Any, **__: Any) -> None:
            raise OSError(what)

        return raise_it

    monkeypatch.setattr(lance, "write_dataset", say("Dataset already exists: lake/steps.lance"))
    with pytest.raises(CommitLost, match="another writer"):
        begin(lake)
    monkeypatch.setattr(lance, "write_dataset", say("connection refused"))
    with pytest.raises(OSError, match="connection refused"):
        begin(lake)
