"""The jobs in turn: none holds up the others, a failing one is tried later and later, and a stop is soon heard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dataset_catalog import versions
from dataset_catalog.errors import CommitLost
from ray_jobs.loop import MAX_BACKOFF_ROUNDS, Loop
from ray_jobs.summary import Summary
from tests.ray_jobs.conftest import hint

ROOT = Path(__file__).parents[2]
T0 = 1_760_000_000_000_000_000


@dataclass
class Jobs:
    """A loop on a clock that is moved by hand, and what became of its runs."""

    now_s: float = 0.0
    failing: set[str] = field(default_factory=set)
    ran: list[tuple[float, str]] = field(default_factory=list)
    told: list[tuple[str, Any]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.loop = Loop(60.0, done=lambda name, outcome: self.told.append((name, outcome)), clock=lambda: self.now_s)

    def add(self, name: str, *, every_s: float = 0.0) -> None:
        def job() -> Summary:
            self.ran.append((self.now_s, name))
            if name in self.failing:
                raise CommitLost("another writer was faster")
            return Summary(name, "chain")

        self.loop.add(name, job, every_s=every_s)

    def minutes(self, count: int) -> None:
        for _ in range(count):
            self.loop.run_once(self.stop)
            self.now_s += 60

    def times(self, name: str) -> list[float]:
        """The minutes in which a job ran."""
        return [at_s / 60 for at_s, ran in self.ran if ran == name]


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


def test_every_job_runs_in_every_round_in_order_but_for_those_that_run_less_often(jobs: Jobs) -> None:
    jobs.add("index")
    jobs.add("load")
    jobs.add("maintain", every_s=180)
    jobs.minutes(7)
    assert [name for _, name in jobs.ran[:3]] == ["index", "load", "maintain"]
    assert jobs.times("index") == jobs.times("load") == list(range(7))
    assert jobs.times("maintain") == [0, 3, 6]


def test_a_failing_job_is_tried_later_and_later_and_holds_up_no_other(jobs: Jobs) -> None:
    jobs.add("index")
    jobs.add("load")
    jobs.failing.add("index")
    jobs.minutes(40)
    assert jobs.times("load") == list(range(40))
    assert jobs.times("index") == [0, 2, 6, 14, 30]
    assert jobs.loop.failing == {"index": 5}
    assert all(isinstance(outcome, CommitLost) for name, outcome in jobs.told if name == "index")
    assert 30 + MAX_BACKOFF_ROUNDS == 46
    jobs.failing.clear()
    jobs.minutes(10)
    assert jobs.times("index")[5:] == [46, 47, 48, 49], "what works again runs in every round again"
    assert jobs.loop.failing == {}


def test_a_store_that_fails_is_tried_again_and_no_failing_job_runs_more_often_than_a_sound_one(jobs: Jobs) -> None:
    def failing() -> Summary:
        jobs.ran.append((jobs.now_s, "maintain"))
        raise OSError("the connection was reset")

    jobs.loop.add("maintain", failing, every_s=600)
    jobs.minutes(25)
    assert jobs.times("maintain") == [0, 10, 20]


def test_an_error_that_is_not_ours_ends_the_loop(jobs: Jobs) -> None:
    def broken() -> Summary:
        raise ZeroDivisionError

    jobs.loop.add("broken", broken)
    with pytest.raises(ZeroDivisionError):
        jobs.minutes(1)


def test_a_stop_lets_the_job_under_way_end_and_no_other_begin(jobs: Jobs) -> None:
    def stopping() -> Summary:
        jobs.stop.set()
        return Summary("stopping", "chain")

    jobs.loop.add("stopping", stopping)
    jobs.add("load")
    jobs.loop.run(jobs.stop)
    assert [name for name, _ in jobs.told] == ["stopping"]
    assert jobs.ran == []


def test_the_command_works_off_what_arrives_until_it_is_told_to_end(robot: Any, ray_address: str) -> None:
    settings = robot.storage.settings
    environment = os.environ | {
        "RAY_ADDRESS": ray_address,
        "FLEETFEED_STORAGE_URL": robot.storage.url,
        "FLEETFEED_STORAGE_ENDPOINT_URL": settings.endpoint_url,
        "FLEETFEED_STORAGE_ACCESS_KEY_ID": settings.access_key_id,
        "FLEETFEED_STORAGE_SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
    }
    robot.log(("/battery", T0, {"percent": 80}))
    command = [sys.executable, "-m", "ray_jobs", "loop", "--every-s", "1"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as looping:
        try:
            _wait_until(lambda: _loaded(robot, at_least=1))
            second = robot.log(("/battery", T0 + 1, {"percent": 79}))
            hint(robot.storage, second, t_ns=time.time_ns())
            _wait_until(lambda: _loaded(robot, at_least=2))
            looping.send_signal(signal.SIGTERM)
            said = looping.communicate(timeout=60)[1]
        finally:
            looping.kill()
    assert looping.returncode == 0, said
    assert "index_segments: 1 segments → v1" in said
    assert "load_telemetry" in said


def _loaded(robot: Any, *, at_least: int) -> bool:
    """Whether so many segments have become rows of telemetry."""
    manifest = versions.newest(robot.storage, versions.TELEMETRY)
    return manifest is not None and manifest.n >= at_least and manifest.positions["segments"] >= at_least


def _wait_until(condition: Any, *, limit_s: float = 120.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
