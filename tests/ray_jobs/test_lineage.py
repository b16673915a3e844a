"""A step leads back to the bytes that a robot sent: their digest, the value in them, and the picture."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
import pytest

from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import NotFound
from dataset_catalog.video import decode_gop, to_rgb
from edge.segment import read_messages
from edge.wire import MCAP_TYPE
from ray_jobs.media import read_track
from ray_jobs.settings import JobsSettings
from tests.ray_jobs.test_align_frames import T0, S, record_two_episodes, run_both


def test_a_step_leads_to_the_raw_objects_that_its_values_and_its_frame_are_in(robot: Any, jobs: JobsSettings) -> None:
    record_two_episodes(robot)
    robot.close(T0 + 5 * S)
    run_both(robot, jobs)
    dataset = Catalog(robot.storage).dataset("arm")
    for row in (0, 7, 21, 39):
        ((episode, step),) = dataset.selection.locate(np.array([row]))
        (told,) = dataset.select(episodes=[episode], where=f"step = {step}").steps().to_pylist()
        found = {one["name"]: one for one in dataset.lineage(row).to_pylist()}
        assert len(dataset.lineage(row)) == len(found)  # one object each
        bodies = {name: raw_bytes(robot, one) for name, one in found.items()}
        if told["state"] is None:
            assert set(found) == {"head_camera"}
        else:
            assert set(found) == {"head_camera", "state"}
            assert value_at(bodies["state"], found["state"]["t_ns"]) == told["state"]
        seen = dataset.frame(episode, step, "head_camera")
        assert np.array_equal(picture_at(bodies["head_camera"], found["head_camera"]["t_ns"]), seen)
    assert dataset.lineage(-1).equals(dataset.lineage(("E2", 19)))
    with pytest.raises(NotFound, match="has no step 99 of episode 'E1'"):
        dataset.lineage(("E1", 99))
    with pytest.raises(NotFound, match=r"a row must be in \[0, 40\), got 40"):
        dataset.lineage(40)


def test_labels_tags_and_pinned_sets_work_on_s3_as_in_a_folder(robot: Any, jobs: JobsSettings) -> None:
    record_two_episodes(robot)
    robot.close(T0 + 5 * S)
    run_both(robot, jobs)
    catalog = Catalog(robot.storage)
    assert catalog.label(["E1", "E2"], author="Ada", grip="firm") == 1
    assert catalog.label("E2", author="Ada", grip=None) == 2
    pinned = catalog.dataset("arm").select(where="labels['grip'] = 'firm'").pin()
    assert catalog.tag("arm", "paper") == catalog.tag("arm", "paper", "v1") == 1
    assert catalog.tags("arm") == {"paper": 1}
    catalog.label("E1", author="Ada", grip=None)
    again = catalog.pinned(pinned.to_json())
    assert (list(again.selection.episode_ids), again.label_version) == (["E1"], 2)
    assert catalog.dataset("arm", "paper").label_version == 3
    catalog.untag("arm", "paper")
    with pytest.raises(NotFound, match="has no tag 'paper'"):
        catalog.untag("arm", "paper")


def raw_bytes(robot: Any, found: dict[str, Any]) -> bytes:
    """The object's bytes, whose digest is as it was told."""
    body: bytes = robot.storage.filesystem().cat_file(robot.storage.path(found["key"]))
    assert hashlib.sha256(body).hexdigest() == found["sha256"]
    return body


def value_at(body: bytes, t_ns: int) -> list[float]:
    (message,) = (one for one in read_messages(io.BytesIO(body)) if one.topic.name == "/q" and one.t_ns == t_ns)
    values: list[float] = json.loads(message.data)["position"]
    return values


def picture_at(body: bytes, t_ns: int) -> Any:
    for gop in read_track(body, content_type=MCAP_TYPE, start_ns=0).gops:
        if t_ns in gop.frame_t_ns:
            frames = decode_gop("h264", b"", [packet.data for packet in gop.packets])
            return to_rgb(frames[gop.frame_t_ns.index(t_ns)])
    raise AssertionError(f"no picture of {t_ns} ns")
