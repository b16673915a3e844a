"""Under Serve a body is read only as the application asks for it: what it refuses is not asked for."""

from __future__ import annotations

import socket

import pytest

from edge.segment import MAGIC
from fleetfeed.demo.work import storage_of
from fleetfeed.stack import StackInfo
from tests.faults.hostile_clients import head
from tests.ingest_serve.conftest import Clock, Robot, Server

pytestmark = pytest.mark.stack
BODY = MAGIC + bytes(1000) + MAGIC


@pytest.fixture
def robot(stack: StackInfo) -> Robot:
    return Server(stack.http_url, storage_of(stack), Clock()).new_robot("asks-first")


@pytest.mark.parametrize("signed", [True, False])
def test_a_robot_that_asks_first_is_told_to_go_on_only_if_its_body_is_wanted(robot: Robot, signed: bool) -> None:
    upload = robot.upload(BODY) if signed else robot.upload(BODY).changed(Authorization=None)
    fields = {**upload.headers, "Content-Length": str(len(BODY)), "Expect": "100-continue"}
    with socket.create_connection(robot.server.address, timeout=30) as connection:
        connection.sendall(head("POST", upload.target, fields))
        file = connection.makefile("rb")
        first = file.readline()
        if not signed:
            assert first.startswith(b"HTTP/1.1 401")
            return
        assert first.startswith(b"HTTP/1.1 100")
        connection.sendall(BODY)
        assert file.readline() == b"\r\n"
        assert file.readline().startswith((b"HTTP/1.1 201", b"HTTP/1.1 200"))
