"""Robots, their keys and their one-time enrolment tokens, as objects in the bucket.

    registry/enrolments/{sha256(token)}.json         who may enrol with this token, and until when
    registry/enrolments/{sha256(token)}.used.json    the one public key that has
    registry/robots/{robot}/keys/{kid}.json          a key that the robot signs with, which key let it in, if one did,
                                                     and since when it does not count

Every object is created once, so a repeated enrolment after a lost reply finds what it made before; only a revocation
rewrites one: the object stays, so that no repeated enrolment brings a revoked or retired key back.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge.signing import key_id
from edge.wire import check_robot
from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused

TOKEN_BYTES = 32
INVITE_LIFETIME_S = 24 * 3600
MAX_CACHED_KEYS = 20_000
LOOKUP_THREADS = 16
_KID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The key that the server now knows; `is_new` is False for the repetition of an earlier enrolment."""

    robot: str
    key_id: str
    is_new: bool


class Registry:
    """Who may upload. Blocking: an async caller takes it to a thread."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def add_enrolment(self, token: str, *, robot: str, expires_ns: int) -> None:
        entry = {"robot": check_robot(robot), "expires_ns": expires_ns}
        self._bucket.create(f"{_enrolment(token)}.json", _as_json(entry))

    def enrol(self, token: str, *, robot: str, public_key: bytes, now_ns: int) -> Enrolled:
        """Trade a one-time token for a known key. `Refused` if the token is not good for this robot and this key."""
        entry = self._read(f"{_enrolment(token)}.json")
        if entry is None or entry["robot"] != robot:
            raise Refused("enrolment_unknown", f"there is no such enrolment token for robot {robot!r}")
        self._use(token, public_key, expired=now_ns >= entry["expires_ns"])
        kid = key_id(public_key)
        known = {"robot": robot, "key_id": kid, "public_key": _base64(public_key), "enrolled_ns": now_ns}
        return Enrolled(robot, kid, self._bucket.create(_key(robot, kid), _as_json(known)))

    def _use(self, token: str, public_key: bytes, *, expired: bool) -> None:
        """Bind the token to this key, once. The same key again is the robot whose reply was lost."""
        name, ours = f"{_enrolment(token)}.used.json", {"public_key": _base64(public_key)}
        used = self._read(name)
        if used is None and expired:
            raise Refused("enrolment_expired", "the enrolment token has expired")
        if used is None and not self._bucket.create(name, _as_json(ours)):
            used = self._read(name)
        if used not in (None, ours):
            raise Refused("enrolment_used", "the enrolment token was used with another key")

    def add_key(self, robot: str, public_key: bytes, *, signed_by: str, now_ns: int) -> Enrolled:
        """Let a key of the robot count beside that with the id `signed_by`. `Refused` if it is one that was retired."""
        kid = key_id(public_key)
        known = {
            "robot": robot,
            "key_id": kid,
            "public_key": _base64(public_key),
            "enrolled_ns": now_ns,
            "signed_by": signed_by,
        }
        is_new = self._bucket.create(_key(robot, kid), _as_json(known))
        if not is_new and self.find_key(robot, kid) is None:
            raise Refused("key_retired", f"key {kid} of robot {robot!r} was retired, and never counts again")
        return Enrolled(robot, kid, is_new)

    def find_key(self, robot: str, kid: str) -> Ed25519PublicKey | None:
        """The robot's key of this id; None if there is none, or it was revoked."""
        entry = self._read(_key(robot, kid)) if _KID.fullmatch(kid) else None
        if entry is None or "revoked_ns" in entry:
            return None
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(entry["public_key"]))

    def revoke(self, robot: str, kid: str, *, now_ns: int) -> bool:
        """False if the robot has no such key. Replicas follow when their cached keys run out."""
        entry = self._read(_key(robot, kid)) if _KID.fullmatch(kid) else None
        if entry is None:
            return False
        self._bucket.overwrite(_key(robot, kid), _as_json({"revoked_ns": now_ns, **entry}))
        return True

    def robots(self) -> dict[str, list[str]]:
        """Every robot that ever enrolled, in order, and the ids of its keys that count."""
        keys = [name.split("/") for name in self._bucket.names("registry/robots")]
        named = [(parts[0], parts[2].removesuffix(".json")) for parts in keys if len(parts) == 3]
        with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
            found = list(pool.map(lambda key: self.find_key(*key), named))
        robots: dict[str, list[str]] = {robot: [] for robot, _ in named}
        for (robot, kid), key in zip(named, found, strict=True):
            if key is not None:
                robots[robot].append(kid)
        return robots

    def _read(self, key: str) -> dict[str, Any] | None:
        found = self._bucket.read(key)
        return None if found is None else dict(json.loads(found[1]))


class KeyCache:
    """Keys that a replica looked up a moment ago. What it does not hold is always looked up."""

    def __init__(self, registry: Registry, *, lifetime_s: float) -> None:
        self._registry = registry
        self._lifetime_ns = int(lifetime_s * 1e9)
        self._keys: dict[tuple[str, str], tuple[int, Ed25519PublicKey]] = {}

    async def find(self, robot: str, kid: str, *, now_ns: int) -> Ed25519PublicKey | None:
        """The robot's key of this id. An unknown one is not remembered: it may be enrolled the next moment."""
        looked_up_ns, key = self._keys.get((robot, kid), (0, None))
        if key is not None and now_ns - looked_up_ns < self._lifetime_ns:
            return key
        key = await asyncio.to_thread(self._registry.find_key, robot, kid)
        self._keys.pop((robot, kid), None)
        if key is not None:
            self._keys[robot, kid] = (now_ns, key)
        if len(self._keys) > MAX_CACHED_KEYS:
            self._keys.pop(next(iter(self._keys)))  # the one looked up longest ago
        return key


def invite(registry: Registry, robot: str, *, now_ns: int, lifetime_s: int = INVITE_LIFETIME_S) -> str:
    """A new one-time token with which `robot` may enrol. Only its SHA-256 is kept."""
    token = "enrol-" + secrets.token_urlsafe(TOKEN_BYTES)  # never begins with "-": it is pasted into commands
    registry.add_enrolment(token, robot=robot, expires_ns=now_ns + lifetime_s * 1_000_000_000)
    return token


def _enrolment(token: str) -> str:
    return f"registry/enrolments/{hashlib.sha256(token.encode()).hexdigest()}"


def _key(robot: str, kid: str) -> str:
    return f"registry/robots/{robot}/keys/{kid}.json"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _as_json(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode()
