"""A recording's opening record says what the robot ran; where it does not, nothing else suffers."""

from __future__ import annotations

from typing import Any

import pytest

from dataset_catalog import versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.tables import open_table
from ray_jobs import index_segments
from ray_jobs.opening import MAX_TEXT, software_version
from ray_jobs.settings import JobsSettings
from tests.ray_jobs.conftest import telemetry

OPENED = "/recording/opened"
T0 = 1_760_000_000_000_000_000


def rows_of(robot: Any) -> list[dict[str, Any]]:
    manifest = versions.newest(robot.storage, versions.SEGMENTS)
    assert manifest
    rows: list[dict[str, Any]] = (
        open_table(robot.storage, versions.SEGMENTS, manifest, "segments").to_table().to_pylist()
    )
    return rows


def test_every_row_of_a_recording_names_its_software_and_every_video_has_a_picture(
    robot: Any, jobs: JobsSettings
) -> None:
    robot.store("_agent", telemetry((OPENED, T0, {"software_version": "1.4.2"})))
    robot.film(T0, 20)
    robot.log(("/joint_states", T0, {"q": 1.0}))
    robot.recording = "01JBBBBBBBBBBBBBBBBBBBBBBB"
    robot.last_seq.clear()
    robot.log(("/joint_states", T0, {"q": 1.0}))
    index_segments.run(robot.storage, jobs)
    found = {(row["recording_id"][3], row["stream"]): row for row in rows_of(robot)}
    assert {key: row["software_version"] for key, row in found.items()} == {
        ("A", "_agent"): "1.4.2",
        ("A", "head_camera"): "1.4.2",
        ("A", "telemetry"): "1.4.2",
        ("B", "telemetry"): None,
    }
    assert {key: row["thumbnail"] is not None for key, row in found.items()}.pop(("A", "head_camera"))
    shown = Catalog(robot.storage).thumbnails()
    assert shown["thumbnail"].to_pylist() == [found["A", "head_camera"]["thumbnail"]]
    assert shown["thumbnail"][0].as_py().startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (telemetry((OPENED, T0, {"software_version": "1.4.2"})), "1.4.2"),
        (telemetry(("/other", T0, {}), (OPENED, T0, {"software_version": "x" * 1000})), "x" * MAX_TEXT),
        (telemetry((OPENED, T0, {"software_version": ""})), None),
        (telemetry((OPENED, T0, {"software_version": "1\ud800"})), "1?"),
        (telemetry((OPENED, T0, {"software_version": 7})), None),
        (telemetry((OPENED, T0, [1])), None),
        (telemetry((OPENED, T0, b"no JSON")), None),
        (telemetry(("/other", T0, {"software_version": "1.4.2"})), None),
        (b"no MCAP", None),
        (None, None),
    ],
)
def test_what_an_opening_record_does_not_say_is_not_known(body: bytes | None, said: str | None) -> None:
    assert software_version(body) == said
