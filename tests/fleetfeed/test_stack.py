"""The embedded stack with real servers: what reaches its application, what it lets in, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import grpc
import obstore
import psutil
import pytest
from obstore.store import S3Store

from fleetfeed import stack as embedded
from fleetfeed.errors import AlreadyRunning, PortTaken, StackError
from fleetfeed.plan import StackInfo
from fleetfeed.processes import marked, wait_until
from fleetfeed.settings import StackSettings

pytestmark = pytest.mark.stack

ENDS_S = 20.0
DRIVER = "import ray; ray.init(log_to_driver=False); print(ray.get(ray.remote(lambda: 6 * 7).remote()))"
FOREGROUND = """
import sys
from pathlib import Path
from fleetfeed import stack
from fleetfeed.settings import StackSettings

settings = StackSettings(run_dir=Path(sys.argv[1]), app="tests.fleetfeed.small_app:build")
stack.run(settings, report=lambda line: print(line, flush=True), ready=print)
"""


def settings(run_dir: Path, **changed: Any) -> StackSettings:
    small = {"app": "tests.fleetfeed.small_app:build", "object_store_memory_bytes": 100 << 20}
    return StackSettings(run_dir=run_dir, **(small | changed))


def bucket(info: StackInfo) -> S3Store:
    return S3Store(
        info.bucket,
        endpoint=info.s3_url,
        region="us-east-1",
        access_key_id=info.credentials.access_key_id,
        secret_access_key=info.credentials.secret_access_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def is_gone(info: StackInfo) -> bool:
    return not marked(info.stack_id) and not any(answers(port) for port in info.ports.model_dump().values())


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Deeper than a Unix socket's path may be long."""
    folder = tmp_path_factory.mktemp("stack") / ("deep" * 25)
    yield folder
    embedded.down(folder)


@pytest.fixture(scope="module")
def running(run_dir: Path) -> StackInfo:
    return embedded.up(settings(run_dir), report=print)


def test_a_replica_gets_the_storage_settings(running: StackInfo) -> None:
    with urllib.request.urlopen(f"{running.http_url}/environment", timeout=10) as response:
        seen = json.load(response)
    storage = {name: value for name, value in running.environment().items() if name.startswith("FLEETFEED_STORAGE_")}
    assert storage.items() <= seen.items()
    assert storage["FLEETFEED_STORAGE_ENDPOINT_URL"] == running.s3_url


def test_the_bucket_takes_its_own_key_and_no_other(running: StackInfo) -> None:
    obstore.put(bucket(running), "kept", b"over a restart", mode="create")
    assert obstore.get(bucket(running), "kept").bytes() == b"over a restart"
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(f"{running.s3_url}/{running.bucket}/kept", timeout=10)
    assert refused.value.code == 403


def test_another_process_runs_a_task_on_ray(running: StackInfo) -> None:
    environment = {**os.environ, **running.environment()}
    done = subprocess.run([sys.executable, "-c", DRIVER], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "42", done.stderr


def test_nobody_submits_a_job_without_the_token(running: StackInfo) -> None:
    jobs = urllib.request.Request(f"{running.dashboard_url}/api/jobs/")
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(jobs, timeout=10)
    assert refused.value.code == 401
    jobs.add_header("Authorization", f"Bearer {running.credentials.ray_token}")
    with urllib.request.urlopen(jobs, timeout=10) as response:
        assert response.status == 200


def test_only_a_replica_listens_beyond_loopback_and_it_asks_for_the_token(running: StackInfo, run_dir: Path) -> None:
    open_ends = [
        (component.name, address)
        for component in embedded.status(run_dir)
        for address in component.listens
        if not address.startswith("127.")
    ]
    assert [name for name, _ in open_ends] == ["ray::ServeReplica:default:Small"]
    port = open_ends[0][1].rpartition(":")[2]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_second_stack_does_not_start_in_the_same_folder(running: StackInfo, run_dir: Path) -> None:
    with pytest.raises(AlreadyRunning, match=f"keeper {running.keeper_pid}"):
        embedded.up(settings(run_dir), report=print)
    assert embedded.info(run_dir) == running


def test_a_killed_keeper_leaves_nothing_behind_but_the_bucket(running: StackInfo, run_dir: Path) -> None:
    os.kill(running.keeper_pid, signal.SIGKILL)
    assert wait_until(lambda: is_gone(running), limit_s=ENDS_S), embedded.status(run_dir)
    assert embedded.info(run_dir) is None

    again = embedded.up(settings(run_dir), report=print)
    assert again.credentials == running.credentials
    assert obstore.get(bucket(again), "kept").bytes() == b"over a restart"

    servers = {"keeper", "weed", "raylet", "haproxy"}
    assert wait_until(lambda: servers <= {one.name for one in embedded.status(run_dir)}, limit_s=ENDS_S)
    assert servers - {"haproxy"} <= set(embedded.down(run_dir))  # HAProxy is between two processes while it reloads
    assert is_gone(again)
    assert run_dir.resolve() not in [link.resolve() for link in Path("/tmp").glob("ff-*")]  # noqa: S108
    assert embedded.down(run_dir) == []


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A stack in the foreground that has come as far as waiting for Ray."""
    command = [sys.executable, "-c", FOREGROUND, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as foreground:
        assert foreground.stdout is not None
        while "Ray" not in foreground.stdout.readline():
            assert foreground.poll() is None
        yield foreground
        foreground.kill()
    embedded.down(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_it_starts_ends_everything(
    starting: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    info = embedded.info(tmp_path)
    assert info is not None
    assert {component.name for component in embedded.status(tmp_path)} >= {"weed", "fleetfeed.serving"}
    starting.send_signal(number)
    assert wait_until(lambda: is_gone(info), limit_s=ENDS_S), embedded.status(tmp_path)
    assert starting.wait(ENDS_S) == (-number if number is signal.SIGKILL else 0)


def test_down_finds_what_is_left_when_nobody_could_clean_up(starting: subprocess.Popen[str], tmp_path: Path) -> None:
    info = embedded.info(tmp_path)
    assert info is not None
    reaper = [one for one in psutil.Process(starting.pid).children() if "fleetfeed.reaper" in one.cmdline()]
    for process in (*reaper, starting):
        process.kill()
    starting.wait(ENDS_S)
    assert len(reaper) == 1
    assert "weed" in embedded.down(tmp_path)
    assert wait_until(lambda: is_gone(info), limit_s=ENDS_S)  # a killed process's sockets go after its environment


def test_a_stack_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no calibration of the left hand"):
        embedded.up(settings(tmp_path, app="tests.fleetfeed.failing_app:build"), report=print)
    assert embedded.info(tmp_path) is None
    assert embedded.status(tmp_path) == []


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port} is taken"):
            embedded.up(settings(tmp_path, http_port=port), report=print)
    assert embedded.down(tmp_path) == []
