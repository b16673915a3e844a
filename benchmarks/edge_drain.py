"""How fast the agent drains a backlog, beside raw POSTs of the very same files to the same server."""

from __future__ import annotations

import json
import os
import resource
import select
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import robots
from benchmarks.backlog import RECORDING, STREAMS, Backlog, make_backlog
from benchmarks.measure import MB, BenchmarkFailed, Result, console, interleaved, median_ratio
from benchmarks.robots import Server
from edge import identity, wire
from edge.spool import Spool

CONNECTIONS = 2
LIMIT_S = 300.0
CONNECTION_POLL_S = 0.005
FOLDER_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Drain:
    """One backlog on its way. Times are counted from the moment that the client begins to talk to the server."""

    size_bytes: int
    first_bytes: int  # of the segments that were through when the first answer was seen
    first_s: float  # until the first answer
    last_s: float  # until the last
    whole_s: float  # until the client has ended
    cpu_s: float

    @property
    def mb_per_s(self) -> float:
        return self.size_bytes / MB / self.whole_s

    @property
    def acknowledged_mb_per_s(self) -> float:
        """Between the first and the last answer."""
        return (self.size_bytes - self.first_bytes) / MB / (self.last_s - self.first_s)


def drain(folder: Path, server: Server, *, rounds: int, size_bytes: int) -> Result:
    """Interleaved rounds, each as a robot of its own, so that the server stores every segment anew."""
    backlog = make_backlog(folder / "backlog", size_bytes=size_bytes)
    sides = {
        "agent": lambda number: _by_agent(folder / f"drain-agent-{number}", server, backlog),
        "raw POST": lambda number: _by_raw_post(folder / f"drain-raw-{number}", server, backlog),
    }
    found = interleaved(rounds, sides)
    for name, drains in found.items():
        _tell(name, drains)
    ours, raw = ([one.mb_per_s for one in found[name]] for name in sides)
    return Result(
        "drain_vs_raw_post",
        median_ratio(ours, raw),
        "of raw POST",
        0.8,
        "higher",
        f"{rounds} interleaved rounds of {backlog.bytes / MB:.0f} MB in {len(backlog.segments)} segments, "
        f"{CONNECTIONS} connections",
        f"{statistics.median(ours):.1f} | {statistics.median(raw):.1f} MB/s",
    )


def _by_agent(folder: Path, server: Server, backlog: Backlog) -> Drain:
    """`fleetfeed edge run --until-empty`, from its first connection to the server until it has ended."""
    server.enrol(folder.name, folder)
    backlog.copy_to(folder)
    os.sync()
    cpu_before_s = _ended_cpu_s()
    connections = {"FLEETFEED_EDGE_UPLOADS_AT_ONCE": str(CONNECTIONS)}
    with robots.agent(folder, server.url, "--until-empty", environment=connections) as agent:
        _wait_for_connection(agent.pid, port=server.info.http_port)
        began_s = time.perf_counter()
        with _watching(folder / "sealed", backlog, began_s) as emptying:
            _wait_for_end(agent.pid)
            whole_s = time.perf_counter() - began_s
    spool = Spool(folder)
    if agent.returncode or next(iter(spool.waiting()), None) or spool.quarantined():
        raise BenchmarkFailed(f"the agent did not deliver everything: {robots.agent_said(folder)}")
    _check_stored(folder.name, server, backlog)
    return Drain(
        backlog.bytes,
        emptying.first_bytes,
        emptying.first_s,
        emptying.last_s,
        whole_s,
        _ended_cpu_s() - cpu_before_s,
    )


def _wait_for_connection(pid: int, *, port: int) -> None:
    """Until a process talks to a port: its interpreter has started by then and everything is imported."""
    process = psutil.Process(pid)

    def is_connected() -> bool:
        try:
            return any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp"))
        except psutil.Error as error:
            raise BenchmarkFailed("the agent ended before it uploaded") from error

    robots.wait_until(is_connected, limit_s=LIMIT_S, poll_s=CONNECTION_POLL_S, what="the agent's first connection")


def _wait_for_end(pid: int) -> None:
    """Return at the moment that a child ends; it is not reaped."""
    descriptor = os.pidfd_open(pid)
    try:
        if not select.select([descriptor], [], [], LIMIT_S)[0]:
            raise BenchmarkFailed(f"the agent did not drain its backlog within {LIMIT_S:.0f} s")
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class _Emptying:
    """When the first and the last segment were seen to be gone, in s, and how much the first look found gone."""

    first_s: float = 0.0
    first_bytes: int = 0
    last_s: float = 0.0


@contextmanager
def _watching(sealed: Path, backlog: Backlog, began_s: float) -> Iterator[_Emptying]:
    """See from outside how the folder empties: a segment's bytes go as soon as it is acknowledged."""
    seen, ended = _Emptying(), threading.Event()

    def watch() -> None:
        left = len(backlog.segments)
        while left and not ended.wait(FOLDER_POLL_S):
            now_left = sum(1 for _ in sealed.glob(f"{RECORDING}/*/*.mcap"))
            if now_left < left and not seen.first_s:
                seen.first_s = time.perf_counter() - began_s
                seen.first_bytes = sum(one.bytes for one in backlog.segments[: left - now_left])
            if now_left < left:
                left, seen.last_s = now_left, time.perf_counter() - began_s

    watcher = threading.Thread(target=watch, name="emptying")
    watcher.start()
    try:
        yield seen
    finally:
        watcher.join(FOLDER_POLL_S * 4)  # one look more
        ended.set()
        watcher.join()


def _by_raw_post(folder: Path, server: Server, backlog: Backlog) -> Drain:
    """The same bodies in the same order, each request signed before the clock starts."""
    server.enrol(folder.name, folder)
    requests = "".join(json.dumps(one) + "\n" for one in _signed(folder, backlog))
    os.sync()
    cpu_before_s = _ended_cpu_s()
    command = [sys.executable, "-m", "benchmarks.raw_post", server.url, str(CONNECTIONS)]
    done = subprocess.run(command, input=requests, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"raw POST: {done.stderr.strip()[-500:]}")
    _check_stored(folder.name, server, backlog)
    told = json.loads(done.stdout)
    first_bytes, cpu_s = backlog.segments[0].bytes, _ended_cpu_s() - cpu_before_s
    return Drain(backlog.bytes, first_bytes, told["first_s"], told["last_s"], told["last_s"], cpu_s)


def _signed(folder: Path, backlog: Backlog) -> Iterator[dict[str, object]]:
    robot = identity.load(folder)
    for one in backlog.segments:
        target = wire.upload_target(one.named(robot.robot), kind=one.kind, start_ns=one.start_ns, end_ns=one.end_ns)
        digest = wire.content_digest(bytes.fromhex(one.sha256))
        authorization = robot.authorization(method="POST", target=target, digest=digest, now_ns=time.time_ns())
        headers = {"Authorization": authorization, "Content-Digest": digest, "Content-Type": one.content_type}
        yield {"target": target, "headers": headers, "path": str(backlog.path(one))}


def _check_stored(robot: str, server: Server, backlog: Backlog) -> None:
    for stream in STREAMS:
        sent = sum(one.bytes for one in backlog.segments if one.stream == stream)
        stored = server.stored_bytes(robot, stream)
        if stored != sent:
            raise BenchmarkFailed(f"{robot} {stream}: {sent} bytes were sent, {stored} are stored")


def _ended_cpu_s() -> float:
    """CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tell(name: str, drains: list[Drain]) -> None:
    whole, between = ([getattr(one, kind) for one in drains] for kind in ("mb_per_s", "acknowledged_mb_per_s"))
    each = ", ".join(f"{value:.1f}" for value in whole)
    console.print(
        f"  {name:<9} {statistics.median(whole):>6.1f} MB/s of the whole time ({each}), "
        f"{statistics.median(between):>6.1f} from the first to the last acknowledged, "
        f"{statistics.median(one.cpu_s for one in drains):.2f} CPU-s"
    )
