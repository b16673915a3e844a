"""A robot's key is made once, kept to its owner, and never sent."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge import identity, signing
from edge.errors import BadName, NotEnrolled

if TYPE_CHECKING:
    from tests.edge.conftest import ScriptedServer

NOW_NS = 1_760_000_000_000_000_000


def _enrol(folder: Path, server: ScriptedServer, *, robot: str = "g1-007") -> identity.Identity:
    with requests.Session() as session:
        return identity.enrol(folder, robot, "one-time", url=server.url, session=session, now_ns=NOW_NS)


@pytest.fixture
def willing(server: ScriptedServer) -> ScriptedServer:
    server.script = [lambda _: server.json(201, {})] * 5
    return server


def test_an_enrolled_robot_is_loaded_as_who_it_is(tmp_path: Path, willing: ScriptedServer) -> None:
    made = _enrol(tmp_path / "new" / "robot", willing)
    loaded = identity.load(tmp_path / "new" / "robot")
    assert loaded.robot == made.robot == "g1-007"
    assert loaded.key.private_bytes_raw() == made.key.private_bytes_raw()


def test_the_key_file_is_its_owners_alone(tmp_path: Path, willing: ScriptedServer) -> None:
    _enrol(tmp_path, willing)
    assert (tmp_path / identity.KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*.tmp"))


def test_the_request_proves_that_the_robot_holds_the_key_it_names(tmp_path: Path, willing: ScriptedServer) -> None:
    _enrol(tmp_path, willing)
    request = willing.requests[0]
    body = json.loads(request.body)
    assert request.target == "/v1/robots/g1-007/enrol"
    assert body["token"] == "one-time"
    signing.verify_request(
        request.headers["Authorization"].removeprefix("Bearer "),
        lambda: Ed25519PublicKey.from_public_bytes(base64.b64decode(body["public_key"])),
        robot="g1-007",
        method="POST",
        target=request.target,
        digest=request.headers["Content-Digest"],
        now_ns=NOW_NS,
    )


def test_the_private_key_is_in_no_request(tmp_path: Path, willing: ScriptedServer) -> None:
    key = _enrol(tmp_path, willing).key
    raw = key.private_bytes_raw()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    secrets = [raw, raw.hex().encode(), base64.b64encode(raw), pem, pem.split(b"\n")[1]]
    for request in willing.requests:
        sent = request.body + json.dumps(request.headers).encode() + request.target.encode()
        assert not any(secret in sent for secret in secrets)


def test_enrolling_again_uses_the_same_key(tmp_path: Path, willing: ScriptedServer) -> None:
    _enrol(tmp_path, willing)
    _enrol(tmp_path, willing)
    sent = [json.loads(request.body)["public_key"] for request in willing.requests]
    assert len(sent) == 2
    assert len(set(sent)) == 1


def test_a_lost_reply_leaves_a_key_that_the_next_try_uses(tmp_path: Path, server: ScriptedServer) -> None:
    server.script = [server.reset, lambda _: server.json(201, {})]
    with pytest.raises(NotEnrolled, match="could not be reached"):
        _enrol(tmp_path, server)
    with pytest.raises(NotEnrolled):
        identity.load(tmp_path)
    _enrol(tmp_path, server)
    assert len({json.loads(request.body)["public_key"] for request in server.requests}) == 1
    assert identity.load(tmp_path).robot == "g1-007"


def test_a_refusal_is_told_in_the_servers_words_and_leaves_no_enrolled_robot(
    tmp_path: Path, server: ScriptedServer
) -> None:
    server.script = [lambda _: server.problem(403, "bad_token", "this token was used already")]
    with pytest.raises(NotEnrolled, match="this token was used already"):
        _enrol(tmp_path, server)
    with pytest.raises(NotEnrolled, match="fleetfeed edge enrol"):
        identity.load(tmp_path)


def test_a_forbidden_name_is_refused_before_anything_is_made(tmp_path: Path, server: ScriptedServer) -> None:
    with pytest.raises(BadName):
        _enrol(tmp_path / "robot", server, robot="../g1")
    assert not (tmp_path / "robot").exists()
    assert not server.requests


@pytest.mark.parametrize("robot_file", ["", "{}", "[]", "nonsense"])
def test_a_damaged_folder_is_not_enrolled(tmp_path: Path, willing: ScriptedServer, robot_file: str) -> None:
    _enrol(tmp_path, willing)
    (tmp_path / identity.ROBOT_FILE).write_text(robot_file)
    with pytest.raises(NotEnrolled):
        identity.load(tmp_path)


def _other_key() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"nonsense", _other_key()])
def test_a_key_that_is_not_ours_is_never_replaced(tmp_path: Path, willing: ScriptedServer, content: bytes) -> None:
    (tmp_path / identity.KEY_FILE).write_bytes(content)
    with pytest.raises(NotEnrolled, match="not an Ed25519 key"):
        _enrol(tmp_path, willing)
    assert (tmp_path / identity.KEY_FILE).read_bytes() == content


def test_a_request_is_signed_with_the_robots_key(robot: identity.Identity) -> None:
    header = robot.authorization(method="GET", target="/v1/robots/g1-007/update", digest="", now_ns=NOW_NS)
    assert header.startswith("Bearer ")
    signing.verify_request(
        header.removeprefix("Bearer "),
        robot.key.public_key,
        robot="g1-007",
        method="GET",
        target="/v1/robots/g1-007/update",
        digest="",
        now_ns=NOW_NS,
    )
