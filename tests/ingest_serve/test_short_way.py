"""The short way of an upload says nothing but yes, and just where FastAPI's way would."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from edge import wire
from ingest_serve import short_way
from ingest_serve.declared import Target, Upload
from ingest_serve.problems import ANSWERED, as_refused
from ingest_serve.short_way import plain_target
from ingest_serve.strict import StrictRoute
from tests.ingest_serve.conftest import RECORDING, Robot, Server, refusal

ROBOTS = ("g1-001", "R")
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
recordings = st.from_regex(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True)
times = st.tuples(st.integers(0, wire.MAX_TIME_NS), st.integers(0, wire.MAX_TIME_NS)).filter(
    lambda two: two[0] < two[1]
)
right = {"recording": RECORDING, "stream": "s", "seq": "1", "start_ns": "2", "end_ns": "3"}
most = wire.MAX_TIME_NS
odd = ["0", "1", "2", "4", "007", "+1", "1_0", "1.0", "-1", "", " 1", "+", "%31", "1%00", "٣", "telemetry", RECORDING]
odd += ["a/b", "..", "A", "a" * 64, "9" * 10, "9" * 11, str(most), str(most + 1), "9" * 30, "é", "a=b", "a;b"]


def nearly_right() -> Iterator[str]:
    """Queries with one parameter changed, taken out or sent besides, and some that are cut in another way."""
    yield from ("", "&", "x", spelt(right).replace("&", ";"), f"{spelt(right)}&", f"&{spelt(right)}", spelt(right))
    yield spelt(dict(reversed(right.items())))
    for name in right:
        yield spelt({other: value for other, value in right.items() if other != name})
        yield spelt({other.replace(name, name.upper()): value for other, value in right.items()})
    for name, value in itertools.product([*right, "x", ""], odd):
        yield spelt(right | {name: value})
        yield f"{spelt(right)}&{name}={value}"


def spelt(query: dict[str, str]) -> str:
    return "&".join(f"{name}={value}" for name, value in query.items())


@given(robot=names, recording=recordings, stream=names, seq=st.integers(0, wire.MAX_SEQ), time_ns=times)
def test_what_a_robot_spells_is_known_at_a_glance(
    robot: str, recording: str, stream: str, seq: int, time_ns: tuple[int, int]
) -> None:
    segment = wire.SegmentId(robot, recording, stream, seq)
    path, _, query = wire.upload_target(segment, kind="video", start_ns=time_ns[0], end_ns=time_ns[1]).partition("?")

    assert path == f"/v1/robots/{robot}/video"
    assert plain_target(robot, query.encode()) == Target(segment, *time_ns)


def test_where_it_says_yes_fastapi_says_the_same() -> None:
    answers = {(robot, query): plain_target(robot, query.encode()) for robot in ROBOTS for query in nearly_right()}

    wrong = {of: found for of, found in answers.items() if found and by_fastapi(of[0], of[1].encode()) != asdict(found)}

    assert wrong == {}
    assert sum(found is not None for found in answers.values()) > 20


def by_fastapi(robot: str, query: bytes) -> Any:
    """The target, or the code of the refusal."""
    scope = {"type": "http", "method": "POST", "path": f"/{robot}", "query_string": query, "headers": []}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        asyncio.run(the_long_way(scope, receive, send))
    except ANSWERED as error:
        return as_refused(error).code
    return json.loads(sent[1]["body"]) if sent[0]["status"] == 200 else sent[0]["status"]


def _long_way() -> FastAPI:
    app = FastAPI()
    app.router.route_class = StrictRoute

    async def target(target: Upload) -> dict[str, Any]:
        return asdict(target)

    app.add_api_route("/{robot}", target, methods=["POST"])
    return app


the_long_way = _long_way()


def test_the_comparison_can_tell_a_refusal() -> None:
    assert by_fastapi("r", spelt(right).encode()) == asdict(Target(wire.SegmentId("r", RECORDING, "s", 1), 2, 3))
    assert by_fastapi("r", spelt(right | {"x": "1"}).encode()) == "bad_parameter"


@pytest.mark.parametrize("way", ["short", "long"])
def test_both_ways_store_the_same_and_refuse_the_same(
    server: Server, robot: Robot, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if way == "long":
        monkeypatch.setattr(short_way, "plain_target", lambda *_: None)
    upload = robot.upload()

    assert refusal(robot.send(upload.changed(Authorization="Bearer x"))) == (401, "bad_token")
    assert refusal(robot.send(upload.changed(**{"Content-Type": "text/html"}))) == (415, "unsupported_type")
    assert robot.send(upload).status_code == 201
    assert robot.send(upload).status_code == 200
    assert refusal(robot.send(robot.upload(b"\x89MCAP0\r\nx\x89MCAP0\r\n", target=upload.target))) == (409, "conflict")
    key = f"raw/g1-001/{RECORDING}/telemetry/0000000000"
    assert [one for one in server.stored() if one.startswith("raw")] == [key]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
