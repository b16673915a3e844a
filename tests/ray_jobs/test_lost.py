"""Raw objects that are gone or damaged since they were indexed stop no job: the rest goes on, and they are told."""

from __future__ import annotations

import pickle
from typing import Any

from dataset_catalog.catalog import Catalog
from ingest_serve.raw_store import RawStore
from ray_jobs import align_frames, index_segments, load_telemetry
from ray_jobs.errors import SegmentLost
from ray_jobs.settings import JobsSettings
from tests.ray_jobs.test_align_frames import SPEC, T0, S, label, rows, state


def test_telemetry_is_loaded_without_what_is_lost(robot: Any, jobs: JobsSettings) -> None:
    gone, damaged, *_ = [robot.log(("/n", T0 + number, {"n": number})) for number in range(5)]
    alone = robot.log(("/only_here", T0, {"n": 9}))
    index_segments.run(robot.storage, jobs)
    RawStore.open(robot.storage).remove([gone, alone])
    robot.change_in_store(damaged)
    done = load_telemetry.run(robot.storage, jobs)
    assert (done.counts["segments"], done.rows) == (3, {"n": 3})
    assert all(any(one.key in note and "is lost" in note for note in done.notes) for one in (gone, damaged, alone))
    assert Catalog(robot.storage).sql("SELECT n FROM telemetry.n ORDER BY n")["n"].to_pylist() == [2, 3, 4]
    assert load_telemetry.run(robot.storage, jobs).versions == ()


def record(robot: Any) -> tuple[Any, Any]:
    """Two episodes of a second, each with its own segments; what holds the labels, and the video, of the first."""
    kept = []
    for number in range(2):
        start_ns = T0 + number * 2 * S
        labels = robot.log(
            label(f"E{number}", "start", start_ns), label(f"E{number}", "end", start_ns + S), stream="_events"
        )
        robot.log(*(state(start_ns + n * S // 20, n) for n in range(20)))
        kept.append((labels, robot.film(start_ns, 20)))
    robot.close(T0 + 4 * S)
    return kept[0]


def test_an_episode_whose_video_is_lost_is_left_out_and_the_others_are_aligned(robot: Any, jobs: JobsSettings) -> None:
    _, film = record(robot)
    index_segments.run(robot.storage, jobs)
    RawStore.open(robot.storage).remove([film])
    done = align_frames.run(robot.storage, jobs, SPEC)
    assert (done.counts["episodes"], done.counts["skipped"], done.rows["steps"]) == (1, 1, 20)
    assert f"{film.key} is lost since it was indexed" in done.notes[0]
    assert {row["episode_id"] for name in ("steps", "gops", "series") for row in rows(robot.storage, name)} == {"E1"}


def test_an_episode_whose_labels_are_lost_is_none_and_the_recording_is_not_taken_for_one(
    robot: Any, jobs: JobsSettings
) -> None:
    labels, _ = record(robot)
    index_segments.run(robot.storage, jobs)
    robot.change_in_store(labels)
    done = align_frames.run(robot.storage, jobs, SPEC)
    assert done.counts["episodes"] == 1
    assert {row["episode_id"] for row in rows(robot.storage, "episodes")} == {"E1"}


def test_the_error_crosses_from_a_worker_to_the_driver_as_it_is() -> None:
    error = pickle.loads(pickle.dumps(SegmentLost("raw/a", "it is gone")))  # noqa: S301 (our own)
    assert (error.key, str(error)) == ("raw/a", "raw/a is lost since it was indexed: it is gone")
