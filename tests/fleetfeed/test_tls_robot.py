"""A robot and the whole stack behind its TLS front: every command goes through it, and no false server gets a word."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from edge import identity
from edge.agent import Agent
from edge.asked import Asked, ask
from edge.errors import NotEnrolled, RotationError
from edge.https import prepare
from edge.recorder import Recorder
from edge.settings import EdgeSettings
from edge.spool import Spool
from fleetfeed.certificates import Authority
from fleetfeed.demo.fleet import DemoRobot
from fleetfeed.demo.work import let_in, storage_of
from fleetfeed.processes import wait_until
from fleetfeed.stack import StackInfo
from ingest_serve.bucket import Bucket
from ingest_serve.registry import Registry, invite
from tests.front import front_process

pytestmark = pytest.mark.stack
LIMIT_S = 30.0
FAR_NS = 1_760_000_000_000_000_000


def record(folder: Path) -> int:
    """A short recording; how many segments of it wait."""
    with Recorder(folder, software_version="1") as recorder:
        for number in range(20):
            recorder.log("/joint_states", FAR_NS + number, {"position": [0.5] * 29})
    return len(list(Spool(folder).waiting()))


def stored(stack: StackInfo, robot: str) -> list[str]:
    return list(Bucket.open(storage_of(stack)).names(f"raw/{robot}"))


def carried(stack: StackInfo) -> str:
    """What the front has handed on so far."""
    return (stack.run_dir / "tls.log").read_text()


def test_every_command_of_a_robot_goes_through_the_front(stack: StackInfo, tmp_path: Path) -> None:
    environment = {**os.environ, **stack.edge_environment(), "FLEETFEED_EDGE_STREAMS": '{"*": {"send": "on_request"}}'}
    robot = DemoRobot("tls-robot", tmp_path / "robot", environment)
    url = stack.edge_url
    assert url.startswith("https://")
    robot.enrol(invite(Registry(Bucket.open(storage_of(stack))), "tls-robot", now_ns=time.time_ns()), url)
    waiting = record(robot.folder)
    first_key = identity.load(robot.folder).key_id
    robot.edge("rotate-key", url=url)
    assert identity.load(robot.folder).key_id != first_key
    ask(Spool(robot.folder), Asked("*"))  # its policy keeps everything on the robot
    robot.edge("run", "--until-empty", url=url)
    assert list(Spool(robot.folder).waiting()) == []
    assert len(stored(stack, "tls-robot")) == waiting
    log = carried(stack)
    assert log.count('POST "/v1/robots/tls-robot/telemetry" 201') == waiting
    assert log.count('POST "/v1/robots/tls-robot/enrol" 201') == 1
    assert log.count('POST "/v1/robots/tls-robot/keys" 201') == 1
    assert log.count(f'DELETE "/v1/robots/tls-robot/keys/{first_key}" 204') == 1


def test_nothing_of_serve_itself_is_reached_through_the_front(stack: StackInfo) -> None:
    with prepare(requests.Session(), ca_file=stack.run_dir / "tls" / "ca.pem") as session:
        assert session.get(f"{stack.edge_url}/healthz", timeout=10).json() == {"status": "ok"}
        assert session.get(f"{stack.edge_url}/-/routes", timeout=10).status_code == 404
    assert requests.get(f"{stack.http_url}/-/routes", timeout=10).status_code == 200


class Robot:
    """An enrolled robot with something to deliver."""

    def __init__(self, stack: StackInfo, name: str, folder: Path) -> None:
        self.stack, self.name, self.folder = stack, name, folder
        let_in([DemoRobot(name, folder, os.environ)], stack, storage_of(stack))
        self.waiting = record(folder)

    @contextmanager
    def running(self, url: str, ca_file: Path) -> Iterator[Agent]:
        settings = EdgeSettings(
            folder=self.folder, url=url, ca_file=ca_file, scan_s=0.05, max_backoff_s=0.1, timeout_s=5
        )
        agent, stop = Agent(settings), threading.Event()
        said: Callable[[str], None] = lambda _: None  # noqa: E731
        working = threading.Thread(target=agent.run, args=(stop,), kwargs={"until_empty": False, "report": said})
        working.start()
        try:
            yield agent
        finally:
            stop.set()
            working.join()


@pytest.fixture(scope="module")
def robot(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Robot:
    return Robot(stack, "careful-robot", tmp_path_factory.mktemp("careful") / "robot")


def false_certificate(folder: Path, case: str) -> None:
    """Make `folder` that of a front which a robot must not believe."""
    authority, now = Authority.in_folder(folder), datetime.now(UTC)
    names = ["elsewhere.example.com"] if case == "another host" else ["127.0.0.1"]
    at = {"expired": now - timedelta(days=91), "not yet valid": now + timedelta(days=10)}.get(case, now)
    signer = Authority.new(now=now) if case == "another authority" else authority
    (folder / "server.pem").write_bytes(signer.sign_server(names, now=at))


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("another authority", "unable to get local issuer certificate"),
        ("expired", "certificate has expired"),
        ("not yet valid", "certificate is not yet valid"),
        ("another host", "not valid for '127.0.0.1'"),
    ],
)
def test_a_server_that_cannot_prove_itself_gets_nothing_and_the_robot_says_why(
    robot: Robot, tmp_path: Path, case: str, why: str
) -> None:
    false_certificate(tmp_path, case)
    with front_process(robot.stack.http_port, tmp_path) as (url, _):
        with robot.running(url, tmp_path / "ca.pem") as agent:
            assert wait_until(lambda: any(why in alarm for alarm in agent.link.alarms), limit_s=LIMIT_S), agent.link
            assert agent.link.alarms[0].startswith(f"{url} shows a certificate that is not to be trusted: ")
        with prepare(requests.Session(), ca_file=tmp_path / "ca.pem") as session:
            with pytest.raises(NotEnrolled, match="certificate verify failed"):
                identity.enrol(tmp_path / "new", "new-robot", "one-time", url=url, session=session)
            with pytest.raises(RotationError, match="certificate verify failed"):
                identity.rotate(robot.folder, url=url, session=session)
        assert "robots" not in (tmp_path / "front.log").read_text()
    assert len(list(Spool(robot.folder).waiting())) == robot.waiting
    assert stored(robot.stack, robot.name) == []


def test_what_was_kept_from_false_servers_is_delivered_to_the_true_one(robot: Robot) -> None:
    info = robot.stack
    with robot.running(info.edge_url, info.run_dir / "tls" / "ca.pem"):
        assert wait_until(lambda: not list(Spool(robot.folder).waiting()), limit_s=LIMIT_S)
    assert len(stored(info, robot.name)) == robot.waiting
