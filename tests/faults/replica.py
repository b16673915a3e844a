"""Ingest replicas to be killed: each is a process of its own, and all listen at one address.

    python -m tests.faults.replica

is the process from which they are forked, once everything is imported and before anything has started a thread or an
event loop: so a replica is there in milliseconds. It takes one JSON command a line, and answers each with a line.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage

ROOT = Path(__file__).parents[2]
PR_SET_PDEATHSIG = 1


class Replicas:
    """Starts and kills replicas of one lake, whose S3 is at `endpoint_url`. Robots find whichever lives at `url`.

    While none lives, a connection waits for the next one, as in a proxy's queue.
    """

    def __init__(self, storage: Storage, *, endpoint_url: str, settings: Mapping[str, object] | None = None) -> None:
        self.pids: list[int] = []
        self._lock = threading.Lock()
        named = {f"FLEETFEED_INGEST_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        self._environment = {**_environment(storage), "FLEETFEED_STORAGE_ENDPOINT_URL": endpoint_url, **named}
        command = [sys.executable, "-m", "tests.faults.replica"]
        self._parent = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self._ask('listen')}"

    def start(self) -> int:
        """One more replica; returns its pid. It answers as soon as it can."""
        pid = self._ask("start", environment=self._environment)
        self.pids.append(pid)
        return pid

    def kill(self, pid: int) -> None:
        """SIGKILL; it is gone, with its connections, when this returns."""
        self.pids.remove(pid)
        self._ask("kill", pid=pid)

    def replace(self, pid: int) -> None:
        """Kill a replica, and start another one."""
        self.kill(pid)
        self.start()

    def with_port(self, *ports: int) -> int:
        """The pid of the replica that has a connection from or to one of these ports; the first one where none has."""
        for pid in self.pids:
            for one in psutil.Process(pid).net_connections("tcp"):
                if one.raddr and {one.laddr.port, one.raddr.port}.intersection(ports):
                    return pid
        return self.pids[0]

    def close(self) -> None:
        """Kill them all."""
        self._parent.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _ask(self, what: str, **details: Any) -> int:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        with self._lock:
            self._parent.stdin.write(json.dumps({"what": what, **details}) + "\n")
            self._parent.stdin.flush()
            return int(self._parent.stdout.readline())


def new_lake(endpoint_url: str) -> Storage:
    """An empty lake in the tests' bucket, for a whole module."""
    settings = StorageSettings(
        endpoint_url=endpoint_url, access_key_id="test", secret_access_key="test-secret", url="s3://fleetfeed"
    )
    return Storage.open(f"s3://fleetfeed/replicas-{secrets.token_hex(4)}", settings=settings)


def _environment(storage: Storage) -> dict[str, str]:
    settings, secret = storage.settings, storage.settings.secret_access_key
    return {
        "FLEETFEED_STORAGE_URL": storage.url,
        "FLEETFEED_STORAGE_REGION": settings.region,
        "FLEETFEED_STORAGE_ACCESS_KEY_ID": settings.access_key_id or "",
        "FLEETFEED_STORAGE_SECRET_ACCESS_KEY": secret.get_secret_value() if secret else "",
    }


# -- the process from which replicas are forked ------------------------------------------------------------------------


def main() -> None:
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # it is imported, and never used here
    import uvicorn  # noqa: F401

    import ingest_serve.app  # noqa: F401 - before anything is forked

    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    for line in sys.stdin:
        print(_obey(json.loads(line), listening), flush=True)
    for pid in _children():
        os.kill(pid, signal.SIGKILL)


def _obey(command: dict[str, Any], listening: socket.socket) -> int:
    match command["what"]:
        case "listen":
            return int(listening.getsockname()[1])
        case "start":
            return _fork(command["environment"], listening)
        case "kill":
            os.kill(command["pid"], signal.SIGKILL)
            return os.waitpid(command["pid"], 0)[0]
        case what:
            raise ValueError(f"the command must be listen, start or kill, got {what!r}")


def _fork(environment: dict[str, str], listening: socket.socket) -> int:
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(environment)
    try:
        _serve(listening)
    finally:
        os._exit(1)


def _serve(listening: socket.socket) -> None:
    import uvicorn

    from ingest_serve.app import create_app
    from ingest_serve.settings import IngestSettings

    os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # the commands are the parent's
    os.dup2(2, 1)
    app = create_app(Storage.open(), IngestSettings())
    config = uvicorn.Config(app, log_level="error", lifespan="off")
    uvicorn.Server(config).run(sockets=[listening])


def _children() -> list[int]:
    return [one.pid for one in psutil.Process().children()]


if __name__ == "__main__":
    main()
