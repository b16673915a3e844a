"""Raw segments go when they have been kept long enough, whole recordings at a time; what was made of them stays."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from dataset_catalog import publish, versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import VersionConflict
from ingest_serve.errors import NotStored
from ingest_serve.raw_store import RawStore
from ray_jobs import align_frames, index_segments, load_telemetry, maintain, retention
from ray_jobs.settings import JobsSettings
from tests.ray_jobs.test_align_frames import SPEC, label, record_two_episodes, rows, state

T0 = 1_760_000_000_000_000_000
S = 1_000_000_000
NOW = 10  # test robots' segments were received at 1 ns


def states(robot: Any) -> dict[str, list[str]]:
    """Stream → the states of its segments in order."""
    found = Catalog(robot.storage).sql(
        "SELECT stream, list(state ORDER BY seq) AS states FROM segments GROUP BY stream"
    )
    return {row["stream"]: row["states"] for row in found.to_pylist()}


def is_stored(robot: Any, segment: Any) -> bool:
    try:
        RawStore.open(robot.storage).head(segment)
    except NotStored:
        return False
    return True


def expire(
    robot: Any, *, before_ns: int = NOW, marked_before_ns: int = 2**62, dry_run: bool = False
) -> retention.Retained:
    return retention.expire_raw(robot.storage, before_ns=before_ns, marked_before_ns=marked_before_ns, dry_run=dry_run)


def test_segments_are_marked_then_removed_and_what_was_made_of_them_stays(robot: Any, jobs: JobsSettings) -> None:
    record_two_episodes(robot)
    bad = robot.store("telemetry", b"no MCAP", start_ns=T0, end_ns=T0 + 1)
    robot.gap("telemetry", 3, 4, start_ns=T0 + 3 * S, end_ns=T0 + 4 * S)
    film = robot.film(T0 + 4 * S, 10)
    robot.close(T0 + 5 * S)
    for job in (index_segments.run, load_telemetry.run):
        job(robot.storage, jobs)
    align_frames.run(robot.storage, jobs, SPEC)
    made = {name: rows(robot.storage, name) for name in ("steps", "episodes", "gops", "series")}
    before = versions.newest(robot.storage, versions.SEGMENTS)
    assert before

    assert expire(robot, dry_run=True).marked == 7
    assert versions.newest(robot.storage, versions.SEGMENTS) == before

    marked = expire(robot)
    assert (marked.marked, marked.removed, marked.published) == (7, 0, (2,))
    assert states(robot)["telemetry"] == ["expiring", "expiring", "expiring", "gap"]
    assert is_stored(robot, film)

    removed = expire(robot)
    assert (removed.marked, removed.removed, removed.freed > 10_000) == (0, 7, True)
    assert states(robot) == {
        "telemetry": ["expired", "expired", "expired", "gap"],
        "head_camera": ["expired"] * 3,
        "_agent": ["expired"],
    }
    assert not is_stored(robot, film)
    assert not is_stored(robot, bad)
    after = versions.newest(robot.storage, versions.SEGMENTS)
    assert after
    assert (after.positions, after.facts) == (before.positions, before.facts)

    assert expire(robot) == retention.Retained(), "there is nothing left to do"
    assert index_segments.run(robot.storage, jobs).versions == ()
    assert load_telemetry.run(robot.storage, jobs).versions == ()
    assert align_frames.run(robot.storage, jobs, SPEC).versions == ()
    assert {name: rows(robot.storage, name) for name in made} == made
    thumbnails = Catalog(robot.storage).sql("SELECT count(*) AS n FROM segments WHERE frames > 0").to_pylist()
    assert thumbnails == [{"n": 3}], "what the index knows is still found"


def test_late_data_of_an_expired_recording_take_nothing_from_its_episodes(robot: Any, jobs: JobsSettings) -> None:
    record_two_episodes(robot)
    robot.close(T0 + 5 * S)
    for job in (index_segments.run, load_telemetry.run):
        job(robot.storage, jobs)
    align_frames.run(robot.storage, jobs, SPEC)
    made = rows(robot.storage, "steps")
    assert (expire(robot).marked, expire(robot).removed) == (5, 5)

    robot.log(label("E1", "start", T0 + S // 2), state(T0 + S, 7.0), label("E1", "end", T0 + 3 * S // 2))
    robot.film(T0, 40)
    robot.close(T0 + 5 * S)
    index_segments.run(robot.storage, jobs)
    late = align_frames.run(robot.storage, jobs, SPEC)
    assert (late.versions, late.counts["skipped"]) == ((), 0)
    assert "1 recordings are kept no longer" in late.notes[0]
    assert rows(robot.storage, "steps") == made


def test_nothing_goes_that_is_not_loaded_yet_or_of_a_recording_that_goes_on(robot: Any, jobs: JobsSettings) -> None:
    robot.log(("/n", T0, {"n": 1}))
    robot.film(T0, 10)
    index_segments.run(robot.storage, jobs)
    assert expire(robot).marked == 0, "its telemetry is not loaded"
    load_telemetry.run(robot.storage, jobs)
    assert expire(robot, before_ns=1).marked == 0, "it came later"
    assert expire(robot).marked == 2


def test_a_removal_that_was_cut_off_is_done_again(
    robot: Any, jobs: JobsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = robot.log(("/n", T0, {"n": 1}))
    for job in (index_segments.run, load_telemetry.run):
        job(robot.storage, jobs)
    assert expire(robot).marked == 1

    def too_late(*_: Any, **__: Any) -> Any:
        raise VersionConflict("another writer was faster")

    with monkeypatch.context() as patch:
        patch.setattr(publish, "commit", too_late)
        with pytest.raises(VersionConflict):
            expire(robot)
    assert not is_stored(robot, segment)
    assert states(robot)["telemetry"] == ["expiring"]
    assert expire(robot).removed == 1
    assert states(robot)["telemetry"] == ["expired"]


def test_what_was_marked_stays_after_all_where_it_is_to_be_kept_longer(robot: Any, jobs: JobsSettings) -> None:
    segment = robot.log(("/n", T0, {"n": 1}))
    robot.store("telemetry", b"no MCAP", start_ns=T0, end_ns=T0 + 1)
    damaged = robot.log(("/n", T0, {"n": 2}))
    robot.strip_metadata(damaged)
    for job in (index_segments.run, load_telemetry.run):
        job(robot.storage, jobs)
    assert expire(robot).marked == 2, "those of which it is known when they came"
    assert states(robot)["telemetry"] == ["expiring"] * 3
    assert expire(robot, before_ns=0) == retention.Retained(published=(3,))
    assert states(robot)["telemetry"] == ["ok", "quarantined", "quarantined"]
    assert is_stored(robot, segment)
    assert (expire(robot).marked, expire(robot).removed) == (2, 3), "an object without our metadata goes too"


def test_nothing_is_removed_within_the_grace_period_whatever_is_published_meanwhile(
    robot: Any, jobs: JobsSettings
) -> None:
    segment = robot.log(("/n", T0, {"n": 1}))
    for job in (index_segments.run, load_telemetry.run):
        job(robot.storage, jobs)
    before_ns = time.time_ns()
    assert expire(robot).marked == 1
    after_ns = time.time_ns()
    assert expire(robot, marked_before_ns=before_ns) == retention.Retained()
    robot.recording = "01JBBBBBBBBBBBBBBBBBBBBBBB"
    robot.log(("/n", T0, {"n": 2}), seq=0)
    assert index_segments.run(robot.storage, jobs).versions == (3,)
    assert expire(robot, marked_before_ns=before_ns) == retention.Retained(), "the index kept since when it is marked"
    assert is_stored(robot, segment)
    assert expire(robot, marked_before_ns=after_ns).removed == 1


def test_what_is_marked_since_nobody_knows_when_is_marked_anew_and_waits(robot: Any, jobs: JobsSettings) -> None:
    robot.film(T0, 10)
    index_segments.run(robot.storage, jobs)
    assert expire(robot).marked == 1
    older = versions.newest(robot.storage, versions.SEGMENTS)
    assert older
    versions.publish(robot.storage, versions.SEGMENTS, replace(older, n=older.n + 1, facts={}))
    assert expire(robot).removed == 0
    assert states(robot) == {"head_camera": ["ok"]}
    assert expire(robot).marked == 1
    assert expire(robot, marked_before_ns=time.time_ns() - 3600 * S).removed == 0
    assert expire(robot).removed == 1


def test_maintain_keeps_everything_unless_it_is_told_for_how_long(robot: Any, jobs: JobsSettings) -> None:
    robot.log(("/n", T0, {"n": 1}), ("/n", 2**62, {"n": 2}))
    for job in (index_segments.run, load_telemetry.run):
        job(robot.storage, jobs)
    maintain.run(robot.storage, jobs)
    assert states(robot) == {"telemetry": ["ok"]}

    told = jobs.model_copy(update={"keep_raw_days": 30, "keep_telemetry_days": 30})
    dry = maintain.run(robot.storage, told, dry_run=True)
    assert (dry.counts["segments expiring"], dry.counts["rows expired"], dry.versions) == (1, 1, ())
    done = maintain.run(robot.storage, told)
    assert (done.counts["segments expiring"], done.counts["rows expired"]) == (1, 1)
    assert Catalog(robot.storage).sql("SELECT n FROM telemetry.n").to_pylist() == [{"n": 2}]
    assert load_telemetry.run(robot.storage, jobs).versions == (), "what went is not loaded again"
    assert maintain.run(robot.storage, told).counts["segments expired"] == 0, "they are marked since a moment ago"
    at_once = told.model_copy(update={"keep_expiring_days": 0})
    assert maintain.run(robot.storage, at_once).counts["segments expired"] == 1
