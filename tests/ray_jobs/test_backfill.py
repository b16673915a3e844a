"""backfill on a real S3 and a real Ray: what is asked for is aligned again, the rest stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from ray_jobs import align_frames, backfill, index_segments
from ray_jobs.__main__ import app
from ray_jobs.align_spec import AlignSpec
from ray_jobs.errors import SpecError
from ray_jobs.settings import JobsSettings
from tests.ray_jobs.test_align_frames import CHAIN, MS, RATE, T0, S, label, newest, rows, states
from tests.ray_jobs.test_late_data import contents
from tests.ray_jobs.test_main import environment

ROBOTS = ("robo-1", "robo-2")
CHANGED = AlignSpec.model_validate(  # in another order, too
    RATE.model_dump()
    | {"columns": {name: RATE.columns[name].model_dump() | {"tolerance_ms": 4} for name in reversed(RATE.columns)}}
)


@pytest.fixture
def dataset(robot: Any, jobs: JobsSettings) -> Any:
    """Two robots with an episode of 1 s each hour, twice, indexed and aligned; the values are 5 ms beside the steps.

    Their recordings have one name, which says nothing: only with the robot's it is one's own.
    """
    for name in ROBOTS:
        one = replace(robot, name=name, last_seq={})
        for hour in (0, 1):
            start_ns = T0 + hour * 3600 * S
            episode = f"{name}-{hour}"
            one.log(label(episode, "start", start_ns), label(episode, "end", start_ns + S), stream="_events")
            one.log(*states(start_ns + 5 * MS, start_ns + S + 50 * MS))
            one.film(start_ns, 22)
    index_segments.run(robot.storage, jobs)
    align_frames.run(robot.storage, jobs, RATE)
    assert [row["episode_id"] for row in episodes(robot.storage)] == [f"{r}-{h}" for r in ROBOTS for h in (0, 1)]
    return robot


def episodes(storage: Storage) -> list[dict[str, Any]]:
    return sorted(rows(storage, "episodes"), key=lambda row: str(row["episode_id"]))


def without_values(storage: Storage) -> set[str]:
    """Episodes that the changed spec has reached: no reading lies within its tolerance."""
    steps = rows(storage, "steps")
    found = {row["episode_id"] for row in steps if row["nearest"] is None}
    assert not found & {row["episode_id"] for row in steps if row["nearest"] is not None}
    return found


@pytest.mark.parametrize(
    ("which", "reached"),
    [
        ({}, {"robo-1-0", "robo-1-1", "robo-2-0", "robo-2-1"}),
        ({"robot": "robo-2"}, {"robo-2-0", "robo-2-1"}),
        ({"robot": "robo-1", "start_ns": T0 + 3600 * S, "end_ns": T0 + 3601 * S}, {"robo-1-1"}),
    ],
)
def test_what_is_asked_for_is_aligned_again_by_the_changed_spec(
    dataset: Any, jobs: JobsSettings, which: dict[str, Any], reached: set[str]
) -> None:
    storage, before = dataset.storage, contents(dataset.storage, 1)
    summary = backfill.run(storage, jobs, CHANGED, **which)
    assert (summary.job, summary.versions) == ("backfill", (2,))
    assert (summary.counts["episodes"], summary.counts["replaced"]) == (len(reached), len(reached))
    assert without_values(storage) == reached
    assert len(episodes(storage)) == 4
    left = 4 - len(reached)
    assert summary.notes == ((f"{left} episodes are still as the spec of before made them",) if left else ())
    assert contents(storage, 1) == before
    kept = [row for row in before["steps"] if row["episode_id"] not in reached]
    assert [row for row in contents(storage, 2)["steps"] if row["episode_id"] not in reached] == kept
    assert align_frames.run(storage, jobs, CHANGED).versions == (), "and it is the dataset's spec from now on"
    with pytest.raises(SpecError, match="another spec"):
        align_frames.run(storage, jobs, RATE)


def test_the_same_spec_gives_the_same_rows_once(dataset: Any, jobs: JobsSettings) -> None:
    before = contents(dataset.storage, 1)
    one_by_one = jobs.model_copy(update={"episodes_per_commit": 1})
    other_order = RATE.model_copy(update={"columns": dict(reversed(RATE.columns.items()))})
    assert backfill.run(dataset.storage, one_by_one, other_order).versions == (2, 3, 4, 5)
    assert in_any_order(contents(dataset.storage, 5)) == in_any_order(before)
    assert newest(dataset.storage).positions == versions.read(dataset.storage, CHAIN, 1).positions


def in_any_order(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    for row in found["episodes"]:
        row["columns"] = json.dumps(json.loads(row["columns"]), sort_keys=True)
    return {name: sorted(map(repr, table)) for name, table in found.items()}


def test_where_nothing_overlaps_nothing_is_published(dataset: Any, jobs: JobsSettings) -> None:
    assert backfill.run(dataset.storage, jobs, CHANGED, start_ns=T0 + 7200 * S).versions == ()
    assert backfill.run(dataset.storage, jobs, CHANGED, robot="robo-3").versions == ()
    assert newest(dataset.storage).n == 1


def test_a_spec_with_other_columns_or_of_no_dataset_is_refused(dataset: Any, jobs: JobsSettings) -> None:
    fewer = RATE.model_copy(update={"columns": {"nearest": RATE.columns["nearest"]}})
    with pytest.raises(SpecError, match=r"other columns \(linear: fixed_size_list.*: give the new one a new name"):
        backfill.run(dataset.storage, jobs, fewer)
    with pytest.raises(SpecError, match="there is no dataset other yet"):
        backfill.run(dataset.storage, jobs, RATE.model_copy(update={"name": "other"}))


def command(robot: Any, *words: str) -> Any:
    return CliRunner().invoke(app, ["run", *words], env=environment(robot))


def test_the_command_takes_a_robot_and_a_range(dataset: Any, tmp_path: Path) -> None:
    spec = tmp_path / "arm.toml"
    lines = ['name = "arm"', "rate_hz = 20", "[cameras]", "head_camera = { tolerance_ms = 30 }"]
    for policy in ("nearest", "previous", "linear"):
        about = f'policy = "{policy}"\ntolerance_ms = 4\nsize = 2'
        lines += [f"[columns.{policy}]", 'topic = "/q"', 'field = "position"', about]
    spec.write_text("\n".join(lines))
    words = ["backfill", "--spec", str(spec), "--robot", "robo-2", "--end", str(T0 + S), "--json"]
    done = command(dataset, *words)
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["job"], summary["versions"], summary["counts"]["replaced"]) == ("backfill", [2], 1)
    assert without_values(dataset.storage) == {"robo-2-0"}
    assert command(dataset, "index_segments", "--robot", "robo-2").exit_code == 2
    wrong = command(dataset, "backfill", "--spec", str(spec), "--start", "yesterday")
    assert wrong.exit_code == 1
    assert "ISO 8601" in wrong.stderr
