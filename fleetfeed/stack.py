"""The embedded stack on this machine's loopback: S3 (SeaweedFS), Ray, and the ingest application on Ray Serve.

`up` leaves it running in the background, `run` keeps it in the foreground; `down` ends exactly what either started.
The run folder says everything about it: no other state is kept.
"""

from __future__ import annotations

import ipaddress
import os
import random
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from fleetfeed import servers
from fleetfeed.certificates import ensure_server_certificate
from fleetfeed.errors import AlreadyRunning, PortTaken, StackError
from fleetfeed.keeper import READY, keep
from fleetfeed.plan import Front, Plan, StackInfo
from fleetfeed.ports import choose_ports
from fleetfeed.processes import end_marked, marked, name_of, wait_until
from fleetfeed.run_folder import RunFolder, hold, last_lines
from fleetfeed.settings import StackSettings

__all__ = ["AlreadyRunning", "Component", "PortTaken", "StackError", "StackInfo", "down", "info", "run", "status", "up"]

KEEPER_ENDS_S = 30.0


@dataclass(frozen=True)
class Component:
    """A living process of a stack, and the TCP addresses on which it listens."""

    name: str
    pid: int
    listens: tuple[str, ...]


def up(settings: StackSettings, *, report: Callable[[str], None]) -> StackInfo:
    """Start a stack in the background and return when all of it is ready; `report` hears what is awaited.

    Raises `AlreadyRunning`, `PortTaken`, or `StackError` with the end of the log of what failed; nothing is left then.
    """
    folder, _, lock = _prepare(settings)
    try:
        started = _start_keeper(folder, lock, report=report)
    except KeyboardInterrupt:
        down(settings.run_dir)
        raise
    running = info(settings.run_dir)
    if not started or running is None:
        down(settings.run_dir)
        raise StackError(f"the stack did not start\n{last_lines(folder.log('keeper'), count=20)}")
    return running


def run(settings: StackSettings, *, report: Callable[[str], None], ready: Callable[[StackInfo], None]) -> None:
    """Start a stack, call `ready`, and stay until Ctrl-C or SIGTERM; then end all of it. Errors as in `up`."""
    folder, plan, lock = _prepare(settings)
    try:
        keep(plan, folder, report=report, ready=ready)
    finally:
        os.close(lock)


def down(run_dir: Path) -> list[str]:
    """End what was started in this run folder, in whatever state it is, and return the names of what was running.

    Nothing else is touched, and a second call finds nothing. Raises `StackError` if something cannot be ended.
    """
    folder = RunFolder(run_dir.resolve())
    plan = folder.last_plan()
    if plan is None:
        return []
    names = [component.name for component in status(run_dir)]
    _end_keeper(folder)
    _end_left_over(plan)
    return names


def info(run_dir: Path) -> StackInfo | None:
    """The stack that runs in this folder, or is starting there; None if there is none."""
    folder = RunFolder(run_dir.resolve())
    pid, plan = folder.keeper_pid(), folder.last_plan()
    return StackInfo.of(plan, keeper_pid=pid) if pid and plan else None


def status(run_dir: Path) -> list[Component]:
    """Every living process of this run folder's stack, the keeper first."""
    folder = RunFolder(run_dir.resolve())
    pid, plan = folder.keeper_pid(), folder.last_plan()
    keeper = [Component("keeper", pid, ())] if pid else []
    others = marked(plan.stack_id) if plan else []
    return keeper + [Component(name_of(process), process.pid, _listens(process)) for process in others]


def _prepare(settings: StackSettings) -> tuple[RunFolder, Plan, int]:
    """Take the run folder, end what a crash may have left there, decide on everything; also the lock's descriptor."""
    folder = RunFolder.open(settings.run_dir)
    lock = folder.lock()
    try:
        earlier = folder.last_plan()
        if earlier is not None:
            _end_left_over(earlier)
        plan = _plan(settings, folder)
        folder.write_plan(plan)
        folder.clear()
        plan.link.symlink_to(folder.path)
        if plan.front:
            ensure_server_certificate(folder.tls, names=plan.front.names)
        servers.write_haproxy_launcher(folder.haproxy_launcher)
        hold(lock)
    except BaseException:
        os.close(lock)
        raise
    return folder, plan, lock


def _plan(settings: StackSettings, folder: RunFolder) -> Plan:
    stack_id = secrets.token_hex(8)
    return Plan(
        stack_id=stack_id,
        run_dir=folder.path,
        link=Path(f"/tmp/ff-{stack_id[:8]}"),  # noqa: S108 - the name is random, and symlink_to fails where it is taken
        app=settings.app,
        haproxy=settings.haproxy,
        num_cpus=settings.num_cpus,
        object_store_memory_bytes=settings.object_store_memory_bytes,
        start_timeout_s=settings.start_timeout_s,
        ports=choose_ports(settings, randomness=random.Random(stack_id)),  # noqa: S311 - ports are no secret
        credentials=folder.credentials(),
        front=_front(settings, folder) if settings.tls else None,
    )


def _front(settings: StackSettings, folder: RunFolder) -> Front:
    """The certificate is for the address on which it listens, too, unless that stands for all of them."""
    host = ipaddress.ip_address(settings.https_host)
    names = [*settings.tls_names, *([] if host.is_unspecified else [str(host)])]
    return Front(host=settings.https_host, names=tuple(names), ca_file=folder.tls / "ca.pem")


def _start_keeper(folder: RunFolder, lock: int, *, report: Callable[[str], None]) -> bool:
    """Hand the lock over to a keeper in the background; whether it got everything ready."""
    command = [sys.executable, "-m", "fleetfeed.keeper", str(folder.path), str(lock)]
    with folder.log("keeper").open("ab") as log:
        starter = subprocess.Popen(
            command,
            pass_fds=[lock],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            text=True,
        )
    os.close(lock)
    with starter:
        for line in starter.stdout or ():
            if line.strip() == READY:
                return True
            report(line.strip())
    return False


def _end_keeper(folder: RunFolder) -> None:
    """Ask the keeper to end everything, and kill it if it does not: its reaper takes over then."""
    pid = folder.keeper_pid()
    if pid is None:
        return
    try:
        keeper = psutil.Process(pid)
        if folder.keeper_pid() == pid:
            keeper.terminate()
        if not wait_until(lambda: folder.keeper_pid() is None, limit_s=KEEPER_ENDS_S):
            keeper.kill()
    except psutil.NoSuchProcess:
        pass


def _end_left_over(plan: Plan) -> None:
    """What the keeper's reaper does, in case that it was killed as well."""
    if not end_marked(plan.stack_id):
        left = ", ".join(f"{name_of(process)} ({process.pid})" for process in marked(plan.stack_id))
        raise StackError(f"these processes cannot be ended: {left}")
    for path in (plan.link, *servers.seaweedfs_sockets(plan)):
        path.unlink(missing_ok=True)


def _listens(process: psutil.Process) -> tuple[str, ...]:
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return ()
    found = {(c.laddr.ip.removeprefix("::ffff:"), c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}
    return tuple(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip, port in sorted(found))
