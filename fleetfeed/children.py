"""Processes that the keeper starts: one log each, a session of their own, and what to say when one fails."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fleetfeed.errors import StackError
from fleetfeed.processes import POLL_S
from fleetfeed.run_folder import last_lines


@dataclass(frozen=True)
class Child:
    """A started process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def stdin(self) -> IO[bytes]:
        if self.process.stdin is None:
            raise ValueError(f"{self.name} was started without a pipe for its standard input")
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        if self.process.stdout is None:
            raise ValueError(f"{self.name} was started without a pipe for its standard output")
        return self.process.stdout

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    def failed(self, what: str) -> StackError:
        """The error that says what this process did, and how its log ends."""
        return StackError(f"{self.name} {what}; the last lines of {self.log}:\n{last_lines(self.log)}")

    def end_input(self, *, limit_s: float) -> bool:
        """Close its standard input and wait for it. False if it lives on."""
        self.stdin.close()
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def spawn(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> Child:
    """Start it out of reach of the terminal's Ctrl-C: the keeper alone decides when and how it ends."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env=environment, stdin=stdin, stdout=stdout or file, stderr=file, start_new_session=True
        )
    return Child(name, process, log)


def wait_for(child: Child, condition: Callable[[], bool], *, others: Sequence[Child], limit_s: float) -> None:
    """Wait until `condition`, on which `child` works. Raises `StackError` when time is up or one of `others` ends."""
    deadline = time.monotonic() + limit_s
    while not condition():
        check_alive(others)
        if time.monotonic() > deadline:
            raise child.failed("was not ready in time")
        time.sleep(POLL_S)


def check_alive(children: Sequence[Child]) -> None:
    """Raises `StackError` if one of them has ended."""
    for child in children:
        if child.exit_code is not None:
            raise child.failed(f"ended by itself with code {child.exit_code}")
