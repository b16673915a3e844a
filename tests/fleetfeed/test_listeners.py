"""Whatever a stack starts listens on loopback, and what is Ray's asks even there for the token."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator

import grpc
import psutil
import pytest
import requests

from fleetfeed.processes import end_marked, mark, marked, name_of
from fleetfeed.stack import StackInfo

OPEN = "import socket; one = socket.create_server(('{address}', 0)); print(one.getsockname()[1], flush=True); input()"
LOGS_BY_UDP = "haproxy"
"""Serve's HAProxy sends its log to 127.0.0.1:514 from sockets that it never reads; the kernel shows them as bound."""

RAY_METHODS = {
    "gcs": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "ray_client": "/ray.rpc.RayletDriver/ClusterInfo",
    "node_manager": "/ray.rpc.NodeManagerService/GetNodeStats",
    "object_manager": "/ray.rpc.ObjectManagerService/Pull",
    "agent_grpc": "/ray.rpc.ReporterService/GetTraceback",
}
RAY_REQUESTS = [
    ("dashboard", "GET", "/api/jobs/"),
    ("dashboard", "POST", "/api/jobs/"),
    ("dashboard", "PUT", "/api/packages/gcs/_ray_pkg_0.zip"),
    ("dashboard", "PUT", "/api/serve/applications/"),
    ("dashboard", "GET", "/api/v0/tasks"),
    ("dashboard", "GET", "/logs"),
    ("agent_http", "POST", "/api/job_agent/jobs/"),
    ("agent_http", "PUT", "/api/serve/applications/"),
    ("runtime_env_agent", "POST", "/get_or_create_runtime_env"),
]


def processes(stack_id: str) -> list[psutil.Process]:
    """All of a stack: the marked ones, and those that started them."""
    found = marked(stack_id)
    keepers = [one for process in found for one in process.parents() if "fleetfeed.keeper" in one.cmdline()]
    return [*found, *dict.fromkeys(keepers), *(one for keeper in set(keepers) for one in keeper.children())]


def listeners(stack_id: str) -> dict[tuple[str, int], str]:
    """(address, port) of every socket that takes what comes → whose it is. TCP and UDP."""
    found = {}
    for process in processes(stack_id):
        for one in process.net_connections("inet"):
            takes = one.status == psutil.CONN_LISTEN or (one.type == socket.SOCK_DGRAM and not one.raddr)
            if takes and not (one.type == socket.SOCK_DGRAM and name_of(process) == LOGS_BY_UDP):
                found[one.laddr.ip, one.laddr.port] = name_of(process)
    return found


def beyond_loopback(stack_id: str) -> dict[tuple[str, int], str]:
    return {
        where: name
        for where, name in listeners(stack_id).items()
        if not ipaddress.ip_address(where[0].removeprefix("::ffff:")).is_loopback
    }


def own_addresses() -> Iterator[tuple[socket.AddressFamily, str]]:
    """This machine's addresses by which others reach it."""
    for one in (address for found in psutil.net_if_addrs().values() for address in found):
        is_ip = one.family in (socket.AF_INET, socket.AF_INET6)
        if is_ip and not ipaddress.ip_address(one.address.partition("%")[0]).is_loopback:
            yield one.family, one.address


def answers(family: socket.AddressFamily, address: str, port: int) -> bool:
    with socket.socket(family) as client:
        client.settimeout(5)
        return client.connect_ex((address, port)) == 0


def reached(stack_id: str) -> list[tuple[str, int]]:
    """Those ports of a stack that a connection to another address than loopback reaches."""
    ports = sorted({port for _, port in listeners(stack_id)})
    return [(where, port) for family, where in own_addresses() for port in ports if answers(family, where, port)]


@pytest.mark.stack
def test_everything_that_listens_does_so_on_loopback(stack: StackInfo) -> None:
    found = listeners(stack.stack_id)
    known = {port for name, port in stack.ports.model_dump().items() if name != "first_replica"}
    assert known <= {port for _, port in found}, "the scan does not see them all"
    assert len(found) > len(known), "workers and replicas listen on ports of their own"
    assert beyond_loopback(stack.stack_id) == {}
    assert reached(stack.stack_id) == []


@pytest.mark.parametrize("address", ["0.0.0.0", "own"])  # noqa: S104
def test_the_scan_finds_a_listener_that_is_open_to_others(address: str) -> None:
    own = [where for family, where in own_addresses() if family == socket.AF_INET]
    if address == "own" and not own:
        pytest.skip("this machine has no address but loopback")
    stack_id = secrets.token_hex(8)
    command = [sys.executable, "-c", OPEN.format(address=own[0] if address == "own" else address)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=mark(stack_id), text=True, **pipes) as opened:  # type: ignore[call-overload]
        try:
            port = int(opened.stdout.readline())
            assert [found for _, found in beyond_loopback(stack_id)] == [port]
            assert {found for _, found in reached(stack_id)} == ({port} if own else set())
        finally:
            end_marked(stack_id, grace_s=0)


@pytest.mark.stack
@pytest.mark.parametrize("name", RAY_METHODS)
def test_ray_answers_nobody_without_the_token(stack: StackInfo, name: str) -> None:
    address = f"127.0.0.1:{getattr(stack.ports, name)}"
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(RAY_METHODS[name])(b"", timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.stack
@pytest.mark.parametrize(("name", "method", "path"), RAY_REQUESTS)
def test_nothing_of_ray_is_asked_over_http_without_the_token(
    stack: StackInfo, name: str, method: str, path: str
) -> None:
    url = f"http://127.0.0.1:{getattr(stack.ports, name)}{path}"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert requests.request(method, url, headers=headers, timeout=10).status_code in (401, 403)


@pytest.mark.stack
def test_a_worker_and_a_replica_answer_nobody_without_the_token(stack: StackInfo) -> None:
    """Their ports are chosen by the kernel; whatever asks there for anything is not let in, or not understood."""
    known = set(stack.ports.model_dump().values())
    of_ray = [port for (_, port), name in listeners(stack.stack_id).items() if "ray" in name and port not in known]
    assert of_ray
    for port in of_ray:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method in ("/ray.rpc.CoreWorkerService/PushTask", "/ray.serve.ASGIService/HandleRequest"):
                with pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary(method)(b"", timeout=10)
                assert refused.value.code() in (
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.UNIMPLEMENTED,
                    grpc.StatusCode.UNAVAILABLE,
                ), (port, method)
