"""A token is good for one robot, one request, a short time; anything else stores nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataset_catalog.storage import Storage
from edge import signing, wire
from edge.segment import MAGIC
from ingest_serve.registry import Registry
from ingest_serve.settings import IngestSettings
from tests.ingest_serve.conftest import Robot, Server, serve

OTHER_BODY = MAGIC + b"another segment" + MAGIC


def code(robot: Robot, **spoiled: object) -> tuple[int, str]:
    response = robot.send(replace(robot.upload(), **spoiled))  # type: ignore[arg-type]
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize(
    "query",
    [
        {"seq": 1},
        {"stream": "head_camera"},
        {"start_ns": 1},
        {"end_ns": 2**62},
        {"recording": "01J00000000000000000000001"},
    ],
)
def test_a_captured_token_cannot_carry_another_query(server: Server, robot: Robot, query: dict[str, object]) -> None:
    assert code(robot, target=robot.target(**query)) == (401, "bad_signature")
    assert server.stored() == []


def test_a_captured_token_cannot_carry_another_path(server: Server, robot: Robot) -> None:
    assert code(robot, target=robot.target(kind="video")) == (401, "bad_signature")
    assert server.stored() == []


def test_a_captured_token_cannot_carry_another_body(server: Server, robot: Robot) -> None:
    captured, other = robot.upload(), robot.upload(OTHER_BODY)
    headers = {**other.headers, "Authorization": captured.headers["Authorization"]}
    assert code(robot, headers=headers, body=OTHER_BODY) == (401, "bad_signature")
    assert code(robot, body=OTHER_BODY) == (400, "digest_mismatch")
    assert server.stored() == []


def test_a_captured_token_cannot_carry_another_method(server: Server, robot: Robot) -> None:
    upload = robot.upload()
    token = robot.token(upload.target, upload.headers["Content-Digest"], method="PUT")
    assert code(robot, headers={**upload.headers, "Authorization": f"Bearer {token}"}) == (401, "bad_signature")


def test_a_robot_cannot_write_for_another(server: Server, robot: Robot) -> None:
    other = server.new_robot("g1-002")
    assert code(other, target=robot.target()) == (403, "wrong_robot")
    assert server.stored() == []


def test_a_robot_that_takes_another_s_name_has_no_key_there(server: Server, robot: Robot) -> None:
    server.new_robot("g1-002")
    posing = replace(robot, name="g1-002")
    response = posing.send(posing.upload())
    assert (response.status_code, response.json()["code"]) == (401, "unknown_key")
    assert server.stored() == []


def test_a_robot_that_never_enrolled_is_unknown(server: Server) -> None:
    stranger = Robot(server, "g1-001", Ed25519PrivateKey.generate())
    response = stranger.send(stranger.upload())
    assert (response.status_code, response.json()["code"]) == (401, "unknown_key")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert server.stored() == []


@pytest.mark.parametrize("kid", ["../../robots/g1-001/keys/x", "", "a" * 100_000, "\x00", "0123456789ABCDEF"])
def test_a_key_id_never_becomes_a_path(server: Server, robot: Robot, kid: str) -> None:
    claims = {"sub": robot.name}
    token = jwt.encode(claims, robot.key, algorithm="EdDSA", headers={"kid": kid})
    response = robot.send(robot.upload().changed(Authorization=f"Bearer {token}"))
    assert response.status_code in (400, 401)  # 400: the HTTP parser's own limit on a header
    assert server.stored() == []


def test_a_token_without_signature_is_refused(server: Server, robot: Robot) -> None:
    upload = robot.upload()
    claims = jwt.decode(upload.headers["Authorization"].split()[1], options={"verify_signature": False})
    kid = signing.key_id(signing.public_bytes(robot.key.public_key()))
    for forged in (
        jwt.encode(claims, None, algorithm="none", headers={"kid": kid}),
        jwt.encode(claims, "a secret that is long enough for HS256", algorithm="HS256", headers={"kid": kid}),
    ):
        response = robot.send(upload.changed(Authorization=f"Bearer {forged}"))
        assert (response.status_code, response.json()["code"]) == (401, "bad_token")
    assert server.stored() == []


@pytest.mark.parametrize("drift_s", [-3600, 3600])
def test_a_robot_with_a_wrong_clock_learns_the_server_s_time(server: Server, robot: Robot, drift_s: int) -> None:
    upload = robot.upload()
    server.clock.offset_ns = drift_s * 1_000_000_000
    response = robot.send(upload)
    assert (response.status_code, response.json()["code"]) == (401, "clock")
    told = int(response.headers[wire.SERVER_TIME_HEADER])
    assert abs(told - server.clock()) < 5_000_000_000
    assert robot.send(robot.upload()).status_code == 201  # signed with the server's time


def test_a_revoked_key_is_refused(uncached: Server) -> None:
    robot = uncached.new_robot()
    assert robot.send(robot.upload(seq=0)).status_code == 201
    kid = signing.key_id(signing.public_bytes(robot.key.public_key()))
    assert Registry(uncached.bucket).revoke(robot.name, kid, now_ns=1)
    response = robot.send(robot.upload(seq=1))
    assert (response.status_code, response.json()["code"]) == (401, "unknown_key")


@pytest.fixture
def uncached(storage: Storage) -> Iterator[Server]:
    """A server that never caches a key."""
    with serve(storage, IngestSettings(key_cache_s=0)) as running:
        yield running
