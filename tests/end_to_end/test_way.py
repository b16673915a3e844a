"""From a robot's reading to a torch batch, and every job twice."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from dataset_catalog import Catalog, Dataset, horizon
from edge.spool import Spool
from fleetfeed.demo import account
from fleetfeed.demo.fleet import DemoRobot
from fleetfeed.demo.robot import CAMERA
from fleetfeed.demo.tour import DATASET, SPEC
from fleetfeed.demo.work import let_in, run_job, storage_of
from fleetfeed.stack import StackInfo
from ingest_serve.raw_store import RawStore

pytestmark = pytest.mark.stack
ROBOT = "way-robot"
JOBS = {"index_segments": (), "load_telemetry": (), "align_frames": ("--spec", SPEC)}


@pytest.fixture(scope="module")
def robot(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoRobot]:
    """A robot that has recorded two episodes and delivered them; the jobs have run."""
    folder = tmp_path_factory.mktemp("way") / "robot"
    robot = DemoRobot(ROBOT, folder, {**os.environ, "FLEETFEED_EDGE_SEGMENT_S": "3"})
    let_in([robot], stack, storage_of(stack))
    robot.live(seed=1, seconds=12)
    robot.wait_for_program(60)
    robot.edge("run", "--until-empty", url=stack.http_url)
    for name, words in JOBS.items():
        run_job(stack, name, *words)
    yield robot
    robot.stop()


@pytest.fixture
def dataset(stack: StackInfo, robot: DemoRobot) -> Dataset:
    return Catalog(storage_of(stack)).dataset(DATASET).select(robots=[robot.robot_id])


def test_everything_recorded_is_stored_and_indexed(stack: StackInfo, robot: DemoRobot) -> None:
    recorded = account.recorded([one["counts"] for one in robot.recorded], [CAMERA])
    assert recorded.frames == 12 * 20
    assert account.stored(RawStore.open(storage_of(stack)), robot.recordings).agrees_with(recorded)
    assert account.indexed(Catalog(storage_of(stack)), robot.recordings).agrees_with(recorded)
    assert list(Spool(robot.folder).waiting()) == []


def test_every_picture_inside_an_episode_is_a_step_with_its_joints(dataset: Dataset) -> None:
    steps = dataset.steps()
    episodes = dataset.episodes()
    assert len(episodes) == 2
    assert len(steps) == sum(episodes["steps"].to_pylist()) == 12 * 20
    for column in ("state", "velocity", "action", "imu", f"{CAMERA}_gop"):
        assert steps[column].null_count == 0, column
    assert np.ptp(np.array(steps["state"].to_pylist()), axis=0).max() > 0.2


def test_windows_come_as_torch_batches(dataset: Dataset) -> None:
    windows = dataset.windows(
        observations={"state": [-0.1, 0.0], CAMERA: [0.0]}, actions={"action": horizon(0.4, hz=10)}, image_size=(64, 64)
    )
    batches = list(windows.loader(32, seed=1, remainder="uneven"))
    ids = [one for batch in batches for one in batch["sample_id"]]
    assert len(ids) == len(set(ids)) == 12 * 20
    assert batches[0]["state"].shape == (32, 2, 22)
    assert batches[0][CAMERA].shape == (32, 1, 3, 64, 64)
    assert batches[0]["action"].shape == (32, 4, 22)
    assert batches[0][CAMERA].float().std() > 10


def test_a_second_run_of_each_job_changes_nothing(stack: StackInfo, robot: DemoRobot) -> None:
    before = _contents(stack)
    for name, words in JOBS.items():
        run_job(stack, name, *words)
    assert _contents(stack) == before


def _contents(stack: StackInfo) -> dict[str, list[dict[str, object]]]:
    """Every row of every table, sorted."""
    catalog = Catalog(storage_of(stack))
    tables = ["segments", "telemetry.joint_states", "telemetry.episode"]
    tables += [f"{DATASET}.{name}" for name in ("steps", "series", "episodes", "gops")]
    return {name: sorted(catalog.sql(f"SELECT * FROM {name}").to_pylist(), key=repr) for name in tables}
