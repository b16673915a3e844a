"""The jobs by `ray job submit` on a cluster of three nodes, of which one dies while it works."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from ray_jobs import align_frames, index_segments, load_telemetry
from ray_jobs.align_spec import AlignSpec
from ray_jobs.settings import JobsSettings
from tests.ray_jobs.conftest import free_ports
from tests.ray_jobs.test_main import ROOT, environment

T0 = 1_760_000_000_000_000_000
MS = 1_000_000
SEGMENTS, FILMS = 24, 4
SPEC = """
name = "arm"
reference = "head_camera"
[columns.state]
topic = "/q"
field = "position"
policy = "linear"
tolerance_ms = 60
size = 2
"""
NOT_COMPARED = {"index_version", "payload"}


@dataclass(frozen=True)
class Raylets:
    """`address` of the Jobs API, and the raylets that have a CPU."""

    address: str
    pids: list[int]

    def kill(self) -> None:
        """SIGKILL for one raylet; its workers end when they see that it is gone."""
        os.kill(self.pids[0], signal.SIGKILL)


@pytest.fixture
def raylets(robot: Any) -> Iterator[Raylets]:
    """Apart from the Ray of this process: neither may take the other for the cluster that it should join."""
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_jobs.raylets", *map(str, free_ports(2))],
            cwd=ROOT,
            env=of_cluster(robot, folder),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin
        assert process.stdout
        try:
            told = json.loads(process.stdout.readline())
            yield Raylets(told["address"], told["raylets"])
        finally:
            process.stdin.close()
            process.wait(60)


def of_cluster(robot: Any, folder: str) -> dict[str, str]:
    """The environment of every process of the cluster: it has its own key to the bucket."""
    ours = {name: value for name, value in environment(robot).items() if name != "RAY_ADDRESS"}
    return {
        **ours,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # this machine is 127.0.0.1, and nothing listens elsewhere
        "FLEETFEED_JOBS_SEGMENTS_PER_TASK": "1",
    }


def record(robot: Any) -> None:
    """One recording: states, pictures, a body that is no MCAP, and a gap."""
    for number in range(SEGMENTS):
        times = [T0 + (number * 10 + n) * 10 * MS for n in range(10)]
        robot.log(*(("/q", t_ns, {"position": [t_ns - T0, number]}) for t_ns in times))
    when = {"start_ns": T0, "end_ns": T0 + MS}
    robot.store("telemetry", b"no MCAP at all", **when)
    robot.gap("telemetry", SEGMENTS + 1, SEGMENTS + 3, **when)
    for number in range(FILMS):
        robot.film(T0 + number * 10 * 50 * MS, 10)
    robot.close(T0 + 5_000 * MS)


def submit(address: str, *jobs: str) -> subprocess.Popen[str]:
    """These jobs one after the other, by `ray job submit`, as the platform team types it."""
    ray = shutil.which("ray", path=str(Path(sys.executable).parent))
    assert ray
    script = " && ".join(f"python -m ray_jobs run {job} --json" for job in jobs)
    command = [ray, "job", "submit", "--address", address, "--", "sh", "-c"]
    return subprocess.Popen([*command, script], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def ended(submitted: subprocess.Popen[str], *, limit_s: float) -> list[dict[str, Any]]:
    """The summaries of the jobs."""
    try:
        said, _ = submitted.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        submitted.kill()
        raise AssertionError(f"not done within {limit_s} s: {submitted.communicate()[0]}") from None
    assert submitted.returncode == 0, said
    return [json.loads(line) for line in said.splitlines() if line.startswith('{"job"')]


def wait_until(true: Callable[[], bool], *, limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline_s, f"not within {limit_s} s"
        time.sleep(0.01)


def fragments(storage: Storage) -> int:
    """Files of rows of lake/segments, published or not."""
    try:
        return len(storage.filesystem().ls(storage.path("lake/segments.lance/data"), detail=False, refresh=True))
    except FileNotFoundError:
        return 0


def published(storage: Storage, chain: str) -> dict[str, list[dict[str, Any]]]:
    """Table → its rows, in an order of their own."""
    manifest = versions.newest(storage, chain)
    assert manifest, chain
    found = {}
    for name in manifest.tables:
        table = open_table(storage, chain, manifest, name)
        kept = [column for column in table.schema.names if column not in NOT_COMPARED]
        found[name] = sorted(table.to_table(columns=kept).to_pylist(), key=repr)
    return found


@pytest.mark.timeout(600)
def test_a_node_that_dies_during_a_submitted_job_changes_nothing(
    robot: Any, raylets: Raylets, jobs: JobsSettings, tmp_path: Path
) -> None:
    record(robot)
    spec = tmp_path / "arm.toml"  # in a folder that all nodes see: Ray's own, for what is submitted, goes with the node
    spec.write_text(SPEC)

    submitted = submit(raylets.address, "index_segments", "load_telemetry", f"align_frames --spec {spec}")
    wait_until(lambda: fragments(robot.storage) >= 4 or submitted.poll() is not None, limit_s=150)
    raylets.kill()
    assert versions.newest(robot.storage, versions.SEGMENTS) is None, "it died too late to be in the way"
    summaries = ended(submitted, limit_s=250)

    chains = (versions.SEGMENTS, versions.TELEMETRY, "datasets/arm")
    on_three = {chain: published(robot.storage, chain) for chain in chains}
    robot.storage.filesystem().rm(robot.storage.path("lake"), recursive=True)
    robot.storage.filesystem().rm(robot.storage.path("datasets"), recursive=True)
    alone = [
        index_segments.run(robot.storage, jobs),
        load_telemetry.run(robot.storage, jobs),
        align_frames.run(robot.storage, jobs, AlignSpec.load(spec)),
    ]
    assert {chain: published(robot.storage, chain) for chain in chains} == on_three
    assert [(one["counts"], one["rows"], one["versions"]) for one in summaries] == [
        (one.counts, one.rows, [1]) for one in alone
    ]
    assert (summaries[0]["counts"]["quarantined"], summaries[2]["counts"]["episodes"]) == (1, 1)
