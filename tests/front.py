"""The TLS front over any HTTP server of a test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleetfeed import tls
from fleetfeed.certificates import ensure_server_certificate
from fleetfeed.processes import wait_until


@contextmanager
def running_front(
    backend_port: int, folder: Path, *, names: tuple[str, ...] = (), **limits: int
) -> Iterator[tuple[str, Path]]:
    """The front of `deploy/tls` over `127.0.0.1:backend_port`: its URL, and the CA file to check it against.

    `folder` takes its certificates and `front.log`. `limits`: `headers_s=2` is `FLEETFEED_FRONT_HEADERS_S=2`.
    """
    with front_process(backend_port, folder, names=names, **limits) as (url, _):
        yield url, folder / "ca.pem"


@contextmanager
def front_process(
    backend_port: int, folder: Path, *, names: tuple[str, ...] = (), **limits: int
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """As `running_front`; yields the URL and HAProxy's first process. A `server.pem` that is there is left as it is."""
    if not (folder / "server.pem").exists():
        ensure_server_certificate(folder, names=names)
    port = _free_port()
    told = tls.environment(
        listen=f"127.0.0.1:{port}", backend=f"127.0.0.1:{backend_port}", certificate=folder / "server.pem"
    )
    told |= {f"FLEETFEED_FRONT_{name.upper()}": str(value) for name, value in limits.items()}
    with (folder / "front.log").open("ab") as log:
        process = subprocess.Popen(tls.command(), env={**os.environ, **told}, stdout=log, stderr=log)
    try:
        assert wait_until(lambda: _listens(port), limit_s=10), (folder / "front.log").read_text()
        yield f"https://127.0.0.1:{port}", process
    finally:
        _end(process)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _listens(port: int) -> bool:
    """Whatever certificate it shows."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=5)
