"""Who this robot is: its id, and an Ed25519 key that is made on the robot, never leaves it, and can be replaced.

    robot.json        the robot's id, written once the server knows its key
    robot.key         the key it signs with
    robot.key.next    a new one, until it is known that the server has taken it
    robot.key.old     the one before, until it counts no longer

No more than two keys are ever here, and no step takes one away that may be the only one to count: see `rotate`.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from edge import signing, wire
from edge.disk import DISK, Disk
from edge.errors import NotEnrolled, RotationError

KEY_FILE = "robot.key"
NEXT_FILE = "robot.key.next"
OLD_FILE = "robot.key.old"
ROBOT_FILE = "robot.json"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A robot's id and its private key."""

    robot: str
    key: Ed25519PrivateKey

    @property
    def public_key(self) -> bytes:
        return signing.public_bytes(self.key.public_key())

    @property
    def key_id(self) -> str:
        """What the server calls the key."""
        return signing.key_id(self.public_key)

    def authorization(
        self, *, method: str, target: str, digest: str, now_ns: int, upload: str = "", fields: str = ""
    ) -> str:
        """The `Authorization` header's value for one request; `upload` and `fields` as in `signing.sign_request`."""
        token = signing.sign_request(
            self.key,
            robot=self.robot,
            method=method,
            target=target,
            digest=digest,
            now_ns=now_ns,
            upload=upload,
            fields=fields,
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
    folder: Path,
    robot: str,
    token: str,
    *,
    url: str,
    session: requests.Session,
    now_ns: int | None = None,
    disk: Disk = DISK,
) -> Identity:
    """Make a key, have the server accept it with a one-time token, and remember who we are.

    Can be repeated: a key made by an earlier try is used again, so a lost reply does no harm. Raises `NotEnrolled`
    with the server's sentence where it refuses.
    """
    wire.check_robot(robot)
    folder.mkdir(parents=True, exist_ok=True)
    identity = Identity(robot, _make_key(folder / KEY_FILE, disk))
    server = _Server(url, session, now_ns or time.time_ns())
    body = {"token": token, "public_key": base64.b64encode(identity.public_key).decode()}
    try:
        response = server.ask(identity, "POST", wire.enrol_target(robot), lambda _: body)
    except requests.RequestException as error:
        raise NotEnrolled(f"{robot} is not enrolled, {url} could not be reached: {error}") from error
    if response.status_code not in (200, 201):
        raise NotEnrolled(f"the server refused to enrol {robot}: {wire.problem(response.content).detail}")
    disk.write_json(folder / ROBOT_FILE, {"robot": robot})
    return identity


def rotate(
    folder: Path, *, url: str, session: requests.Session, now_ns: int | None = None, disk: Disk = DISK
) -> Identity:
    """Replace the robot's key by a new one that the server has taken; `retire_old` then ends the old one.

    It may be cut off anywhere, and be repeated; in between the robot signs with a key that counts:

    1. If another key is still in `robot.key.old`, it is retired first (see `retire_old`).
    2. `robot.key.next` is made, or that of an earlier try is taken. `robot.key` is untouched, and counts.
    3. The server is told of the new key, in a request that both sign. From now on both count, whether the answer
       arrives or not; only an answer that names the new key is believed.
    4. `robot.key` is copied to `robot.key.old`.
    5. `robot.key.next` takes the name `robot.key`, in one step: either is under that name, and either counts.

    `RotationError` where the server refuses or cannot be reached, `NotEnrolled` where there is no robot here.
    """
    server = _Server(url, session, now_ns or time.time_ns())
    with _alone(folder) as present:
        _retire_old(folder, present, server, disk)
        following = _next_identity(folder, present, disk)
        _make_known(folder, following, present, server, disk)
        _sign_with(folder / NEXT_FILE, folder / OLD_FILE, disk)
        return following


def retire_old(
    folder: Path,
    identity: Identity,
    *,
    url: str,
    session: requests.Session,
    now_ns: int | None = None,
    disk: Disk = DISK,
) -> None:
    """Have the key before `identity` count no longer, and remove it; nothing happens where there is none.

    `identity` signs the request, and only where its key counts does the server retire the other: so it is proven that
    the robot can do without. Can be repeated. `RotationError` where the server refuses or cannot be reached, or where
    the key was replaced meanwhile.
    """
    with _alone(folder) as present:
        if present.key_id != identity.key_id:
            raise RotationError("other_key", f"{folder / KEY_FILE} no longer holds the key {identity.key_id}")
        _retire_old(folder, present, _Server(url, session, now_ns or time.time_ns()), disk)


def fall_back(folder: Path, *, disk: Disk = DISK) -> Identity | None:
    """Sign with the other key that is here, since the server does not know `robot.key`; None where there is none.

    The two change places and none is lost: if the server did not mean it, the next call goes back. `NotEnrolled` where
    there is no robot here.
    """
    with _alone(folder) as present:
        for source, aside in ((OLD_FILE, NEXT_FILE), (NEXT_FILE, OLD_FILE)):
            if (folder / source).exists() and _identity(present.robot, folder / source).key_id != present.key_id:
                _sign_with(folder / source, folder / aside, disk)
                return load(folder)
        return None


Body = Callable[[int], dict[str, str]]  # made for the time at which it is signed, in ns


@dataclass(slots=True)
class _Server:
    """Where the keys of robots are known. `now_ns` is the time to sign by: ours, or its own where it says so."""

    url: str
    session: requests.Session
    now_ns: int

    def ask(self, identity: Identity, method: str, target: str, body: Body | None = None) -> requests.Response:
        """One signed request; once more by the server's time where ours is wrong. `requests.RequestException`."""
        response = self._ask(identity, method, target, body)
        told = response.headers.get(wire.SERVER_TIME_HEADER, "")
        if wire.problem(response.content).code != "clock" or not (told.isascii() and told.isdecimal()):
            return response
        self.now_ns = min(int(told), wire.MAX_TIME_NS)
        return self._ask(identity, method, target, body)

    def _ask(self, identity: Identity, method: str, target: str, body: Body | None) -> requests.Response:
        data = b"" if body is None else json.dumps(body(self.now_ns)).encode()
        digest = wire.content_digest(hashlib.sha256(data).digest()) if data else ""
        authorization = identity.authorization(method=method, target=target, digest=digest, now_ns=self.now_ns)
        headers = {"Content-Type": "application/json", "Content-Digest": digest} if data else {}
        return self.session.request(
            method, self.url + target, data=data, headers={"Authorization": authorization, **headers}, timeout=TIMEOUT_S
        )

    def ask_for_key(self, identity: Identity, method: str, target: str, body: Body | None = None) -> requests.Response:
        """`ask` for `rotate` and `retire_old`: with their error."""
        try:
            return self.ask(identity, method, target, body)
        except requests.RequestException as error:
            raise RotationError("unreachable", f"{self.url} could not be reached: {error}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[Identity]:
    """The present identity, while no other process changes the keys of this folder."""
    load(folder)  # else there is no file to lock
    with (folder / ROBOT_FILE).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield load(folder)


def _next_identity(folder: Path, present: Identity, disk: Disk) -> Identity:
    path = folder / NEXT_FILE
    if path.exists() and _identity(present.robot, path).key_id == present.key_id:
        disk.unlink(path)  # left by a `fall_back` that was cut off
    return Identity(present.robot, _make_key(path, disk))


def _make_known(folder: Path, following: Identity, present: Identity, server: _Server, disk: Disk) -> None:
    """Have the server take the key of `following`, which is in `robot.key.next`."""
    target = wire.keys_target(present.robot)
    public_key = base64.b64encode(following.public_key).decode()

    def body(now_ns: int) -> dict[str, str]:
        proof = following.authorization(method="POST", target=target, digest="", now_ns=now_ns)
        return {"public_key": public_key, "proof": proof.removeprefix("Bearer ")}

    response = server.ask_for_key(present, "POST", target, body)
    if response.status_code in (200, 201) and _names_key(response, following.key_id):
        return
    problem = wire.problem(response.content)
    if problem.code == "key_retired":
        disk.unlink(folder / NEXT_FILE)  # it will never count; the next try makes another
    raise RotationError(problem.code, f"the server did not take the new key of {present.robot}: {problem.detail}")


def _names_key(response: requests.Response, key_id: str) -> bool:
    """Whether this is the server's word on that key, and not a page that something on the way has put there."""
    try:
        return bool(response.json()["key_id"] == key_id)
    except (ValueError, LookupError, TypeError):
        return False


def _retire_old(folder: Path, present: Identity, server: _Server, disk: Disk) -> None:
    path = folder / OLD_FILE
    if not path.exists():
        return
    old = _identity(present.robot, path)
    if old.key_id != present.key_id:  # else `rotate` was cut off before its last step
        disk.sync_folder(folder)  # a power cut must not bring back as `robot.key` what is retired now
        response = server.ask_for_key(present, "DELETE", wire.keys_target(old.robot, old.key_id))
        problem = wire.problem(response.content)
        if response.status_code != 204 and problem.code != "unknown_key_id":
            raise RotationError(problem.code, f"the server did not retire the old key of {old.robot}: {problem.detail}")
    disk.unlink(path)


def _sign_with(source: Path, aside: Path, disk: Disk) -> None:
    """Make the key in `source` the present one, and keep in `aside` that which was; at any moment both are here."""
    key_file = source.with_name(KEY_FILE)
    disk.write_file(aside, key_file.read_bytes(), mode=0o600)
    disk.publish(source, key_file)


def _identity(robot: str, path: Path) -> Identity:
    return Identity(robot, _read_key(path))


def _make_key(path: Path, disk: Disk) -> Ed25519PrivateKey:
    """The key in `path`, or a new one kept there, readable by its owner alone."""
    if path.exists():
        return _read_key(path)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    disk.write_file(path, pem, mode=0o600)
    return key


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise NotEnrolled(f"{path} is not an Ed25519 key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise NotEnrolled(f"{path} is not an Ed25519 key")
    return key
