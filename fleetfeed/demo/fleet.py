"""A few simulated robots on this machine: each a recording process and an agent process, over real HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from edge.spool import Spool
from edge.status import StreamStatus, status

STOP_S = 30.0


@dataclass
class DemoRobot:
    """One robot's folder and its two processes. `recorded` is what its recorder says, once it has ended."""

    robot_id: str
    folder: Path
    environment: Mapping[str, str]
    program: subprocess.Popen[str] | None = None
    agent: subprocess.Popen[str] | None = None
    recorded: list[dict[str, Any]] = field(default_factory=list)

    def live(self, *, seed: int, seconds: float) -> None:
        """Start the robot's own program."""
        self.environment = {"FLEETFEED_EDGE_QUEUE_FRAMES": "60", **self.environment}  # many robots share this machine
        words = ["fleetfeed.demo.robot", "--folder", str(self.folder), "--seed", str(seed), "--seconds", str(seconds)]
        self.program = self._start(words, "robot.log", stdout=subprocess.PIPE)

    def enrol(self, token: str, url: str) -> None:
        self.edge("enrol", self.robot_id, "--token", token, url=url)

    def edge(self, *words: str, url: str) -> None:
        """Run one `fleetfeed edge` command for this robot, to its end."""
        self._run(["edge", *words, "--folder", str(self.folder), "--url", url])

    def start_agent(self, url: str) -> None:
        self.agent = self._start(["edge", "run", "--folder", str(self.folder), "--url", url], "agent.log")

    @property
    def recordings(self) -> set[str]:
        """The recordings that its program made."""
        return {one["recording"] for one in self.recorded}

    @property
    def is_live(self) -> bool:
        """Whether the robot's own program still runs."""
        return self.program is not None and self.program.poll() is None

    def wait_for_program(self, timeout_s: float) -> None:
        """Wait until the robot's program ends and keep what it says it recorded."""
        if self.program is None:
            return
        told, _ = self.program.communicate(timeout=timeout_s)
        if self.program.returncode:
            raise RuntimeError(
                f"{self.robot_id}'s program ended with {self.program.returncode}: see {self._log('robot.log')}"
            )
        self.recorded.append(json.loads(told.splitlines()[-1]))
        self.program = None

    def status(self) -> list[StreamStatus]:
        return status(Spool(self.folder))

    def stop(self) -> None:
        """End both processes."""
        for process in (self.program, self.agent):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in (self.program, self.agent):
            if process is not None:
                _wait(process)
        self.program = self.agent = None

    def _run(self, words: Sequence[str]) -> None:
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, env=dict(self.environment), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words[:3])} failed: {done.stderr.strip()}")

    def _start(self, words: Sequence[str], log: str, *, stdout: int | None = None) -> subprocess.Popen[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log(log).open("a") as errors:
            command = [sys.executable, "-m", *words]
            out: int | IO[str] = errors if stdout is None else stdout
            return subprocess.Popen(command, env=dict(self.environment), stdout=out, stderr=errors, text=True)

    def _log(self, name: str) -> Path:
        return self.folder / name


def _wait(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def stopping(robots: Sequence[DemoRobot]) -> Iterator[None]:
    """End every robot's processes, whatever happens inside."""
    try:
        yield
    finally:
        for robot in robots:
            robot.stop()
