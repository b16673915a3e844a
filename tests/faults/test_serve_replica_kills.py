"""The only replica under Ray Serve is killed: HAProxy refuses, Serve makes another one, and the robot comes through."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from fleetfeed.demo.work import storage_of
from fleetfeed.stack import StackInfo
from ingest_serve.bucket import Bucket
from tests.faults.campaign import is_soak
from tests.faults.redeploying import replicas
from tests.faults.slow_robots import LIMIT_S, LongPiece
from tests.ingest_serve.conftest import wait_until

pytestmark = pytest.mark.stack


def in_the_middle_of_a_piece(_: LongPiece) -> None:
    """It is under way, and stays so."""


def when_the_object_is_there(piece: LongPiece) -> None:
    """The answer may be on its way, or not."""
    piece.link.heal()
    wait_until(lambda: bool(piece.robot.stored("raw")), limit_s=LIMIT_S)


MOMENTS = (in_the_middle_of_a_piece, when_the_object_is_there)


@pytest.mark.parametrize("moment", MOMENTS if is_soak() else MOMENTS[:1], ids=lambda one: one.__name__)
def test_the_only_replica_is_killed(stack: StackInfo, tmp_path: Path, moment: Callable[[LongPiece], None]) -> None:
    name = moment.__name__.replace("_", "-")
    piece = LongPiece(tmp_path / "robot", name, info=stack, bucket=Bucket.open(storage_of(stack)))
    piece.begin()
    moment(piece)

    (replica,) = replicas(stack)
    os.kill(replica.pid, signal.SIGKILL)
    killed_s = time.monotonic()
    wait_until(lambda: not replica.is_running() and answers(stack), limit_s=LIMIT_S)
    print(f"{name}: another replica answers after {time.monotonic() - killed_s:.1f} s")

    piece.end()
    piece.close()
    print(f"{name}: answers to the robot: {dict(piece.robot.answers.counts)}")
    assert moment is not in_the_middle_of_a_piece or piece.robot.answers.failed


def answers(info: StackInfo) -> bool:
    try:
        return requests.get(f"{info.http_url}/healthz", timeout=20).status_code == 200
    except requests.RequestException:
        return False
