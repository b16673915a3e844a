"""S3's answer to a create is lost, wrong, or of another's write: the robot's next tries come to the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import obstore
import pytest
import requests

from edge.segment import MAGIC
from ingest_serve.settings import IngestSettings
from tests.faults.storage_proxy import (
    CONFLICT,
    FORBIDDEN,
    INTERNAL_ERROR,
    PRECONDITION_FAILED,
    SLOW_DOWN,
    Answer,
    Asked,
    Cut,
    CutBefore,
    Fault,
    Hang,
    LoseAnswer,
    SayError,
    StorageProxy,
    Truncate,
)
from tests.ingest_serve.conftest import BODY, Robot, Server, Upload, refusal, serve
from tests.ingest_serve.conftest import storage as storage
from tests.ingest_serve.resuming import Resuming

OTHERS = MAGIC + b"of another robot with the same name" + MAGIC
NOT_FOUND = Answer(404, "NoSuchKey")


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[StorageProxy]:
    with StorageProxy(s3_endpoint) as one:
        yield one


@pytest.fixture
def robot(storage: Any, proxy: StorageProxy) -> Iterator[Robot]:
    """A robot of a server that reaches S3 through the proxy; its `server.bucket` is S3 itself."""
    behind = replace(storage, settings=storage.settings.model_copy(update={"endpoint_url": proxy.url}))
    with serve(behind, IngestSettings(storage_timeout_s=1.0)) as running:
        yield Server(running.url, storage, running.clock).new_robot()


def of_raw(faults: dict[str, list[Fault | None]]) -> Callable[[Asked], Fault | None]:
    """The first requests of each method for raw objects or pieces come to these; the rest is passed on."""
    left = {method: list(each) for method, each in faults.items()}

    def draw(asked: Asked) -> Fault | None:
        is_meant = "/raw/" in asked.key or "/uploads/" in asked.key
        return left[asked.method].pop(0) if is_meant and left.get(asked.method) else None

    return draw


IN_DOUBT: dict[str, tuple[dict[str, list[Fault | None]], int]] = {
    # what S3 does to the requests for the object, in order; what the robot is answered in the end
    "the answer is lost": ({"PUT": [LoseAnswer()]}, 200),
    "every answer is lost": ({"PUT": [LoseAnswer()] * 4}, 200),
    "an error is answered, though it is stored": ({"PUT": [SayError(INTERNAL_ERROR)]}, 200),
    "slow down is answered, though it is stored": ({"PUT": [SayError(SLOW_DOWN)]}, 200),
    "slow down ten times, though it is stored": ({"PUT": [SayError(SLOW_DOWN)] * 4}, 200),
    "stored with 409": ({"PUT": [SayError(CONFLICT)]}, 200),
    "stored with 412": ({"PUT": [SayError(PRECONDITION_FAILED)]}, 200),
    "stored with 403": ({"PUT": [SayError(FORBIDDEN)]}, 200),
    "412, and nothing is there": ({"PUT": [PRECONDITION_FAILED]}, 201),
    "412 often, and nothing is there": ({"PUT": [PRECONDITION_FAILED] * 5}, 201),
    "409 for a while": ({"PUT": [CONFLICT] * 3}, 201),
    "409 for longer than a robot is kept waiting": ({"PUT": [CONFLICT] * 8}, 201),
    "the answer is lost, then the head fails": ({"PUT": [LoseAnswer()], "HEAD": [FORBIDDEN] * 3}, 200),
    "an error though stored, and the head fails": ({"PUT": [SayError(SLOW_DOWN)], "HEAD": [FORBIDDEN]}, 200),
    "an error though stored, and the head hangs": ({"PUT": [SayError(SLOW_DOWN)], "HEAD": [Hang()]}, 200),
    "stored, and the head does not see it yet": ({"PUT": [LoseAnswer()], "HEAD": [NOT_FOUND]}, 200),
    "it hangs": ({"PUT": [Hang()]}, 201),
    "cut before": ({"PUT": [CutBefore()] * 4}, 201),
    "cut within": ({"PUT": [Cut(0.5)] * 4}, 201),
    "cut short under a head that says so": ({"PUT": [Truncate(0.5)]}, 201),
    "an error before": ({"PUT": [INTERNAL_ERROR] * 4}, 201),
}
HEARD = ("409 for longer than a robot is kept waiting", "it hangs", "cut before", "an error before")


def until_taken(robot: Robot, upload: Upload) -> list[requests.Response]:
    """The answers to the same request, sent again as long as it is told to come again."""
    came: list[requests.Response] = []
    while not came or came[-1].status_code == 503:
        assert len(came) < 20
        came.append(robot.send(upload))
        if came[-1].status_code == 503:
            assert refusal(came[-1]) == (503, "storage_unavailable")
            assert came[-1].headers["Retry-After"] == "5"
    return came


@pytest.mark.parametrize("doubt", IN_DOUBT)
def test_what_s3_says_wrong_is_made_out(robot: Robot, proxy: StorageProxy, doubt: str) -> None:
    faults, status = IN_DOUBT[doubt]
    proxy.schedule = of_raw(faults)
    *again, response = until_taken(robot, upload := robot.upload())
    assert response.status_code == status
    assert again or doubt not in HEARD
    assert until_taken(robot, upload)[-1].status_code == 200
    (key,) = robot.server.stored()
    assert (response.json()["key"], robot.server.bucket.read(key)[1]) == (key, BODY)  # type: ignore[index]


@pytest.mark.parametrize(
    "doubt", ["the answer is lost", "stored with 409", "412, and nothing is there", "cut within", "it hangs"]
)
def test_a_piece_is_made_out_too(robot: Robot, proxy: StorageProxy, doubt: str) -> None:
    upload = Resuming(robot, BODY)
    assert upload.create().status_code == 201
    proxy.schedule = of_raw(IN_DOUBT[doubt][0])
    while (offset := upload.offset()) == 0:
        assert upload.append(0, 20).status_code in (204, 503)
    assert offset == 20
    assert upload.append(20, len(BODY), complete=True).status_code == 201
    (key,) = robot.server.stored()
    assert robot.server.bucket.read(key)[1] == BODY  # type: ignore[index]


@pytest.mark.parametrize(("body", "status"), [(BODY, 200), (OTHERS, 409)], ids=["the same bytes", "other bytes"])
def test_somebody_else_writes_the_key_meanwhile(
    robot: Robot, proxy: StorageProxy, s3_endpoint: str, body: bytes, status: int
) -> None:
    """S3 answers 409 as long as the other write goes on, and then the object is there."""
    own = robot.server.new_robot("another")
    template = until_taken(own, own.upload(body))[-1].json()["key"]
    facts = robot.server.bucket.read(template)[0].attributes  # type: ignore[index]

    def draw(asked: Asked) -> Fault | None:
        if asked.method != "PUT" or f"/raw/{robot.name}/" not in asked.key or asked.nth > 1:
            return None
        if asked.nth == 1:  # the other one is through
            obstore.put(robot.server.bucket._store, asked.key.partition("/")[2], body, attributes=facts)
        return CONFLICT

    proxy.schedule = draw
    assert until_taken(robot, robot.upload())[-1].status_code == status
    assert sum(one.fault is CONFLICT for one in proxy.seen) == 2
    (name,) = robot.server.bucket.names(f"raw/{robot.name}")
    assert robot.server.bucket.read(f"raw/{robot.name}/{name}")[1] == body  # type: ignore[index]
    assert len(robot.server.bucket.names(f"conflicts/{robot.name}")) == (status == 409)
