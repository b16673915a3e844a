"""Who this robot is: its id, and an Ed25519 key that is made on the robot and never leaves it."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from edge import signing, wire
from edge.disk import DISK
from edge.errors import NotEnrolled

KEY_FILE = "robot.key"
ROBOT_FILE = "robot.json"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A robot's id and its private key."""

    robot: str
    key: Ed25519PrivateKey

    def authorization(self, *, method: str, target: str, digest: str, now_ns: int) -> str:
        """The `Authorization` header's value for one request."""
        token = signing.sign_request(
            self.key, robot=self.robot, method=method, target=target, digest=digest, now_ns=now_ns
        )
        return f"Bearer {token}"


def load(folder: Path) -> Identity:
    """The identity of an enrolled robot; `NotEnrolled` where there is none."""
    try:
        robot = json.loads((folder / ROBOT_FILE).read_text())["robot"]
        return Identity(robot, _read_key(folder / KEY_FILE))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError) as error:
        raise NotEnrolled(f"{folder} holds no enrolled robot: run `fleetfeed edge enrol ROBOT --token …`") from error


def enrol(
    folder: Path, robot: str, token: str, *, url: str, session: requests.Session, now_ns: int | None = None
) -> Identity:
    """Make a key, have the server accept it with a one-time token, and remember who we are.

    Can be repeated: a key made by an earlier try is used again, so a lost reply does no harm. Raises `NotEnrolled`
    with the server's sentence where it refuses.
    """
    wire.check_robot(robot)
    folder.mkdir(parents=True, exist_ok=True)
    identity = Identity(robot, _make_key(folder / KEY_FILE))
    public = base64.b64encode(signing.public_bytes(identity.key.public_key())).decode()
    body = json.dumps({"token": token, "public_key": public}).encode()
    digest = wire.content_digest(hashlib.sha256(body).digest())
    target = wire.enrol_target(robot)
    headers = {
        "Content-Type": "application/json",
        "Content-Digest": digest,
        "Authorization": identity.authorization(
            method="POST", target=target, digest=digest, now_ns=now_ns or time.time_ns()
        ),
    }
    try:
        response = session.post(url + target, data=body, headers=headers, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise NotEnrolled(f"{robot} is not enrolled, {url} could not be reached: {error}") from error
    if response.status_code not in (200, 201):
        raise NotEnrolled(f"the server refused to enrol {robot}: {wire.problem(response.content).detail}")
    DISK.write_json(folder / ROBOT_FILE, {"robot": robot})
    return identity


def _make_key(path: Path) -> Ed25519PrivateKey:
    """The key in `path`, or a new one kept there, readable by its owner alone."""
    if path.exists():
        return _read_key(path)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    DISK.write_file(path, pem, mode=0o600)
    return key


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise NotEnrolled(f"{path} is not an Ed25519 key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise NotEnrolled(f"{path} is not an Ed25519 key")
    return key
