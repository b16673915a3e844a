"""Bytes from outside are looked into by a process of its own, with limits of time and memory, and without our secrets,
a network or another program.

What they do to that process is then the item's fault and not the job's: it is told, and the next item gets a new one.
Requests are pickled, answers are JSON, in which bytes are base64: nothing that comes back is ever executed.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from ray_jobs.errors import SandboxFailed
from ray_jobs.seccomp import forbid_calls

_KEPT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")  # of our environment
_HEADER_BYTES = 8
_MAX_ANSWER_BYTES = 64 << 20
_READ_BYTES = 1 << 20
_STARTS_S = 120.0
_BYTES = "\0bytes"
_WATCH_S = 1.0
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000  # linux/sched.h


class SandboxDied(Exception):
    """The work ended its process, or took too long or too much, or raised; the sentence says which."""


class Sandbox:
    """Runs one call after the other in a child process, which is started when it is needed. One thread at a time.

    memory_bytes  what the child may allocate for itself (RLIMIT_DATA)
    limit_s       how long one call may take
    """

    def __init__(self, *, memory_bytes: int, limit_s: float) -> None:
        self.memory_bytes, self.limit_s = memory_bytes, limit_s
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What `work` returns, as JSON carries it, and bytes.

        Raises `SandboxDied`, also for an exception of `work`; `SandboxFailed` where no process can be started, which
        is nobody's fault.
        """
        child = self._started()
        request = pickle.dumps((work, arguments, named))
        try:
            status, answer = self._exchange(child, request)
        except SandboxDied:
            self.close()
            raise
        if status != "ok":
            raise SandboxDied(str(answer))
        return answer

    def close(self) -> None:
        """End the child, whatever it does."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):
                    pipe and pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = _start(self.memory_bytes)
        return self._child

    def _exchange(self, child: subprocess.Popen[bytes], request: bytes) -> tuple[str, Any]:
        """Send from a thread of its own: a child that does not read would block us for ever."""
        sender = threading.Thread(target=_send_quietly, args=(child.stdin, request), daemon=True)
        sender.start()
        deadline_s = time.monotonic() + self.limit_s
        try:
            body = _receive(child, deadline_s)
        except SandboxDied as died:
            raise SandboxDied(_cause(child, died, self.limit_s)) from died
        sender.join()
        try:
            status, answer = json.loads(body, object_hook=_as_bytes)
        except (ValueError, TypeError) as error:
            raise SandboxDied(f"its process answered nonsense: {error}") from error
        return status, answer


def _start(memory_bytes: int) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    child = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.sandbox", str(memory_bytes)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _receive(child, time.monotonic() + _STARTS_S)
    except SandboxDied as died:
        child.kill()
        child.wait()
        raise SandboxFailed(f"a process to look into segments did not start within {_STARTS_S:g} s") from died
    return child


def _send_quietly(pipe: Any, body: bytes) -> None:
    with suppress(OSError, ValueError):  # the child has ended, which the reader will see
        _send(pipe, body)


def _send(pipe: Any, body: bytes) -> None:
    pipe.write(len(body).to_bytes(_HEADER_BYTES, "little"))
    pipe.write(body)
    pipe.flush()


def _receive(child: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    descriptor = child.stdout.fileno() if child.stdout else -1
    size = int.from_bytes(_read_exactly(descriptor, _HEADER_BYTES, deadline_s), "little")
    if size > _MAX_ANSWER_BYTES:
        raise SandboxDied(f"its process answered with {size} bytes")
    return _read_exactly(descriptor, size, deadline_s)


def _read_exactly(descriptor: int, size: int, deadline_s: float) -> bytes:
    """`SandboxDied` at the end of the file, or of the time."""
    body = bytearray()
    while len(body) < size:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
            raise SandboxDied("time")
        chunk = os.read(descriptor, min(size - len(body), _READ_BYTES))
        if not chunk:
            raise SandboxDied("end")
        body += chunk
    return bytes(body)


def _cause(child: subprocess.Popen[bytes], died: SandboxDied, limit_s: float) -> str:
    """In words, why there is no answer."""
    if str(died) == "time":
        return f"it took longer than {limit_s:g} s"
    if str(died) != "end":
        return str(died)
    code = child.wait()
    if code < 0:
        return f"it ended its process by {signal.Signals(-code).name}"
    return f"it ended its process with code {code}"


def _as_bytes(found: dict[str, Any]) -> Any:
    return base64.b64decode(found[_BYTES]) if found.keys() == {_BYTES} else found


# -- in the child ----------------------------------------------------------------------------------------------


def main() -> None:
    """Answer requests from standard input until it ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _isolate()
    import ray_jobs.examine  # noqa: F401 - what most calls need, before the limits count

    forbid_calls()
    _limit(int(sys.argv[1]))
    _send(answers, b"ready")
    while request := _next(sys.stdin.buffer):
        _send(answers, _answer(request))


def _isolate() -> None:
    """No network, where the kernel lets us, and no life after the parent's: before any library starts a thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)  # refused in some containers; see also seccomp.py
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """A child that is busy does not see that its standard input has ended."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)


def _limit(memory_bytes: int) -> None:
    """Not much memory, no file with anything in it, no core."""
    data_bytes = _data_bytes() + memory_bytes
    for what, limit in ((resource.RLIMIT_DATA, data_bytes), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (limit, limit))


def _data_bytes() -> int:
    """What counts towards RLIMIT_DATA already (proc(5), VmData)."""
    with open("/proc/self/status") as status:
        kilobytes = next(line.split()[1] for line in status if line.startswith("VmData"))
    return int(kilobytes) << 10


def _next(pipe: IO[bytes]) -> bytes:
    """The next request; b"" at the end."""
    size = int.from_bytes(pipe.read(_HEADER_BYTES), "little")
    return pipe.read(size)


def _answer(request: bytes) -> bytes:
    try:
        work, arguments, named = pickle.loads(request)  # noqa: S301 - it is our parent's
        return json.dumps(["ok", work(*arguments, **named)], default=_as_json).encode()
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
        return json.dumps(["failed", f"{type(error).__name__}: {error}"[:2000]]).encode()


def _as_json(value: object) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} is not JSON serializable")
    return {_BYTES: base64.b64encode(value).decode()}


if __name__ == "__main__":
    main()
