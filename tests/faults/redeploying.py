"""Deploys the ingest application anew on a running stack, as an operator does who changes a setting.

    python -m tests.faults.redeploying

reads settings as one JSON object a line, deploys with them, and answers when Serve says that the new replicas run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from fleetfeed.processes import marked, name_of
from fleetfeed.stack import StackInfo

ROOT = Path(__file__).parents[2]
PREFIX = "FLEETFEED_INGEST_"
INGEST = "ServeReplica:default:ingest"  # what Ray calls its process


class Redeployer:
    """An operator of a running stack: a process in the environment of that which deployed the stack's application."""

    def __init__(self, info: StackInfo) -> None:
        self._environment = serving_process(info).environ()
        self._asked: set[str] = set()
        command = [sys.executable, "-m", "tests.faults.redeploying"]
        self._driver = subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def deploy(self, **settings: object) -> None:
        """With these ingest settings and else the stack's own; returns when Serve says that they are in force."""
        self.begin(**settings)
        self.wait()

    def begin(self, **settings: object) -> None:
        """The first half of `deploy`."""
        assert self._driver.stdin is not None
        named = {f"{PREFIX}{name.upper()}": str(value) for name, value in settings.items()}
        own = {name: self._environment.get(name) for name in self._asked}
        self._asked.update(named)
        self._driver.stdin.write(json.dumps({**own, **named}) + "\n")
        self._driver.stdin.flush()

    def wait(self) -> None:
        """The second half of `deploy`."""
        assert self._driver.stdout is not None
        said = self._driver.stdout.readline()
        if said != "deployed\n":
            raise RuntimeError(f"it was not deployed anew: the driver ended with {self._driver.wait()}")

    def close(self) -> None:
        self._driver.communicate(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def replicas(info: StackInfo) -> list[psutil.Process]:
    """The processes of this stack that run the ingest application."""
    found = []
    for process in marked(info.stack_id):
        try:
            if INGEST in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def serving_process(info: StackInfo) -> psutil.Process:
    """The process that deployed the application when the stack was started."""
    (found,) = [process for process in marked(info.stack_id) if name_of(process) == "fleetfeed.serving"]
    return found


def main() -> None:
    import ray
    from ray import serve

    from ingest_serve.deployment import build_app

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ray.init(log_to_driver=False)  # the address is in RAY_ADDRESS
    for line in sys.stdin:
        for name, value in json.loads(line).items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        serve.run(build_app())
        print("deployed", file=answers, flush=True)


if __name__ == "__main__":
    main()
