"""Whatever work does to its process is told in a sentence, and the next call is none the wiser."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_jobs.errors import SandboxFailed
from ray_jobs.sandbox import Sandbox, SandboxDied

MEMORY = 512 << 20


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(memory_bytes=MEMORY, limit_s=1.0)
    yield made
    made.close()


def _socket_of_a_new_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(socket.socket).result()


def test_a_call_gives_what_its_function_returns(sandbox: Sandbox) -> None:
    assert sandbox.run(math.sqrt, 16.0) == 4.0
    assert sandbox.run(sorted, [3, 1, 2], reverse=True) == [3, 2, 1]


def test_one_process_takes_call_after_call(sandbox: Sandbox) -> None:
    assert sandbox.run(os.getpid) == sandbox.run(os.getpid) != os.getpid()


@pytest.mark.parametrize(
    ("work", "arguments", "said"),
    [
        (time.sleep, (60,), "longer than 1 s"),
        (os._exit, (3,), "code 3"),
        (os.abort, (), "SIGABRT"),
        (signal.raise_signal, (signal.SIGKILL,), "SIGKILL"),
        (bytes, (2 * MEMORY,), "MemoryError"),
        (math.sqrt, (-1.0,), "ValueError: "),
        (set, (), "not JSON serializable"),
    ],
)
def test_work_that_fails_is_told_and_the_next_is_done(
    sandbox: Sandbox, work: Any, arguments: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(SandboxDied, match=said):
        sandbox.run(work, *arguments)
    assert sandbox.run(math.sqrt, 9.0) == 3.0


def test_a_large_request_to_a_process_that_does_not_read_does_not_block(sandbox: Sandbox) -> None:
    sandbox.run(math.sqrt, 1.0)
    assert sandbox._child
    os.kill(sandbox._child.pid, signal.SIGSTOP)
    with pytest.raises(SandboxDied, match="longer than"):
        sandbox.run(len, bytes(8 << 20))
    assert sandbox.run(len, bytes(8 << 20)) == 8 << 20


def test_our_secrets_do_not_go_with_it(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.close()
    monkeypatch.setenv("FLEETFEED_STORAGE_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    assert sandbox.run(os.getenv, "PATH") == os.environ["PATH"]
    for name in ("FLEETFEED_STORAGE_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"):
        assert sandbox.run(os.getenv, name) is None


def test_it_writes_no_file_and_reaches_no_server(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "written"
    with pytest.raises(SandboxDied, match="File too large"):
        sandbox.run(Path.write_text, path, "x" * 100)
    assert path.stat().st_size == 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        with pytest.raises(SandboxDied, match="Permission denied"):
            sandbox.run(socket.create_connection, server.getsockname(), 0.5)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("work", [socket.socket, _socket_of_a_new_thread, partial(subprocess.run, ["/bin/true"])])
def test_it_makes_no_socket_and_starts_no_program(sandbox: Sandbox, work: Callable[[], object]) -> None:
    with pytest.raises(SandboxDied, match="Permission denied"):
        sandbox.run(work)


def test_it_ends_with_its_parent_though_it_is_busy() -> None:
    program = (
        "import threading, time; from ray_jobs.sandbox import Sandbox\n"
        "box = Sandbox(memory_bytes=1 << 29, limit_s=600)\n"
        "print(box.run(__import__('os').getpid), flush=True)\n"
        "box.run(time.sleep, 600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=20)


def test_a_process_that_cannot_start_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.sandbox.sys.executable", "/bin/false")
    with pytest.raises(SandboxFailed, match="did not start"):
        Sandbox(memory_bytes=MEMORY, limit_s=1.0).run(math.sqrt, 1.0)
