"""What comes late changes the episodes it touches, in a new version; older versions read as they did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dataset_catalog import versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from ray_jobs import align_frames, index_segments, maintain
from ray_jobs.settings import JobsSettings
from tests.ray_jobs.conftest import pictures, video
from tests.ray_jobs.test_align_frames import CHAIN, MS, RATE, T0, S, label, newest, rows, run_both, states

OBSERVED = {"nearest": [0.0], "head_camera": [0.0]}
TABLES = ("steps", "series", "gops", "statistics", "episodes")


@pytest.fixture
def hasty(jobs: JobsSettings) -> JobsSettings:
    """Waits for no hole."""
    return jobs.model_copy(update={"hole_grace_s": 0})


def contents(storage: Storage, n: int, *, chain: str = CHAIN) -> dict[str, list[dict[str, Any]]]:
    """Every table of a version, without payloads."""
    manifest = versions.read(storage, chain, n)
    opened = {name: open_table(storage, chain, manifest, name) for name in TABLES}
    return {
        name: list(one.to_table(columns=[c for c in one.schema.names if c != "payload"]).to_pylist())
        for name, one in opened.items()
    }


def sorted_rows(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    return {name: sorted(map(repr, table)) for name, table in found.items()}


def record_without_the_middle(robot: Any) -> None:
    """Two episodes, of 2 s and 1 s, with pictures at 20 Hz and states at 100 Hz; the second second has not arrived."""
    for name, start, end in (("E1", 0, 2), ("E2", 3, 4)):
        robot.log(label(name, "start", T0 + start * S), label(name, "end", T0 + end * S), stream="_events")
    robot.log(*states(T0, T0 + S), seq=0)
    robot.log(*states(T0 + 2 * S, T0 + 5 * S), seq=2)
    robot.film(T0, 20)
    robot.store("head_camera", video_of(T0 + 2 * S, 60), seq=2)


def video_of(start_ns: int, frames: int) -> bytes:
    return video("head_camera", pictures(start_ns, frames))


def the_middle_arrives(robot: Any) -> None:
    robot.log(*states(T0 + S, T0 + 2 * S), seq=1)
    robot.store("head_camera", video_of(T0 + S, 20), seq=1)


def with_state(storage: Storage, episode: str) -> tuple[int, int]:
    """Steps of an episode, and how many have a state and a picture."""
    own = [row for row in rows(storage, "steps") if row["episode_id"] == episode]
    return len(own), sum(row["nearest"] is not None and row["head_camera_k"] is not None for row in own)


def test_an_episode_that_late_segments_lie_in_is_aligned_again_and_no_other(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings
) -> None:
    record_without_the_middle(robot)
    assert run_both(robot, hasty, RATE).counts["episodes"] == 2
    assert (with_state(robot.storage, "E1"), with_state(robot.storage, "E2")) == ((40, 20), (20, 20))
    before = contents(robot.storage, 1)
    the_middle_arrives(robot)
    summary = run_both(robot, jobs, RATE)
    assert (summary.versions, summary.counts["episodes"], summary.counts["replaced"]) == ((2,), 1, 1)
    assert (with_state(robot.storage, "E1"), with_state(robot.storage, "E2")) == ((40, 40), (20, 20))
    after = contents(robot.storage, 2)
    for name in TABLES:
        others = [row for row in before[name] if row["episode_id"] != "E1"]
        assert [row for row in after[name] if row["episode_id"] != "E1"] == others, name
    assert contents(robot.storage, 1) == before, "who reads the older version is not disturbed"
    counts = {row["column"]: row["count"] for row in after["statistics"] if row["episode_id"] == "E1"}
    assert counts["nearest"] == [200, 200]
    (episode,) = (row for row in after["episodes"] if row["episode_id"] == "E1")
    assert len(episode["sources"]) == 6
    assert run_both(robot, jobs, RATE).versions == ()


def test_a_dataset_that_was_changed_late_is_the_one_that_all_in_time_would_have_made(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings
) -> None:
    record_without_the_middle(robot)
    run_both(robot, hasty, RATE)
    the_middle_arrives(robot)
    run_both(robot, jobs, RATE)
    align_frames.run(robot.storage, jobs, RATE.model_copy(update={"name": "anew"}))
    in_time = contents(robot.storage, 1, chain="datasets/anew")
    assert sorted_rows(contents(robot.storage, 2)) == sorted_rows(in_time)


def test_windows_read_what_came_late_and_the_older_version_what_it_held(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings
) -> None:
    record_without_the_middle(robot)
    run_both(robot, hasty, RATE)
    the_middle_arrives(robot)
    run_both(robot, jobs, RATE)
    maintain.run(robot.storage, jobs.model_copy(update={"compact_fragments": 2}))
    older, late, kept_up = (
        Catalog(robot.storage).dataset("arm", version=version).windows(observations=OBSERVED, image_size=(48, 64))
        for version in (1, 2, 3)
    )
    seconds = [n / 20 for n in (*range(40), *range(60, 80))]
    assert [sample["t_ns"] for sample in late] == [T0 + round(at * S) for at in seconds]
    assert [sample["nearest"][0].tolist() for sample in late] == [[round(at * 100), -round(at * 100)] for at in seconds]
    for ours, theirs in zip(late, kept_up, strict=True):
        assert np.array_equal(ours["nearest"], theirs["nearest"])
        assert np.array_equal(ours["head_camera"], theirs["head_camera"])
    seen = [(bool(sample["nearest_mask"][0]), bool(sample["head_camera_mask"][0])) for sample in older]
    assert seen == [(True, True)] * 20 + [(True, False)] + [(False, False)] * 19 + [(True, True)] * 20


def record_labels(robot: Any, *messages: tuple[str, int, Any], seq: int) -> None:
    times = {"start_ns": messages[0][1], "end_ns": messages[-1][1] + 1}
    robot.store("_events", robot.telemetry(*messages), seq=seq, **times)


@pytest.mark.parametrize("has_end", [True, False])
def test_an_episode_whose_labels_had_not_arrived_is_aligned_once_they_have(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings, has_end: bool
) -> None:
    """Either its end comes late, or it comes out that nobody ended it."""
    robot.log(*states(T0, T0 + 3 * S))
    robot.film(T0, 60)
    record_labels(robot, label("E", "start", T0), seq=0)
    record_labels(robot, ("/other", T0 + 2 * S, {}), seq=2)
    robot.close(T0 + 3 * S)
    first = run_both(robot, hasty)
    assert first.versions == ()
    assert "its labels are lost" in first.notes[0]
    assert "missing: never arrived" in first.notes[0]
    late = label("E", "end", T0 + S, success=True) if has_end else ("/other", T0 + S, {})
    record_labels(robot, late, seq=1)
    assert run_both(robot, jobs).versions == (1,)
    (episode,) = rows(robot.storage, "episodes")
    expected = (T0 + S, True, 20) if has_end else (T0 + 2990 * MS + 1, None, 60)
    assert (episode["end_ns"], episode["success"], episode["steps"]) == expected


def test_labels_that_come_late_part_what_was_taken_for_one_episode(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings
) -> None:
    """The recorder said that there were no labels, in its closing word; a segment of them comes all the same."""
    robot.log(*states(T0, T0 + 3 * S))
    robot.film(T0, 60)
    robot.close(T0 + 3 * S)
    assert run_both(robot, jobs).versions == (1,)
    assert [row["episode_id"] for row in rows(robot.storage, "episodes")] == [robot.recording]
    labels = [label("E1", "start", T0), label("E1", "end", T0 + S), label("E2", "start", T0 + S)]
    robot.log(*labels, label("E2", "end", T0 + 2 * S), stream="_events", seq=0)
    assert run_both(robot, jobs).counts["replaced"] == 1
    assert [row["episode_id"] for row in rows(robot.storage, "episodes")] == ["E1", "E2"]
    assert {row["episode_id"] for name in TABLES for row in rows(robot.storage, name)} == {"E1", "E2"}


def test_an_episode_that_late_data_make_unusable_stays_as_it_was(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings
) -> None:
    """The late video holds the same time as the one before it."""
    record_without_the_middle(robot)
    run_both(robot, hasty, RATE)
    before = contents(robot.storage, 1)
    robot.store("head_camera", video_of(T0 + S // 2, 20), seq=1)
    summary = run_both(robot, jobs, RATE)
    assert (summary.versions, summary.counts["skipped"], summary.counts["replaced"]) == ((), 1, 0)
    assert contents(robot.storage, newest(robot.storage).n) == before


def test_a_run_that_dies_between_what_goes_and_what_comes_changes_nothing(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_without_the_middle(robot)
    run_both(robot, hasty, RATE)
    before = contents(robot.storage, 1)
    the_middle_arrives(robot)
    index_segments.run(robot.storage, jobs)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dataset_catalog.publish._append", die)
        with pytest.raises(KeyboardInterrupt):
            align_frames.run(robot.storage, jobs, RATE)
    assert newest(robot.storage).n == 1
    assert contents(robot.storage, 1) == before
    assert align_frames.run(robot.storage, jobs, RATE).versions == (2,)
    assert with_state(robot.storage, "E1") == (40, 40)


def test_of_two_recordings_with_one_episode_id_the_second_is_left_out_and_takes_nothing(
    robot: Any, jobs: JobsSettings
) -> None:
    other = replace(robot, name="robo-2", recording="01JBBBBBBBBBBBBBBBBBBBBBBB", last_seq={})
    for one in (robot, other):
        one.log(label("E1", "start", T0), label("E1", "end", T0 + S), stream="_events")
        one.log(*states(T0, T0 + 2 * S))
        one.film(T0, 40)
    done = run_both(robot, jobs, RATE)
    assert (done.counts["episodes"], done.counts["skipped"]) == (1, 1)
    assert f"robo-1's recording {robot.recording} has an episode of the same id" in " ".join(done.notes)
    before = contents(robot.storage, 1)

    other.film(T0 + 2 * S, 10)
    other.log(label("E1", "end", T0 + S // 2), stream="_events")
    late = run_both(robot, jobs, RATE)
    assert (late.versions, late.counts["skipped"]) == ((), 1)
    assert contents(robot.storage, newest(robot.storage).n) == before
