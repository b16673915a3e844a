"""The three examples, run as their readers run them, one after the other on one stack."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleetfeed.demo.work import storage_of
from fleetfeed.stack import StackInfo
from ingest_serve.bucket import Bucket
from ingest_serve.registry import Registry, invite

pytestmark = pytest.mark.stack
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *words: str, stack: StackInfo) -> str:
    environment = {**os.environ, **stack.environment()}
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_robot_records_a_platform_builds_and_a_researcher_trains(stack: StackInfo, tmp_path: Path) -> None:
    token = invite(Registry(Bucket.open(storage_of(stack))), "my-robot", now_ns=time.time_ns())
    robot, training = tmp_path / "robot", tmp_path / "training"
    recorded = run(
        "record_and_upload.py", "--token", token, "--url", stack.http_url, "--folder", str(robot), stack=stack
    )
    assert "'/wrist_camera': 120" in recorded

    assert "arm v1" in run("build_dataset.py", stack=stack)
    assert "nothing new" in run("build_dataset.py", stack=stack)

    trained = run("train.py", "--out", str(training), stack=stack)
    assert "after epoch 2" in trained
    assert "trained for 2 epochs" in run("train.py", "--out", str(training), stack=stack)
    assert "after epoch 3" in run("train.py", "--out", str(training), "--epochs", "3", stack=stack)
    assert (training / "contact-sheet.png").read_bytes().startswith(b"\x89PNG")
    assert (training / "checkpoint.pt").exists()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_page(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 80
