"""Holes on a real S3 and a real Ray: named after a grace period, and what arrives in them later is indexed once."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from edge.wire import SegmentId
from ingest_serve.raw_store import RawStore
from ray_jobs import gaps, index_segments, load_telemetry
from ray_jobs.backlog import Missing, Reached, find
from ray_jobs.settings import JobsSettings

T0 = 1_760_000_000_000_000_000
S = 1_000_000_000


@pytest.fixture
def hasty(jobs: JobsSettings) -> JobsSettings:
    """Waits for nothing."""
    return jobs.model_copy(update={"hole_grace_s": 0})


def rows(storage: Storage) -> list[dict[str, Any]]:
    manifest = versions.newest(storage, versions.SEGMENTS)
    assert manifest
    order = [(name, "ascending") for name in ("stream", "seq", "state")]
    return list(open_table(storage, versions.SEGMENTS, manifest, "segments").to_table().sort_by(order).to_pylist())


def seqs(storage: Storage) -> list[tuple[int, int | None, str, int]]:
    return [(row["seq"], row["last_seq"], row["state"], row["index_version"]) for row in rows(storage)]


def log(robot: Any, *numbers: int) -> None:
    for seq in numbers:
        message = ("/n", T0 + seq * S, {"seq": seq})
        times = {"start_ns": T0 + seq * S, "end_ns": T0 + seq * S + 1}
        robot.store("telemetry", robot.telemetry(message), seq=seq, **times)


def test_a_hole_is_named_after_the_grace_period_and_the_stream_goes_on(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings
) -> None:
    log(robot, 0, 3, 4, 6)
    assert index_segments.run(robot.storage, jobs).counts["waiting behind a hole"] == 3
    summary = index_segments.run(robot.storage, hasty)
    counted = [summary.counts[what] for what in ("segments", "gaps", "quarantined", "waiting behind a hole")]
    assert counted == [3, 2, 0, 0]
    assert seqs(robot.storage) == [
        *[(0, None, "ok", 1), (1, 2, "gap", 2), (3, None, "ok", 2)],
        *[(4, None, "ok", 2), (5, 5, "gap", 2), (6, None, "ok", 2)],
    ]
    hole = rows(robot.storage)[1]
    assert hole["reason"] == "missing: never arrived, 0.0 h after what follows it had"
    assert (hole["start_ns"], hole["end_ns"], hole["kind"]) == (T0 + 1, T0 + 3 * S, "telemetry")
    assert abs(hole["received_ns"] - time.time_ns()) < 600 * S
    assert (hole["sha256"], hole["bytes"], hole["topics"]) == (None, None, None)
    assert summary.notes[0] == f"gap {hole['key']} to 0000000002: {hole['reason']}"
    assert index_segments.run(robot.storage, hasty).versions == ()


def test_what_arrives_in_a_named_hole_is_indexed_once_in_a_version_of_its_own(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings
) -> None:
    log(robot, 0, 5)
    index_segments.run(robot.storage, hasty)
    assert load_telemetry.run(robot.storage, jobs).counts["messages"] == 2
    log(robot, 1, 3)
    assert index_segments.run(robot.storage, jobs).versions == (2,)
    assert load_telemetry.run(robot.storage, jobs).counts["messages"] == 2
    assert index_segments.run(robot.storage, jobs).versions == ()
    log(robot, 2, 4)
    one_by_one = jobs.model_copy(update={"segments_per_commit": 1})
    assert index_segments.run(robot.storage, one_by_one).versions == (3, 4)
    assert load_telemetry.run(robot.storage, jobs).counts["messages"] == 2
    assert load_telemetry.run(robot.storage, jobs).versions == ()
    assert [(seq, state, n) for seq, _, state, n in seqs(robot.storage)] == [
        *[(0, "ok", 1), (1, "gap", 1), (1, "ok", 2), (2, "ok", 3)],
        *[(3, "ok", 2), (4, "ok", 4), (5, "ok", 1)],
    ]
    manifest = versions.newest(robot.storage, versions.SEGMENTS)
    assert manifest
    assert (list(manifest.positions.values()), manifest.facts) == ([5], {"holes": {}})


def test_a_robots_word_that_comes_late_says_why_its_segments_are_missing(
    robot: Any, jobs: JobsSettings, hasty: JobsSettings
) -> None:
    log(robot, 0, 5)
    index_segments.run(robot.storage, hasty)
    robot.gap("telemetry", 1, 4, start_ns=T0 + S, end_ns=T0 + 5 * S)
    assert index_segments.run(robot.storage, jobs).counts["gaps"] == 1
    assert [row["reason"].split(":")[0] for row in rows(robot.storage) if row["seq"] == 1] == ["missing", "evicted"]
    log(robot, 2)
    index_segments.run(robot.storage, jobs)
    assert (2, None, "ok", 3) in seqs(robot.storage)


def test_a_run_lists_a_stream_once_and_each_of_its_holes_once(
    robot: Any, hasty: JobsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(robot, *range(9), *range(12, 30), 40)
    index_segments.run(robot.storage, hasty)
    manifest = versions.newest(robot.storage, versions.SEGMENTS)
    assert manifest
    before = Reached.read(manifest.positions, manifest.facts)
    listed: list[int] = []
    times_after = RawStore.times_after

    def watched(store: RawStore, *name: Any, limit: int | None = None) -> dict[int, int]:
        found = times_after(store, *name, limit=limit)
        listed.append(len(found))
        return found

    monkeypatch.setattr(RawStore, "times_after", watched)
    monkeypatch.setattr("ray_jobs.holes.PAGE", 5)
    monkeypatch.setattr("ray_jobs.backlog.PAGE", 5)
    found = find(RawStore.open(robot.storage), before, threads=2)
    assert list(found.values()) == [{}]
    assert listed == [5, 1, 0], "behind 8 up to the first page's end, behind 29, and behind the position"


def test_a_hole_whose_neighbours_cannot_be_read_has_the_time_of_those_that_can(robot: Any) -> None:
    log(robot, 0, 3)
    store = RawStore.open(robot.storage)
    name = (robot.name, robot.recording, "telemetry")

    def times(before: int, behind: int) -> tuple[int, int]:
        missing = Missing(name, 1, 2, SegmentId(*name, before), SegmentId(*name, behind), since_ns=0)
        row = gaps.missing_row(store, missing, index_version=1, now_ns=10**18)
        return row["start_ns"], row["end_ns"]

    assert times(0, 3) == (T0 + 1, T0 + 3 * S)
    assert times(8, 3) == (T0 + 3 * S, T0 + 3 * S)
    assert times(0, 9) == (T0 + 1, T0 + 1)
    assert times(8, 9) == (0, 0)
