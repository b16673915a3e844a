"""SIGKILL on the way from a robot to the index: nothing is lost and nothing comes twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataset_catalog import Catalog
from edge.topics import AGENT_STREAM, EVENTS_STREAM
from fleetfeed.demo import account
from fleetfeed.demo.fleet import DemoRobot
from fleetfeed.demo.robot import CAMERA
from fleetfeed.demo.work import let_in, run_job, storage_of
from fleetfeed.stack import StackInfo
from ingest_serve.raw_store import RawStore
from tests.faults.redeploying import replicas

pytestmark = pytest.mark.stack
ROBOT = "killed-robot"
LIMIT_S = 60.0


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[DemoRobot]:
    robot = DemoRobot(ROBOT, tmp_path / "robot", {**os.environ, "FLEETFEED_EDGE_SEGMENT_S": "1"})
    yield robot
    robot.stop()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S:.0f} s: {what}"
        time.sleep(0.05)


def uploaded(robot: DemoRobot) -> int:
    return sum(line.uploaded for line in robot.status())


def waiting(robot: DemoRobot) -> int:
    return sum(line.waiting for line in robot.status())


def test_killed_replica_and_killed_agent_lose_nothing_and_double_nothing(stack: StackInfo, robot: DemoRobot) -> None:
    storage = storage_of(stack)
    let_in([robot], stack, storage)
    robot.live(seed=3, seconds=16)
    robot.start_agent(stack.http_url)
    wait_until(lambda: uploaded(robot) > 0, "the first upload")

    (replica,) = replicas(stack)
    os.kill(replica.pid, signal.SIGKILL)
    wait_until(lambda: [one.pid for one in replicas(stack)] not in ([], [replica.pid]), "another replica")

    before = uploaded(robot)
    wait_until(lambda: uploaded(robot) > before, "an upload to the new replica")
    assert robot.agent is not None
    robot.agent.kill()
    robot.agent.wait()
    robot.wait_for_program(LIMIT_S)
    assert waiting(robot) > 0, "the agent was to die before everything was delivered"

    robot.start_agent(stack.http_url)
    wait_until(lambda: waiting(robot) == 0, "an empty spool")
    run_job(stack, "index_segments")

    recorded = account.recorded([one["counts"] for one in robot.recorded], [CAMERA])
    stored = account.stored(RawStore.open(storage), robot.recordings)
    indexed = account.indexed(Catalog(storage), robot.recordings)
    assert recorded.telemetry > 0
    assert recorded.frames > 0
    assert stored.agrees_with(recorded)
    assert indexed.agrees_with(recorded)
    assert [line for line in robot.status() if line.quarantined] == []
    seqs = Catalog(storage).sql(
        f"SELECT stream, count(*) AS n, max(seq) AS last FROM segments WHERE robot_id = '{ROBOT}' GROUP BY ALL"
    )
    assert {row["stream"] for row in seqs.to_pylist()} == {"telemetry", CAMERA, EVENTS_STREAM, AGENT_STREAM}
    assert all(row["n"] == row["last"] + 1 for row in seqs.to_pylist())
