"""The steps that every demonstration shares: a stack, robots that are let in, drained agents, jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import Progress

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from fleetfeed import stack
from fleetfeed.demo import screen
from fleetfeed.demo.errors import DemoFailed
from fleetfeed.demo.fleet import DemoRobot
from fleetfeed.settings import StackSettings
from fleetfeed.stack import StackInfo
from ingest_serve.bucket import Bucket
from ingest_serve.registry import Registry, invite

DRAIN_LIMIT_S = 120.0


@contextmanager
def running_stack(settings: StackSettings, *, keep: bool) -> Iterator[StackInfo]:
    """The embedded stack; ended afterwards, unless it is to be kept."""
    with screen.step("Start S3, Ray and Serve on this machine") as progress:
        bar = progress.add_task("starting", total=None, said="")
        info = stack.up(settings, report=lambda line: progress.update(bar, said=line))
        progress.update(bar, total=1, completed=1)
    try:
        yield info
    finally:
        if not keep:
            stack.down(settings.run_dir)


def storage_of(info: StackInfo) -> Storage:
    """The stack's lake, for code in this process."""
    found = {name.removeprefix("FLEETFEED_STORAGE_").lower(): value for name, value in info.environment().items()}
    fields = {name: found[name] for name in StorageSettings.model_fields if name in found}
    return Storage.open(settings=StorageSettings.model_validate(fields))


def let_in(robots: Sequence[DemoRobot], info: StackInfo, storage: Storage) -> None:
    """Invite each robot, and have it make its key and enrol."""
    registry = Registry(Bucket.open(storage))
    for robot in robots:
        robot.enrol(invite(registry, robot.robot_id, now_ns=time.time_ns()), info.http_url)


def drain(robots: Sequence[DemoRobot], progress: Progress) -> None:
    """Wait until every agent has delivered everything."""
    bars = {robot.robot_id: progress.add_task(robot.robot_id, said="", total=None) for robot in robots}
    deadline = time.monotonic() + DRAIN_LIMIT_S
    while True:
        waiting = 0
        for robot in robots:
            lines = robot.status()
            left = sum(line.waiting for line in lines)
            total = sum(line.recorded for line in lines)
            progress.update(bars[robot.robot_id], total=total, completed=total - left, said=f"{left:,} to deliver")
            waiting += left
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"after {DRAIN_LIMIT_S:.0f} s {waiting} readings still wait: see agent.log in the robots' folders"
            )
        time.sleep(0.25)


def run_job(info: StackInfo, name: str, *words: str) -> dict[str, Any]:
    """Run one job as the platform team does, and return its summary."""
    command = [sys.executable, "-m", "ray_jobs", "run", name, "--json", *words]
    environment = {**os.environ, **info.environment()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoFailed(f"job {name} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_jobs(info: StackInfo, spec: str, progress: Progress) -> dict[str, dict[str, Any]]:
    """index_segments, load_telemetry and align_frames, in this order."""
    summaries = {}
    for name, words in (("index_segments", ()), ("load_telemetry", ()), ("align_frames", ("--spec", spec))):
        bar = progress.add_task(name, total=None, said="")
        summaries[name] = run_job(info, name, *words)
        progress.update(bar, total=1, completed=1, said="done")
    return summaries
