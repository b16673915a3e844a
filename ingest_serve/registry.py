"""Robots and their keys, as objects in the bucket, and how a key begins and ceases to count.

    registry/robots/{robot}/keys/{kid}.json     a key that the robot signs with, which key let it in, if one did, and
                                                since when and by whose act it does not count
    registry/enrolments/…                       one-time tokens: `invitations.py`
    registry/revoked/…                          what replicas must no longer trust: `revocations.py`

A key's object is created once, so a repeated enrolment after a lost reply finds what it made before; only a revocation
rewrites it: the object stays, so that nothing brings a revoked or retired key back. Every act is in the audit log
before it is done.
"""

from __future__ import annotations

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge.signing import key_id
from edge.wire import check_robot
from ingest_serve.audit import Actor, Audit, who_runs_this
from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused, StorageUnavailable
from ingest_serve.invitations import INVITE_LIFETIME_S, Invitation, Invitations, as_entry, invitation_id, new_invitation
from ingest_serve.revocations import Revocations, key_record

LOOKUP_THREADS = 16
_ROOT = "registry/robots"
_KID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The key that the server now knows; `is_new` is False for the repetition of an earlier enrolment."""

    robot: str
    key_id: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a robot's revocation has ended: ids of keys, and how many unused invitations."""

    key_ids: tuple[str, ...]
    invitations: int


class Registry:
    """Who may upload. Blocking, but for `find_key_async`: an async caller takes it to a thread."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._audit = Audit(bucket)
        self._invitations = Invitations(bucket)
        self._revocations = Revocations(bucket)

    def invite(self, robot: str, *, now_ns: int, lifetime_s: int = INVITE_LIFETIME_S, actor: Actor) -> Invitation:
        """A new one-time token with which `robot` may enrol. Only its SHA-256 is kept."""
        subject, token, expires_ns = f"robots/{check_robot(robot)}", new_invitation(), now_ns + lifetime_s * 10**9
        details = {"invitation": invitation_id(token), "expires_ns": expires_ns}
        self._audit.record("invite", actor=actor, subject=subject, now_ns=now_ns, **details)
        self._invitations.add(token, robot=robot, expires_ns=expires_ns)
        return Invitation(token, expires_ns)

    def withdraw(self, robot: str, token: str, *, now_ns: int) -> None:
        """Let nobody enrol with an invitation that was made a moment ago, and should not have been."""
        self._invitations.revoke(robot, invitation_id(token), now_ns=now_ns)

    def enrol(self, token: str, *, robot: str, public_key: bytes, now_ns: int) -> Enrolled:
        """Trade a one-time token for a known key. `Refused` if the token is not good for this robot and this key."""
        kid = key_id(public_key)
        used = self._invitations.is_used_by(token, robot=robot, public_key=public_key, now_ns=now_ns)
        known = self._key_that_counts(robot, kid)
        if used and known:
            return Enrolled(robot, kid, is_new=False)
        details = {"invitation": invitation_id(token)}
        self._record("enrol", Actor("robot", kid, robot), robot, kid, now_ns=now_ns, **details)
        self._invitations.use(token, robot=robot, public_key=public_key)
        return self._let_in(robot, public_key, {"enrolled_ns": now_ns})

    def add_key(self, robot: str, public_key: bytes, *, signed_by: str, now_ns: int) -> Enrolled:
        """Let a key of the robot count beside that with the id `signed_by`. `Refused` if it is one that was retired."""
        kid = key_id(public_key)
        if self._key_that_counts(robot, kid):
            return Enrolled(robot, kid, is_new=False)
        self._record("add_key", Actor("robot", signed_by, robot), robot, kid, now_ns=now_ns)
        added = self._let_in(robot, public_key, {"enrolled_ns": now_ns, "signed_by": signed_by})
        if added.is_new and self._was_revoked(robot, signed_by, but_by=kid):
            self._end(robot, kid, now_ns=now_ns, by=signed_by)
            raise Refused("unknown_key", f"key {signed_by} of robot {robot!r} was revoked while it let another one in")
        return added

    def find_key(self, robot: str, kid: str) -> Ed25519PublicKey | None:
        """The robot's key of this id; None if there is none, or it was revoked."""
        return _as_key(self._read(robot, kid), kid) if is_key_id(kid) else None

    async def find_key_async(self, robot: str, kid: str) -> Ed25519PublicKey | None:
        """The same for a caller who may give up waiting."""
        body = await self._bucket.read_async(_key(robot, kid)) if is_key_id(kid) else None
        return None if body is None else _as_key(as_entry(body, _key(robot, kid)), kid)

    def revoke(self, robot: str, kid: str, *, now_ns: int, actor: Actor | None = None) -> bool:
        """Every replica refuses the key within seconds. False if the robot has no such key.

        Repeating it finishes what was cut off, or does nothing.
        """
        entry = self._read(robot, kid) if is_key_id(kid) else None
        if entry is None:
            return False
        who = actor or who_runs_this()
        if "revoked_ns" not in entry:
            self._record("revoke_key", who, robot, kid, now_ns=now_ns)
        self._end(robot, kid, now_ns=now_ns, by=who.id)
        return True

    def revoke_robot(self, robot: str, *, now_ns: int, actor: Actor | None = None) -> Revoked | None:
        """End every key and every unused invitation of the robot; only a new invitation lets it in again.

        None if the registry knows nothing of it. Repeating it finishes what was cut off.
        """
        invitations = self._invitations.of_robot(robot)
        if not invitations and not self._key_ids(robot):
            return None
        who = actor or who_runs_this()
        self._audit.record("revoke_robot", actor=who, subject=f"robots/{robot}", now_ns=now_ns)
        ended = [self._invitations.revoke(robot, one, now_ns=now_ns) for one in invitations]
        for used in ended:
            if used.public_key is not None:  # it may be about to count: what is there now is never created again
                self._bury(robot, used.public_key, now_ns=now_ns)
        return Revoked(self._end_all(robot, now_ns=now_ns, by=who.id), sum(one.is_new for one in ended))

    def robots(self, *, after: str = "", limit: int | None = None) -> dict[str, list[str]]:
        """The robots that ever enrolled, with the ids of their keys that count: the first `limit` after one."""
        names = [name for name in self._bucket.folders(_ROOT) if name > after][:limit]
        with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
            keys = pool.map(self._key_ids, names)
            named = [(robot, kid) for robot, kids in zip(names, keys, strict=True) for kid in kids]
            counting = list(pool.map(lambda key: self.find_key(*key) is not None, named))
        robots: dict[str, list[str]] = {robot: [] for robot in names}
        for (robot, kid), counts in zip(named, counting, strict=True):
            if counts:
                robots[robot].append(kid)
        return robots

    def _key_that_counts(self, robot: str, kid: str) -> bool:
        """Whether there is one; `Refused` if it was retired or revoked."""
        entry = self._read(robot, kid)
        if entry is not None and "revoked_ns" in entry:
            raise Refused("key_retired", f"key {kid} of robot {robot!r} was retired, and never counts again")
        return entry is not None

    def _let_in(self, robot: str, public_key: bytes, facts: dict[str, Any]) -> Enrolled:
        kid = key_id(public_key)
        is_new = self._bucket.create(_key(robot, kid), _as_json(_facts(robot, public_key) | facts))
        if not is_new:
            self._key_that_counts(robot, kid)
        return Enrolled(robot, kid, is_new)

    def _bury(self, robot: str, public_key: bytes, *, now_ns: int) -> None:
        """Have a key that may not be known yet never count."""
        entry = _facts(robot, public_key) | {"revoked_ns": now_ns}
        self._bucket.create(_key(robot, key_id(public_key)), _as_json(entry))

    def _was_revoked(self, robot: str, kid: str, *, but_by: str) -> bool:
        """Whether a key ceased to count since it signed a request, other than by the key that the request lets in."""
        entry = self._read(robot, kid) or {}
        return "revoked_ns" in entry and entry.get("revoked_by") != but_by

    def _end_all(self, robot: str, *, now_ns: int, by: str) -> tuple[str, ...]:
        """A key that is let in meanwhile is in the next list, or whoever lets it in sees its own key's end."""
        ended: list[str] = []
        while counting := [kid for kid in self._key_ids(robot) if self.find_key(robot, kid) is not None]:
            for kid in counting:
                self._end(robot, kid, now_ns=now_ns, by=by)
            ended += counting
        for kid in self._key_ids(robot):
            self._revocations.add(key_record(robot, kid), now_ns=now_ns)  # where an earlier try was cut off
        return tuple(sorted(ended))

    def _end(self, robot: str, kid: str, *, now_ns: int, by: str) -> None:
        """The object first: whoever looks it up from now on sees that; then the record, for those who did before."""
        entry = self._read(robot, kid)
        if entry is not None and "revoked_ns" not in entry:
            self._bucket.overwrite(_key(robot, kid), _as_json(entry | {"revoked_ns": now_ns, "revoked_by": by}))
        self._revocations.add(key_record(robot, kid), now_ns=now_ns)

    def _key_ids(self, robot: str) -> list[str]:
        names = self._bucket.names(f"{_ROOT}/{check_robot(robot)}/keys")
        return [name.removesuffix(".json") for name in names if is_key_id(name.removesuffix(".json"))]

    def _read(self, robot: str, kid: str) -> dict[str, Any] | None:
        found = self._bucket.read(_key(robot, kid))
        return None if found is None else as_entry(found[1], _key(robot, kid))

    def _record(self, act: str, actor: Actor, robot: str, kid: str, *, now_ns: int, **details: Any) -> None:
        subject = f"robots/{robot}/keys/{kid}"
        self._audit.record(act, actor=actor, subject=subject, now_ns=now_ns, **details)


def invite(
    registry: Registry, robot: str, *, now_ns: int, lifetime_s: int = INVITE_LIFETIME_S, actor: Actor | None = None
) -> str:
    """A new one-time token with which `robot` may enrol; by default whoever runs this is said to have made it."""
    return registry.invite(robot, now_ns=now_ns, lifetime_s=lifetime_s, actor=actor or who_runs_this()).token


def is_key_id(text: str) -> bool:
    return _KID.fullmatch(text) is not None


def _as_key(entry: dict[str, Any] | None, kid: str) -> Ed25519PublicKey | None:
    """`StorageUnavailable` unless it is the key of this id: one that changed on the way would be kept for an hour."""
    if entry is None or "revoked_ns" in entry:
        return None
    try:
        raw = base64.b64decode(entry["public_key"], validate=True)
        if key_id(raw) == kid:
            return Ed25519PublicKey.from_public_bytes(raw)
    except (ValueError, LookupError, TypeError) as error:
        raise StorageUnavailable(f"key {kid} of the registry cannot be read: {error!r}") from error
    raise StorageUnavailable(f"key {kid} of the registry was read with the bytes of another one")


def _facts(robot: str, public_key: bytes) -> dict[str, Any]:
    return {"robot": robot, "key_id": key_id(public_key), "public_key": base64.b64encode(public_key).decode()}


def _key(robot: str, kid: str) -> str:
    return f"{_ROOT}/{check_robot(robot)}/keys/{kid}.json"


def _as_json(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode()
