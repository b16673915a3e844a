"""SIGKILL for a worker that has written its fragments and not said so, and for a driver before its manifest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from ray_jobs import index_segments
from ray_jobs.cluster import Part
from ray_jobs.settings import JobsSettings
from tests.ray_jobs.test_main import ROOT, environment

T0 = 1_760_000_000_000_000_000
SEGMENTS = 24
DYING_DRIVER = """
import os, signal
from dataset_catalog import publish
from ray_jobs.__main__ import app
publish.versions.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
app(["run", "index_segments", "--json"])
"""


def seqs(storage: Storage) -> list[int]:
    manifest = versions.newest(storage, versions.SEGMENTS)
    if manifest is None:
        return []
    return sorted(open_table(storage, versions.SEGMENTS, manifest, "segments").to_table()["seq"].to_pylist())


def fragments(storage: Storage) -> int:
    """Files of rows that lie in the bucket, published or not."""
    folder = storage.path("lake/segments.lance/data")
    return len(storage.filesystem().ls(folder, detail=False, refresh=True))


def die_once(marker: Path, *arguments: Any, settings: JobsSettings) -> Part:
    """`index_batch`, whose first caller dies with what it has written."""
    part = index_segments_batch(*arguments, settings=settings)
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return part
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL is the end")


index_segments_batch = index_segments.index_batch  # the job's own, while the test has put another in its place


def test_a_worker_that_is_killed_with_its_work_done_doubles_nothing(
    robot: Any, jobs: JobsSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(SEGMENTS):
        robot.log(("/n", T0 + number, {"n": number}))
    monkeypatch.setattr(index_segments, "index_batch", partial(die_once, tmp_path / "died"))
    summary = index_segments.run(robot.storage, jobs)
    assert (tmp_path / "died").exists()
    assert (summary.versions, summary.counts["segments"]) == ((1,), SEGMENTS)
    assert seqs(robot.storage) == list(range(SEGMENTS))
    assert fragments(robot.storage) == SEGMENTS // jobs.segments_per_task + 1, "of which one is the dead worker's"


def test_a_driver_that_is_killed_before_its_manifest_publishes_nothing_and_the_next_run_all(
    robot: Any, jobs: JobsSettings, ray_address: str
) -> None:
    for number in range(SEGMENTS):
        robot.log(("/n", T0 + number, {"n": number}))
    address = {"RAY_ADDRESS": ray_address}
    command = [sys.executable, "-c", DYING_DRIVER]
    killed = subprocess.run(command, cwd=ROOT, env=environment(robot) | address, capture_output=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (seqs(robot.storage), fragments(robot.storage) > 0) == ([], True)
    assert index_segments.run(robot.storage, jobs).versions == (1,)
    assert seqs(robot.storage) == list(range(SEGMENTS))
