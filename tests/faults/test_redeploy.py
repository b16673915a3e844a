"""The application is deployed anew while robots upload over slow links: nothing is lost, and what is under way ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from ray.serve._private import constants

from edge.uploader import SMALLEST_PIECE
from fleetfeed.demo.work import storage_of
from fleetfeed.ports import REPLICA_PORTS
from fleetfeed.stack import StackInfo
from ingest_serve.bucket import Bucket
from ingest_serve.settings import IngestSettings
from tests.faults.campaign import is_soak
from tests.faults.redeploying import Redeployer, replicas
from tests.faults.slow_robots import LIMIT_S, LongPiece, SlowRobot
from tests.ingest_serve.conftest import wait_until

pytestmark = pytest.mark.stack
LEAST_GRACE_S = 5.0  # Serve gives a replica so much whatever it is told


def is_draining(process: psutil.Process, info: StackInfo) -> bool:
    """Whether a replica lives, and takes no connections any more."""
    ports = range(info.ports.first_replica, info.ports.first_replica + REPLICA_PORTS)
    try:
        found = [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return False
    return not any(one.laddr.port in ports for one in found)


@pytest.fixture
def operator(stack: StackInfo) -> Iterator[Redeployer]:
    """Who deploys anew; afterwards the stack is as it was."""
    with Redeployer(stack) as operator:
        yield operator
        operator.deploy()


@pytest.fixture
def robots(stack: StackInfo, tmp_path: Path) -> Iterator[list[SlowRobot]]:
    bucket = Bucket.open(storage_of(stack))
    with ExitStack() as ending:
        found = []
        for n in range(3):
            found.append(SlowRobot(tmp_path / f"slow-{n}", f"slow-{n}", info=stack, bucket=bucket))
            ending.callback(found[-1].close)
        yield found


def test_a_replica_that_is_to_go_waits_for_a_piece_on_the_slowest_link() -> None:
    """And HAProxy, which is reloaded then, lets its connections live for as long."""
    settings = IngestSettings()
    piece_s = SMALLEST_PIECE / settings.min_body_rate + settings.body_grace_s
    assert settings.graceful_shutdown_s >= piece_s + settings.storage_timeout_s
    assert settings.graceful_shutdown_s < constants.RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S


def test_redeployments_under_load_lose_nothing_and_finish_what_is_under_way(
    stack: StackInfo, operator: Redeployer, robots: list[SlowRobot], tmp_path: Path
) -> None:
    """With two replicas; in a soak twenty times."""
    for robot in robots:
        robot.start()
    operator.deploy(replicas=2)
    for n in range(20 if is_soak() else 1):
        old = replicas(stack)
        assert len(old) == 2
        redeploy_with_pieces_under_way(stack, operator, tmp_path / str(n), retry_after_s=2 + n)
        wait_until(lambda old=old: gone(old), limit_s=LIMIT_S)
    for robot in robots:
        robot.finish()
    total = sum((robot.robot.answers.counts for robot in robots), Counter[int | str]())
    print(f"{sum(len(robot.robot.expected) for robot in robots)} segments; answers to the load: {dict(total)}")


def redeploy_with_pieces_under_way(stack: StackInfo, operator: Redeployer, folder: Path, *, retry_after_s: int) -> None:
    """One at each replica; they end when one of those has been waiting for longer than Serve must."""
    bucket, old = Bucket.open(storage_of(stack)), replicas(stack)
    pieces = [LongPiece(folder / str(k), f"long-{folder.name}-{k}", info=stack, bucket=bucket) for k in range(len(old))]
    for piece in pieces:
        piece.begin()
    operator.begin(replicas=len(old), retry_after_s=retry_after_s)
    wait_until(lambda: any(is_draining(one, stack) or not one.is_running() for one in old), limit_s=LIMIT_S)
    assert all(one.is_running() for one in old), "a replica is gone that had a piece under way"
    over_s = time.monotonic() + LEAST_GRACE_S + 1.5
    wait_until(lambda: time.monotonic() > over_s, limit_s=LIMIT_S)
    for piece in pieces:
        piece.end()
        assert piece.robot.answers.failed == 0, f"a piece was cut: {piece.robot.answers.counts}"
        piece.close()
    operator.wait()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() for one in processes)
