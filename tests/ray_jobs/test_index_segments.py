"""index_segments on a real S3 and a real Ray."""

from __future__ import annotations

from typing import Any

import pytest

from dataset_catalog import publish, versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from ray_jobs import index_segments
from ray_jobs.settings import JobsSettings

T0 = 1_760_000_000_000_000_000
S = 1_000_000_000


def rows(storage: Storage) -> list[dict[str, Any]]:
    manifest = versions.newest(storage, versions.SEGMENTS)
    assert manifest
    order = [(name, "ascending") for name in ("robot_id", "recording_id", "stream", "seq")]
    table = open_table(storage, versions.SEGMENTS, manifest, "segments").to_table()
    return list(table.sort_by(order).to_pylist())


def test_every_segment_becomes_one_row_and_a_second_run_changes_nothing(robot: Any, jobs: JobsSettings) -> None:
    robot.log(("/battery", T0, {"percent": 80}), ("/log", T0 + 5, {"message": "on"}), ("/battery", T0 + S, {}))
    robot.film(T0, 25)
    robot.close(T0 + 2 * S)
    first = index_segments.run(robot.storage, jobs)
    assert (first.versions, first.counts["segments"], first.counts["quarantined"]) == ((1,), 3, 0)
    agent, camera, telemetry = rows(robot.storage)
    assert [topic["name"] for topic in agent["topics"]] == ["/recording/closed"]
    assert [(topic["name"], topic["count"]) for topic in telemetry["topics"]] == [("/battery", 2), ("/log", 1)]
    assert (telemetry["start_ns"], telemetry["end_ns"], telemetry["messages"]) == (T0, T0 + S + 1, 3)
    assert (camera["frames"], camera["codec"], camera["width"], camera["height"]) == (25, "h264", 64, 48)
    assert [gop["frames"] for gop in camera["gops"]] == [10, 10, 5]
    assert camera["fps"] == pytest.approx(20)
    assert camera["luma_mean"] == pytest.approx(62, abs=4)
    assert (camera["black_share"], camera["blurred_share"]) == (0, 1)  # plain gray pictures
    assert 0 < camera["frozen_share"] < 0.5  # an encoder leaves out so small a change now and then
    assert camera["motion"] == pytest.approx(1, abs=0.3)
    assert telemetry["motion"] is telemetry["clock_offset_ns"] is None
    before = rows(robot.storage)
    assert index_segments.run(robot.storage, jobs).versions == ()
    assert rows(robot.storage) == before


def test_what_is_damaged_is_quarantined_with_its_reason_and_the_rest_goes_on(robot: Any, jobs: JobsSettings) -> None:
    robot.film(T0, 25)
    robot.film(T0 + 2 * S, 25, drop=[4])
    robot.film(T0 + 4 * S, 25, drop=[0])
    robot.store("head_camera", b"no mp4 at all", content_type="video/mp4")
    robot.store("telemetry", b"\x89MCAP0\r\n torn", start_ns=T0, end_ns=T0 + 1)
    robot.log(("/battery", T0, {"percent": 80}))
    robot.change_in_store(robot.log(("/battery", T0, {}), stream="other"))
    summary = index_segments.run(robot.storage, jobs)
    assert (summary.counts["segments"], summary.counts["quarantined"]) == (7, 5)
    assert len(summary.notes) == 5
    found = {(row["stream"], row["seq"]): (row["state"], row["reason"]) for row in rows(robot.storage)}
    assert found["head_camera", 0] == found["telemetry", 1] == ("ok", None)
    assert "a picture is missing before picture 4" in found["head_camera", 1][1]
    assert "middle of a GOP" in found["head_camera", 2][1]
    assert "mp4" in found["head_camera", 3][1]
    assert "MCAP" in found["telemetry", 0][1]
    assert "sha-256" in found["other", 0][1]


def test_segments_behind_a_hole_wait_until_it_is_filled(robot: Any, jobs: JobsSettings) -> None:
    for seq in (0, 2, 3):
        robot.store("telemetry", robot.telemetry(("/n", T0 + seq, {"seq": seq})), seq=seq)
    assert index_segments.run(robot.storage, jobs).counts["waiting behind a hole"] == 2
    assert [row["seq"] for row in rows(robot.storage)] == [0]
    robot.store("telemetry", robot.telemetry(("/n", T0 + 1, {"seq": 1})), seq=1)
    summary = index_segments.run(robot.storage, jobs.model_copy(update={"segments_per_commit": 2}))
    assert (summary.versions, summary.counts["waiting behind a hole"]) == ((2, 3), 0)
    assert [(row["seq"], row["index_version"]) for row in rows(robot.storage)] == [(0, 1), (1, 2), (2, 2), (3, 3)]


@pytest.mark.parametrize("step", ["_append", "versions.publish"])
def test_a_run_that_dies_before_its_manifest_changes_nothing(
    robot: Any, jobs: JobsSettings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    robot.log(("/battery", T0, {"percent": 80}))
    for version in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(f"dataset_catalog.publish.{step}", _die)
            with pytest.raises(KeyboardInterrupt):
                index_segments.run(robot.storage, jobs)
        newest = versions.newest(robot.storage, versions.SEGMENTS)
        assert (newest.n if newest else 0) == version - 1
        assert index_segments.run(robot.storage, jobs).versions == (version,)
        assert [row["seq"] for row in rows(robot.storage)] == list(range(version))
        robot.log(("/battery", T0 + version, {"percent": 79}))


def _die(*args: Any, **more: Any) -> None:
    raise KeyboardInterrupt


def test_a_writer_that_wakes_up_late_publishes_nothing(robot: Any, jobs: JobsSettings) -> None:
    robot.log(("/battery", T0, {"percent": 80}))
    index_segments.run(robot.storage, jobs)
    manifest = versions.newest(robot.storage, versions.SEGMENTS)
    late = publish.begin(robot.storage, versions.SEGMENTS, planned_on=manifest, schemas={})
    part = index_segments.index_batch(robot.storage, late.next_n, [_item(robot)], settings=jobs)
    robot.log(("/battery", T0 + 1, {"percent": 79}))
    index_segments.run(robot.storage, jobs)
    before = rows(robot.storage)
    with pytest.raises(publish.CommitLost):
        publish.commit(late, part.written, positions={}, now_ns=0)
    assert rows(robot.storage) == before


def _item(robot: Any) -> dict[str, Any]:
    return {"robot": robot.name, "recording": robot.recording, "stream": "telemetry", "seq": 0}
