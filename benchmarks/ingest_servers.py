"""The servers of the ingest benchmark: what takes requests, who works for it, and what each of these costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.measure import BenchmarkFailed
from benchmarks.ready_client import READY, Seen
from benchmarks.robots import Server
from fleetfeed.demo.work import running_stack, storage_of
from fleetfeed.processes import marked
from fleetfeed.settings import StackSettings

REPLICA, PROXY, S3 = "replica", "proxy", "S3"
_WORDS = {REPLICA: ("ServeReplica:default:ingest",), PROXY: ("bin/haproxy", "ProxyActor"), S3: ("weed mini",)}
PYTHON_PROXY_APP = "benchmarks.python_proxy_app:build_app"


@dataclass(frozen=True)
class Took:
    """What one batch of requests came to, and the CPU time that each kind of server spent on it."""

    seen: Seen
    cpu_s: Mapping[str, float]

    @property
    def requests_per_s(self) -> float:
        return len(self.seen.latencies_s) / self.seen.whole_s


@contextmanager
def stack(folder: Path, *, haproxy: bool = True) -> Iterator[Server]:
    """The embedded stack behind HAProxy as it is delivered, or the same application behind Serve's own proxy."""
    fields = {} if haproxy else {"haproxy": False, "app": PYTHON_PROXY_APP}
    with running_stack(StackSettings(run_dir=folder, **fields), keep=False) as info:
        yield Server(info, storage_of(info))


def send(server: Server, address: str, batch: str, *, connections: int, status: int) -> Took:
    """Have the client send a batch that is ready. `BenchmarkFailed` for an answer that is not `status`."""
    command = [sys.executable, "-m", "benchmarks.ready_client", address, str(connections), str(status)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        if client.stdin is None or client.stdout is None:
            raise BenchmarkFailed("the client has no pipes")
        client.stdin.write(batch + "\n")
        client.stdin.flush()
        if client.stdout.readline().strip() != READY:
            raise BenchmarkFailed("the client did not get ready; what it said stands above")
        os.sync()  # what earlier rounds wrote is no cost of this one
        before = _cpu_s(server)
        client.stdin.write("\n")
        client.stdin.flush()
        told = client.stdout.readline()
        after = _cpu_s(server)
    if not told:
        raise BenchmarkFailed("the client ended early; what it said stands above")
    return Took(Seen.parse(told), {kind: after[kind] - before[kind] for kind in after})


def _cpu_s(server: Server) -> dict[str, float]:
    """CPU time, user and system, until now, by kind of server."""
    spent = dict.fromkeys(_WORDS, 0.0)
    for process in marked(server.info.stack_id):
        with suppress(psutil.Error):
            line, times = " ".join(process.cmdline()), process.cpu_times()
            for kind, words in _WORDS.items():
                if any(word in line for word in words):
                    spent[kind] += times.user + times.system
    return spent
