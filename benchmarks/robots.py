"""A benchmark's processes: the server, robots that it lets in, their programs and agents. All end with the block."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.measure import BenchmarkFailed
from benchmarks.robot_program import READY
from dataset_catalog.storage import Storage
from fleetfeed.demo.fleet import DemoRobot
from fleetfeed.demo.work import let_in, running_stack, storage_of
from fleetfeed.settings import StackSettings
from fleetfeed.stack import StackInfo
from ingest_serve.bucket import Bucket

POLL_S = 0.02
END_S = 30.0
AGENT_LOG = "agent.log"


@dataclass(frozen=True)
class Server:
    """The embedded stack: HAProxy, one ingest replica on Ray Serve, SeaweedFS."""

    info: StackInfo
    storage: Storage

    @property
    def url(self) -> str:
        return self.info.http_url

    def enrol(self, robot: str, folder: Path) -> None:
        """Let a robot in; its key then lies in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            let_in([DemoRobot(robot, folder, dict(os.environ))], self.info, self.storage)
        except RuntimeError as error:
            raise BenchmarkFailed(str(error)) from error

    def stored_bytes(self, robot: str, stream: str) -> int:
        """What the bucket holds of one stream of a robot, over all its recordings."""
        bucket, prefix = Bucket.open(self.storage), f"raw/{robot}"
        names = [name for name in bucket.names(prefix) if name.split("/")[1] == stream]
        heads = [bucket.head(f"{prefix}/{name}") for name in names]
        return sum(head.size for head in heads if head)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Start the embedded stack on free ports of 127.0.0.1, and end it afterwards."""
    settings = StackSettings(run_dir=folder / "stack", http_port=0, s3_port=0, dashboard_port=0)
    with running_stack(settings, keep=False) as info:
        yield Server(info, storage_of(info))


@contextmanager
def agent(
    folder: Path, url: str, *words: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`fleetfeed edge run` on a robot's folder; what it prints is in `agent_said`."""
    command = ["fleetfeed", "edge", "run", "--folder", str(folder), "--url", url, *words]
    with (
        (folder / AGENT_LOG).open("ab") as log,
        _process(command, stdout=log, stderr=log, environment=environment) as process,
    ):
        yield process


def agent_said(folder: Path) -> str:
    """The end of what a folder's agent printed, for an error's sentence."""
    return " | ".join((folder / AGENT_LOG).read_text(errors="replace").splitlines()[-5:])


class Program:
    """A running `benchmarks.robot_program`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._stdin, self._stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        if self._line() != READY:
            raise BenchmarkFailed("the robot's program did not start")

    def live(self) -> dict[str, Any]:
        """Let it begin, and wait for what it tells; it still runs then, and can be looked at."""
        self._stdin.write(b"\n")
        self._stdin.flush()
        told: dict[str, Any] = json.loads(self._line() or "null")
        if not told:
            raise BenchmarkFailed("the robot's program ended early")
        if told["dropped"]:
            raise BenchmarkFailed(f"the recorder let go of readings: {told['dropped']}; is this machine busy?")
        return told

    def _line(self) -> str:
        return self._stdout.readline().decode().strip()


@contextmanager
def program(
    folder: Path, *, pictures: Path, hz: int, topics: int, seconds: float, instead: str = ""
) -> Iterator[Program]:
    """A robot's own program that is ready to begin."""
    options = {"folder": folder, "pictures": pictures, "hz": hz, "topics": topics, "seconds": seconds}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = ["benchmarks.robot_program", *words, *(["--instead", instead] if instead else [])]
    with _process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Program(process)


def wait_until(condition: Callable[[], bool], *, limit_s: float, what: str, poll_s: float = POLL_S) -> None:
    """`BenchmarkFailed` where it does not come true within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"{what}: not within {limit_s:.0f} s")
        time.sleep(poll_s)


@contextmanager
def _process(
    words: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module as a process of its own; told to end when the block does."""
    command, inherited = [sys.executable, "-m", *words], {**os.environ, **(environment or {})}
    process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=inherited)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
