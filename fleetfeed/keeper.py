"""The process that starts the servers, watches them, and has them ended: `python -m fleetfeed.keeper RUN_DIR LOCK_FD`.

A stack is whole or gone: if one server ends by itself, the keeper ends the others too. The last act is always the
reaper's (see `fleetfeed.reaper`), so that a killed keeper leaves no more behind than one that was asked to end.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from subprocess import PIPE

import obstore
from obstore.exceptions import BaseError as S3Error
from obstore.store import S3Store

from fleetfeed import servers, tls
from fleetfeed.certificates import ensure_server_certificate
from fleetfeed.children import Child, check_alive, spawn, wait_for
from fleetfeed.errors import StackError
from fleetfeed.plan import BUCKET, REGION, Plan, StackInfo
from fleetfeed.ports import LOOPBACK, url
from fleetfeed.processes import is_alive, marked, name_of
from fleetfeed.run_folder import RunFolder, hold

READY = "ready"
RAY_CORE = ("gcs_server", "raylet")
WATCH_S = 0.5
RENEWAL_S = 3600.0
DRAIN_S = 10.0
REAP_S = 20.0
log = logging.getLogger("fleetfeed.keeper")


@dataclass(frozen=True)
class Children:
    """What the keeper has started. `ray` is the command that starts Ray and ends when it is up."""

    reaper: Child
    seaweedfs: Child
    ray: Child
    serve: Child
    front: Child | None

    @property
    def lasting(self) -> list[Child]:
        """Those that are to live as long as the stack."""
        return [self.reaper, self.seaweedfs, self.serve, *([self.front] if self.front else [])]


def keep(plan: Plan, folder: RunFolder, *, report: Callable[[str], None], ready: Callable[[StackInfo], None]) -> None:
    """Start everything, call `ready`, and stay until SIGINT or SIGTERM; then end everything.

    Raises `StackError` if a server does not start, or ends by itself. A second signal cuts the clean ending short.
    Must be called from the main thread.
    """
    with _signals_interrupt(), suppress(KeyboardInterrupt):
        reaper = _start_reaper(plan, folder)
        try:
            children = _start(plan, folder, reaper)
            _wait_until_ready(plan, children, report=report)
            ready(StackInfo.of(plan, keeper_pid=os.getpid()))
            _watch(plan, folder, children)
        finally:
            if not reaper.end_input(limit_s=REAP_S) or reaper.exit_code:
                log.error("some processes could not be ended: see `fleetfeed status`")


def main() -> None:
    """In the background, for `fleetfeed.stack.up`, which reads progress and then `ready` from standard output."""
    run_dir, descriptor = sys.argv[1:]
    if os.fork():  # whoever started us need not wait for us to end
        os._exit(0)
    hold(int(descriptor))
    folder = RunFolder(Path(run_dir))
    logging.basicConfig(filename=folder.log("keeper"), level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        keep(folder.read_plan(), folder, report=_tell, ready=_tell_ready)
    except StackError as error:
        log.error("%s", error)  # noqa: TRY400 - the sentence is for people
        sys.exit(1)


def _tell(line: str) -> None:
    log.info(line)
    print(line, flush=True)


def _tell_ready(_: StackInfo) -> None:
    """The last line; from here on nobody need read."""
    _tell(READY)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM is what Ctrl-C is: a KeyboardInterrupt."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _start_reaper(plan: Plan, folder: RunFolder) -> Child:
    """Without the mark, which is on everything that it will end."""
    left_over = [str(path) for path in (plan.link, *servers.seaweedfs_sockets(plan))]
    command = [sys.executable, "-m", "fleetfeed.reaper", plan.stack_id, *left_over]
    return spawn("reaper", command, log=folder.log("keeper"), stdin=PIPE)


def _start(plan: Plan, folder: RunFolder, reaper: Child) -> Children:
    """All at once: Serve imports what it needs while Ray starts."""
    environment = servers.environment(plan)
    ray = spawn("ray", servers.ray_head(plan), log=folder.log("ray"), environment=environment)
    seaweedfs = spawn(
        "seaweedfs",
        servers.seaweedfs(plan, data=folder.s3_data),
        log=folder.log("seaweedfs"),
        environment=environment | servers.seaweedfs_environment(plan),
    )
    serve = spawn(
        "serve",
        servers.serving(plan),
        log=folder.log("serve"),
        environment=environment | servers.serving_environment(plan),
        stdin=PIPE,
        stdout=PIPE,
    )
    front = None
    if plan.front:
        told = servers.front_environment(plan, certificate=folder.tls / "server.pem")
        front = spawn("tls", tls.command(), log=folder.log("tls"), environment=environment | told)
    return Children(reaper, seaweedfs, ray, serve, front)


def _wait_until_ready(plan: Plan, children: Children, *, report: Callable[[str], None]) -> None:
    deadline = time.monotonic() + plan.start_timeout_s

    def wait(child: Child, condition: Callable[[], bool]) -> None:
        wait_for(child, condition, others=children.lasting, limit_s=deadline - time.monotonic())

    report("S3 (SeaweedFS)")
    store = _bucket(plan)
    wait(children.seaweedfs, lambda: _answers(store))
    report("Ray")
    wait(children.ray, lambda: children.ray.exit_code is not None)
    if children.ray.exit_code:
        raise children.ray.failed(f"ended with code {children.ray.exit_code}")
    report(f"Ray Serve with {plan.app}")
    with suppress(BrokenPipeError):  # it has just ended, and the next line says why
        children.serve.stdin.write(b"\n")
        children.serve.stdin.flush()
    wait(children.serve, lambda: _has_line(children.serve))
    wait(children.serve, lambda: _has_route(plan.ports.http))
    if plan.front and children.front:
        report("TLS")
        url, ca_file = plan.front.url(plan.ports.https), plan.front.ca_file
        wait(children.front, lambda: tls.answers(url, ca_file=ca_file))


def _watch(plan: Plan, folder: RunFolder, children: Children) -> None:
    """Until a signal comes; Serve may then finish its requests. Raises `StackError` if a server ends by itself."""
    ray = [process for process in marked(plan.stack_id) if name_of(process) in RAY_CORE]
    looked_s = time.monotonic()
    try:
        while True:
            if time.monotonic() - looked_s > RENEWAL_S:
                looked_s = time.monotonic()
                _renew(plan, folder, children)
            check_alive(children.lasting)
            lost = [process.pid for process in ray if not is_alive(process)]
            if lost:
                raise StackError(f"Ray's process {lost[0]} ended by itself; its logs are in {plan.run_dir}/ray")
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        log.info("ending")
        children.serve.end_input(limit_s=DRAIN_S)


def _renew(plan: Plan, folder: RunFolder, children: Children) -> None:
    """A certificate near its end is replaced; the front takes the new one and drops no connection."""
    if plan.front and children.front and ensure_server_certificate(folder.tls, names=plan.front.names):
        log.info("the server's certificate was renewed")
        tls.reload(children.front.process)


def _bucket(plan: Plan) -> S3Store:
    return S3Store(
        BUCKET,
        endpoint=url(plan.ports.s3),
        region=REGION,
        access_key_id=plan.credentials.access_key_id,
        secret_access_key=plan.credentials.secret_access_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": "2s"},
        retry_config={"max_retries": 0},
    )


def _answers(store: S3Store) -> bool:
    """Whether the bucket is there and takes our key."""
    try:
        obstore.list_with_delimiter(store)
    except S3Error:
        return False
    return True


def _has_line(child: Child) -> bool:
    """Whether it has printed one. At its end there is something to read too, which is nothing."""
    readable, _, _ = select.select([child.stdout], [], [], 0)
    return bool(readable) and child.stdout.readline() != b""


def _has_route(port: int) -> bool:
    """Whether HAProxy knows the application; it hears of it a moment after Serve says that it runs."""
    connection = HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/-/routes")
        return "/" in json.load(connection.getresponse())
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main()
