"""Jobs on a cluster, by its Jobs API with its token: submitted, listed, read, and refused in a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleetfeed.stack import StackInfo

ROOT = Path(__file__).parents[2]


def jobs(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_jobs", *words]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.stack
def test_a_job_runs_on_the_cluster_and_is_seen_there(stack: StackInfo) -> None:
    environment = stack.environment()
    done = jobs("submit", "maintain", "--dry-run", **environment)
    assert done.returncode == 0, done.stderr
    job_id = done.stdout.strip()
    deadline_s = time.monotonic() + 100
    while True:
        found = json.loads(jobs("status", "--json", **environment).stdout)
        (job,) = (one for one in found["jobs"] if one["id"] == job_id)
        if job["state"] in ("SUCCEEDED", "FAILED", "STOPPED"):
            break
        assert time.monotonic() < deadline_s, job
        time.sleep(1)
    printed = jobs("logs", job_id, **environment).stdout
    assert job["state"] == "SUCCEEDED", printed
    assert job["what"] == "run maintain --json --dry-run"
    assert json.loads(printed.splitlines()[-1])["job"] == "maintain"
    assert {"lake/segments", "lake/telemetry"} <= set(found["chains"])
    assert job_id in jobs("status", COLUMNS="200", **environment).stdout


@pytest.mark.stack
def test_without_its_token_a_cluster_takes_no_job(stack: StackInfo) -> None:
    environment = stack.environment() | {"RAY_AUTH_TOKEN": "another"}
    refused = jobs("submit", "maintain", **environment)
    assert refused.returncode == 1, refused.stdout
    assert "Traceback" not in refused.stderr
    assert "Jobs API" in refused.stderr


@pytest.mark.parametrize(("address", "said"), [("", "names no cluster"), ("http://127.0.0.1:9", "does not let us in")])
def test_a_cluster_that_is_not_there_is_told_in_a_sentence(address: str, said: str) -> None:
    refused = jobs("submit", "maintain", RAY_API_SERVER_ADDRESS=address)
    assert refused.returncode == 1
    assert said in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr


def test_what_cannot_be_run_is_not_submitted() -> None:
    assert jobs("submit", "sweep").returncode == 2
    assert jobs("submit", "index_segments", "--dry-run").returncode == 2
