"""SIGKILL for recorders and agents, at moments that a seed draws, and what they had said until then."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge.identity import KEY_FILE, ROBOT_FILE

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, object] = {"segment_s": 0.15, "sync_s": 0.05}
ROBOT = "killed-robot"
LIMIT_S = 60.0
Moment = Literal["anywhere", "starting", "recording"]
MOMENTS: tuple[Moment, ...] = ("anywhere", "starting", "recording", "recording")
ANYWHERE_S = 1.5  # from the start of the process: its imports, the start of the recorder, the first rounds
STARTING_S = 0.08  # from the call of the recorder: recovery of what the life before has left
MOST_ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Life:
    """What a victim had said when it was killed: what it had flushed must be there.

    `start_s` is how long the recorder took to start, with its recovery; None, as `recording`, where it had not yet.
    """

    recording: str | None
    start_s: float | None
    rounds: int


def live_and_die(folder: Path, *, dice: random.Random, settings: Mapping[str, object] = SETTINGS) -> Life:
    """Have a recorder work on a robot's folder and kill it, with its threads, at a moment that `dice` draws.

    `RuntimeError` with what it wrote to standard error where it ends by itself.
    """
    moment = dice.choice(MOMENTS)
    rounds, further_s = dice.randint(1, MOST_ROUNDS), dice.random()
    with _started([sys.executable, "-m", "tests.faults.victim", str(folder)], settings) as victim:
        said: list[str] = []
        if moment == "starting":
            said += victim.lines(1)
        elif moment == "recording":
            said += victim.lines(2 + rounds)
        victim.kill_after({"anywhere": ANYWHERE_S, "starting": STARTING_S, "recording": 0.02}[moment] * further_s)
        said += victim.rest()
    return _life([json.loads(line) for line in said])


@contextmanager
def agent_until(folder: Path, url: str, *, settings: Mapping[str, object] = SETTINGS) -> Iterator[Process]:
    """An agent at work on a robot's folder, for the `with` block; then it is killed."""
    command = [sys.executable, "-m", "edge", "run", "--folder", str(folder), "--url", url]
    with _started(command, {"scan_s": 0.02, "max_backoff_s": 0.2, **settings}) as agent:
        yield agent


def deliver(folder: Path, url: str) -> None:
    """Run an agent until nothing waits. `RuntimeError` where it fails or does not come to that end."""
    command = [sys.executable, "-m", "edge", "run", "--folder", str(folder), "--url", url, "--until-empty"]
    with _started(command, {"scan_s": 0.02, "max_backoff_s": 0.2}) as agent:
        agent.wait_for_end()


def enrol(folder: Path) -> None:
    """Give a robot's folder an identity, without a server."""
    folder.mkdir(parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / KEY_FILE).write_bytes(pem)
    (folder / KEY_FILE).chmod(0o600)
    (folder / ROBOT_FILE).write_text(json.dumps({"robot": ROBOT}))


@dataclass
class Process:
    """A program of ours, what it says, and its end."""

    popen: subprocess.Popen[str]
    errors: IO[bytes]

    def lines(self, number: int) -> list[str]:
        """The next lines that it says, as they come."""
        assert self.popen.stdout is not None
        found = [self.popen.stdout.readline() for _ in range(number)]
        if not all(line.endswith("\n") for line in found):
            raise self._ended()
        return found

    def kill_after(self, wait_s: float) -> None:
        """SIGKILL, that many seconds from now."""
        try:
            self.popen.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        else:
            raise self._ended()

    def wait_for_end(self) -> None:
        try:
            self.popen.wait(LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"it has not ended within {LIMIT_S:.0f} s") from error
        if self.popen.returncode:
            raise self._ended()

    def rest(self) -> list[str]:
        """The whole lines that it had said before it was killed."""
        assert self.popen.stdout is not None
        return [line for line in self.popen.stdout.read().splitlines(keepends=True) if line.endswith("\n")]

    def _ended(self) -> RuntimeError:
        self.popen.wait()
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace")
        return RuntimeError(f"it ended by itself with {self.popen.returncode}:\n{said}")


@contextmanager
def _started(command: list[str], settings: Mapping[str, object]) -> Iterator[Process]:
    environment = {f"FLEETFEED_EDGE_{name.upper()}": str(value) for name, value in settings.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEETFEED_")}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, cwd=ROOT, env={**kept, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as popen,
    ):
        try:
            yield Process(popen, errors)
        finally:
            popen.kill()


def _life(said: list[dict[str, Any]]) -> Life:
    started: dict[str, Any] = next((one for one in said if one["what"] == "started"), {})
    rounds = max((one["rounds"] for one in said if one["what"] == "flushed"), default=0)
    return Life(started.get("recording"), started.get("start_s"), rounds)
