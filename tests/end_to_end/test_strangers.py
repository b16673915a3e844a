"""A client that knows only docs/PROTOCOL.md, through the TLS front and Serve: nothing rewrites its requests."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from edge import wire
from fleetfeed.stack import StackInfo
from ingest_serve.registry import Registry, invite
from tests.front import running_front
from tests.ingest_serve.conftest import BODY, RECORDING, Clock, Robot, Server
from tests.ingest_serve.malformed import Answer, read_answer, request
from tests.ingest_serve.resuming import digest_of
from tests.ingest_serve.test_upload_script import Client, needs_tools

pytestmark = pytest.mark.stack


@dataclass(frozen=True)
class Way:
    """From a client to the bucket: directly to Serve, or through the TLS front."""

    robot: Robot
    front: str
    ca: Path

    def send(self, raw: bytes, *, by_front: bool) -> Answer:
        context = ssl.create_default_context(cafile=str(self.ca))
        address = ("127.0.0.1", int(self.front.rpartition(":")[2])) if by_front else self.robot.server.address
        with socket.create_connection(address, timeout=30) as plain:
            connection = context.wrap_socket(plain, server_hostname="localhost") if by_front else plain
            connection.sendall(raw)
            answer = read_answer(connection)
        assert answer is not None
        return answer


@pytest.fixture(scope="module")
def way(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp("front")
    settings = StorageSettings(
        endpoint_url=f"http://127.0.0.1:{stack.ports.s3}",
        access_key_id=stack.credentials.access_key_id,
        secret_access_key=stack.credentials.secret_access_key,
        url=f"s3://{stack.bucket}",
    )
    server = Server(stack.http_url, Storage.open(settings.url, settings=settings), Clock())
    with running_front(stack.http_port, folder) as (url, ca):
        yield Way(server.new_robot("stranger-1"), url, ca)


@needs_tools
def test_the_script_uploads_through_the_front(way: Way, tmp_path: Path) -> None:
    server = way.robot.server
    token = invite(Registry(server.bucket), "h1-amber", now_ns=server.clock())
    done = Client(way.front, tmp_path).run(token, RECORDING=RECORDING, CA=str(way.ca))
    assert done.returncode == 0, done.stderr
    stored = server.bucket.read(json.loads(done.stdout)["key"])
    assert stored is not None
    assert stored[1] == BODY


TARGETS = {
    "as it is signed": ("{path}", "{path}", (200, "")),
    "escaped, and signed so": ("{escaped}", "{escaped}", (200, "")),
    "escaped on the way": ("{escaped}", "{path}", (401, "bad_signature")),
    "absolute": ("http://x{path}", "{path}", (200, "")),
    "absolute, and signed so": ("http://x{path}", "http://x{path}", (401, "bad_signature")),
    "two slashes": ("/{path}", "/{path}", (404, "not_found")),
    "a dot": ("/.{path}", "/.{path}", (404, "not_found")),
    "two dots": ("/x/..{path}", "/x/..{path}", (404, "not_found")),
    "an escaped slash": ("/v1%2f..{path}", "/v1%2f..{path}", (404, "not_found")),
    "an escaped NUL": ("{path}%00", "{path}%00", (400, "bad_parameter")),
    "a parameter twice": ("{path}&seq=7", "{path}&seq=7", (400, "bad_parameter")),
    "an unknown parameter": ("{path}&x=1", "{path}&x=1", (400, "bad_parameter")),
}


@pytest.mark.parametrize("by_front", [False, True], ids=["to Serve", "by the front"])
def test_a_target_arrives_as_it_was_sent(way: Way, by_front: bool) -> None:
    robot = way.robot
    path = robot.target(seq=7)
    first = way.send(signed(robot, path, path), by_front=by_front)
    assert first.status in (200, 201)
    escaped = path.replace("stranger-1", "stranger%2d1")
    for case, (sent, said, expected) in TARGETS.items():
        raw = signed(robot, sent.format(path=path, escaped=escaped), said.format(path=path, escaped=escaped))
        answer = way.send(raw, by_front=by_front)
        assert (answer.status, answer.code) == expected, case


def signed(robot: Robot, target: str, said: str) -> bytes:
    token = robot.token(said, digest_of(BODY))
    fields = {"Content-Type": wire.MCAP_TYPE, "Content-Digest": digest_of(BODY), "Authorization": f"Bearer {token}"}
    return request("POST", target, fields, BODY)


def test_an_upgrade_that_a_client_offers_does_no_harm(way: Way) -> None:
    offered = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    target = way.robot.target(seq=8)
    raw = signed(way.robot, target, target)
    lines = "".join(f"{name}: {value}\r\n" for name, value in offered.items()).encode()
    for by_front in (False, True):
        assert way.send(raw.replace(b"Host:", lines + b"Host:", 1), by_front=by_front).status in (200, 201)
