"""One-time tokens with which robots enrol, as objects in the bucket.

    registry/enrolments/{robot}/{sha256(token)}.json         until when the robot may enrol with this token
    registry/enrolments/{robot}/{sha256(token)}.used.json    the one public key that has, or since when none may

Both are created once. Using an invitation and revoking it both create the second one, so that exactly one of them wins.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from edge.signing import key_id
from edge.wire import check_robot
from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused, StorageUnavailable

TOKEN_BYTES = 32
INVITE_LIFETIME_S = 24 * 3600
MAX_INVITE_LIFETIME_S = 366 * 86_400
_ROOT = "registry/enrolments"
_USED = ".used.json"


@dataclass(frozen=True, slots=True)
class Invitation:
    """A one-time token, and until when it is good."""

    token: str = field(repr=False)
    expires_ns: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A revoked invitation: the raw public key that had enrolled with it, if one had, and whether it was unused."""

    public_key: bytes | None
    is_new: bool


class Invitations:
    """Blocking: an async caller takes it to a thread."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def add(self, token: str, *, robot: str, expires_ns: int) -> None:
        entry = {"robot": check_robot(robot), "expires_ns": expires_ns}
        self._bucket.create(f"{_invitation(robot, token)}.json", _as_json(entry))

    def is_used_by(self, token: str, *, robot: str, public_key: bytes, now_ns: int) -> bool:
        """True: this key has enrolled with it before; False: it may. `Refused` if it may not."""
        entry = self._read(f"{_invitation(robot, token)}.json")
        if entry is None or entry["robot"] != robot:
            raise Refused("enrolment_unknown", f"there is no such enrolment token for robot {robot!r}")
        used = self._read(f"{_invitation(robot, token)}{_USED}")
        if used is not None:
            _check_used(used, public_key)
        elif now_ns >= entry["expires_ns"]:
            raise Refused("enrolment_expired", "the enrolment token has expired")
        return used is not None

    def use(self, token: str, *, robot: str, public_key: bytes) -> None:
        """Bind the token to this key, once. `Refused` if another one, or its revocation, was faster."""
        name = f"{_invitation(robot, token)}{_USED}"
        if not self._bucket.create(name, _as_json({"public_key": _base64(public_key)})):
            _check_used(self._read(name) or {}, public_key)

    def of_robot(self, robot: str) -> list[str]:
        """The ids of every invitation that the robot ever had."""
        names = self._bucket.names(f"{_ROOT}/{check_robot(robot)}")
        return [name.removesuffix(".json") for name in names if not name.endswith(_USED)]

    def revoke(self, robot: str, invitation: str, *, now_ns: int) -> Ended:
        """Let nobody enrol with it any more."""
        name = f"{_ROOT}/{check_robot(robot)}/{invitation}{_USED}"
        if self._bucket.create(name, _as_json({"revoked_ns": now_ns})):
            return Ended(None, is_new=True)
        used = self._read(name) or {}
        return Ended(base64.b64decode(used["public_key"]) if "public_key" in used else None, is_new=False)

    def _read(self, key: str) -> dict[str, Any] | None:
        found = self._bucket.read(key)
        return None if found is None else as_entry(found[1], key)


def new_invitation() -> str:
    """Never begins with "-": it is pasted into commands."""
    return "enrol-" + secrets.token_urlsafe(TOKEN_BYTES)


def invitation_id(token: str) -> str:
    """Names an invitation without letting anybody in."""
    return hashlib.sha256(token.encode()).hexdigest()


def as_entry(body: bytes, key: str) -> dict[str, Any]:
    """An object of the registry. `StorageUnavailable` where it is none of ours: what cannot be read lets nobody in."""
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError) as error:
        raise StorageUnavailable(f"{key} cannot be read: {error}") from error


def _check_used(used: dict[str, Any], public_key: bytes) -> None:
    """The same key again is the robot whose reply was lost."""
    if "revoked_ns" in used:
        raise Refused("enrolment_revoked", "the enrolment token was revoked before it was used")
    if used.get("public_key") != _base64(public_key):
        raise Refused("enrolment_used", f"the enrolment token was used with another key than {key_id(public_key)}")


def _invitation(robot: str, token: str) -> str:
    return f"{_ROOT}/{check_robot(robot)}/{invitation_id(token)}"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _as_json(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode()
