"""Whatever a stranger sends, rightly signed or not: an answer of ours, no failure in the log, nothing out of place.

make test                 about 500 requests, the same each time
make soak                 more than 10,000, others each time; Hypothesis tells how to send a failing one again
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache

import pytest
import requests
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from requests.exceptions import InvalidHeader, InvalidURL

from edge import wire
from edge.segment import MAGIC
from ingest_serve.settings import IngestSettings
from ingest_serve.tokens import Tokens
from tests.faults.campaign import is_soak
from tests.faults.malformed_requests import DOCUMENT, OPERATIONS, Drawn, drawn, spoiled
from tests.ingest_serve.conftest import Robot, Server, Upload, new_lake, serve
from tests.ingest_serve.malformed import NOT_HTTP, Answer, Onlooker, request, watched
from tests.ingest_serve.resuming import Resuming

ELSEWHERE = {("404", "not_found"), ("405", "method_not_allowed")}  # a name with a slash in it is another route's
_robots = itertools.count()


def tries(*, test: int, soak: int) -> settings:
    """So many requests; the same ones in every `make test`."""
    return settings(
        max_examples=soak if is_soak() else test,
        derandomize=not is_soak(),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@pytest.fixture(scope="module")
def server(s3_endpoint: str) -> Iterator[Server]:
    with serve(new_lake(s3_endpoint), IngestSettings(body_grace_s=1)) as running:
        yield running


@pytest.fixture(scope="module")
def person(server: Server) -> str:
    """A token with every scope."""
    scopes = ("read", "publish", "admin")
    return Tokens(server.bucket).create("somebody", scopes=scopes, now_ns=server.clock())[1]


@pytest.fixture
def robot(server: Server) -> Robot:
    return server.new_robot(f"robot-{next(_robots)}")


def places(robot: str, *, is_robots: bool) -> tuple[str, ...]:
    """Where a request of this robot may leave something; or, of a person, who may let robots and people in."""
    if not is_robots:
        return ("registry/", "audit/")
    own = (f"raw/{robot}/", f"uploads/{robot}/", f"conflicts/{robot}/")
    return (*own, f"registry/robots/{robot}/", f"registry/revoked/{robot}/", "audit/")


def check_described(operation: str, answer: Answer) -> None:
    """Status, code and body of the answer are what the description says of this operation."""
    if (str(answer.status), answer.code) in ELSEWHERE or not answer.body or answer.body == NOT_HTTP:
        return
    told = OPERATIONS[operation].definition.raw["responses"]
    assert str(answer.status) in told, f"{operation} answers {answer.status} {answer.code}, which nobody was told"
    media = answer.fields["content-type"].partition(";")[0]
    if media in (wire.PROBLEM_TYPE, "application/json"):
        validator(operation, str(answer.status), media).validate(json.loads(answer.body))


@cache
def validator(operation: str, status: str, media: str) -> Draft202012Validator:
    content = OPERATIONS[operation].definition.raw["responses"][status]["content"]
    return Draft202012Validator(content[media]["schema"] | {"components": DOCUMENT["components"]})


def by_requests(server: Server, drawn_request: Drawn, robot: Robot, *, person: str) -> Answer:
    """The same request as a client library sends it: it normalises what raw sockets leave alone."""
    head, _, body = drawn_request.raw(robot, person=person).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    fields = dict(line.split(": ", 1) for line in lines)
    found = requests.request(method, server.url + target, data=body, headers=fields, timeout=60, allow_redirects=False)
    return Answer(found.status_code, {name.lower(): value for name, value in found.headers.items()}, found.content)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_drawn_from_the_description_is_answered_as_it_says(
    server: Server, robot: Robot, person: str, operation: str
) -> None:
    names = {"robot": robot.name, "upload": begun(robot)}
    with watched(server) as look:
        before = look.keys()

        @tries(test=12, soak=350)
        @given(
            drawn(OPERATIONS[operation], names),
            st.sampled_from([False, False, True]),
        )
        def answers(one: Drawn, is_normalised: bool) -> None:
            answer = send(look, one, robot, person=person, is_normalised=is_normalised)
            look.check(answer)
            if answer is not None:
                check_described(operation, answer)

        answers()
        raw = OPERATIONS[operation].definition.raw
        is_robots = any("robot" in one for one in raw.get("security", []))
        allowed = places(robot.name, is_robots=is_robots or not raw.get("security"))
        assert not {key for key in look.keys() - before if not key.startswith(allowed)}


def begun(robot: Robot) -> str:
    """An upload that stands at 50 bytes."""
    upload = unfinished(robot)
    assert upload.create(upload.body[:50]).status_code == 201
    return upload.id


def unfinished(robot: Robot) -> Resuming:
    return Resuming(robot, MAGIC + bytes(range(200)) + MAGIC, kind="telemetry")


def send(look: Onlooker, one: Drawn, robot: Robot, *, person: str, is_normalised: bool) -> Answer | None:
    if not is_normalised:
        return look.send(one.raw(robot, person=person), cut=False)
    try:
        return by_requests(look.server, one, robot, person=person)
    except (InvalidHeader, InvalidURL, ValueError):
        assume(False)
        raise


@pytest.mark.parametrize("kind", ["upload", "creation", "piece", "read"])
def test_a_right_request_that_is_spoiled_is_answered_or_dropped(
    server: Server, robot: Robot, person: str, kind: str
) -> None:
    right = rights(robot, person)[kind]
    with watched(server) as look:
        before = look.keys()

        @tries(test=40, soak=1000)
        @given(spoiled(right))
        def answers(raw: bytes) -> None:
            look.check(look.send(raw, cut=True))

        answers()
        assert not {key for key in look.keys() - before if not key.startswith(places(robot.name, is_robots=True))}


def rights(robot: Robot, person: str) -> dict[str, bytes]:
    upload = unfinished(robot)
    token = {"Authorization": f"Bearer {person}"}
    return {
        "upload": as_bytes(robot.upload(seq=1)),
        "creation": as_bytes(upload.creation(upload.body[:50])),
        "piece": as_bytes(robot.signed(upload.piece(50, 100))),
        "read": as_bytes(Upload("/v1/videos?stream=head_camera&start=1&end=2", token, b"", "GET")),
    }


def as_bytes(upload: Upload) -> bytes:
    fields = {**upload.headers, "Content-Length": str(len(upload.body))}
    return request(upload.method, upload.target, fields, upload.body)


@tries(test=100, soak=1500)
@given(raw=st.binary(min_size=1, max_size=2000))
def test_noise_is_answered_or_dropped(server: Server, raw: bytes) -> None:
    with watched(server) as look:
        answer = look.send(raw, cut=True)
        look.check(answer)
        assert answer is None or answer.status < 500
