"""People's tokens, as objects in the bucket: who may read, publish or administer, and until when.

    registry/tokens/{id}.json     name, scopes, SHA-256 of the secret, when and by whom it was made, until when it
                                  counts, and since when it is revoked, if it is

A token reads `fft_{id}_{secret}`. The secret is random and never kept, so its plain SHA-256 is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from ingest_serve.audit import Actor, Audit, who_runs_this
from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused, StorageUnavailable
from ingest_serve.revocations import Revocations, token_record

SCOPES = ("read", "publish", "admin")
TOKEN_LIFETIME_DAYS = 90
MAX_LIFETIME_DAYS = 3650
LOOKUP_THREADS = 16
SECRET_BYTES = 32
TOKEN_PREFIX = "fft_"  # noqa: S105 - what every token begins with, no secret
_ROOT = "registry/tokens"
_DAY_NS = 86_400 * 10**9
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")
_TOKEN = re.compile(r"fft_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class Token:
    """What the registry knows of a token; `secret_sha256` is in hex."""

    token_id: str
    name: str
    scopes: frozenset[str]
    secret_sha256: str = field(repr=False)
    created_ns: int
    expires_ns: int
    created_by: str
    revoked_ns: int | None = None

    def is_opened_by(self, secret: str) -> bool:
        return hmac.compare_digest(self.secret_sha256, _sha256(secret))

    def as_json(self) -> dict[str, Any]:
        """What may be told of it: everything but the secret's hash."""
        told = {
            "token_id": self.token_id,
            "name": self.name,
            "scopes": sorted(self.scopes),
            "created_ns": self.created_ns,
            "expires_ns": self.expires_ns,
            "created_by": self.created_by,
        }
        return told if self.revoked_ns is None else {**told, "revoked_ns": self.revoked_ns}

    def as_bytes(self) -> bytes:
        return json.dumps({**self.as_json(), "sha256": self.secret_sha256}, sort_keys=True).encode()

    @classmethod
    def parse(cls, body: bytes) -> Token:
        """`StorageUnavailable` unless it is one that we wrote: what cannot be read lets nobody in."""
        try:
            entry: dict[str, Any] = json.loads(body)
            secret_sha256 = entry.pop("sha256")
            return cls(**{**entry, "scopes": frozenset(entry["scopes"])}, secret_sha256=secret_sha256)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StorageUnavailable(f"a token of the registry cannot be read: {error!r}") from error


class Tokens:
    """The tokens that people hold. Blocking: an async caller takes it to a thread."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._audit = Audit(bucket)
        self._revocations = Revocations(bucket)

    def create(
        self,
        name: str,
        *,
        scopes: Iterable[str],
        now_ns: int,
        days: float = TOKEN_LIFETIME_DAYS,
        actor: Actor | None = None,
    ) -> tuple[Token, str]:
        """A new token, and its text, which nobody can tell again. `Refused("bad_body")` for bad wishes."""
        scopes = list(scopes)
        check_wishes(name, scopes, days)
        who, secret = actor or who_runs_this(), secrets.token_urlsafe(SECRET_BYTES)
        token = Token(
            token_id=secrets.token_hex(8),
            name=name,
            scopes=frozenset(scopes),
            secret_sha256=_sha256(secret),
            created_ns=now_ns,
            expires_ns=now_ns + int(days * _DAY_NS),
            created_by=who.id,
        )
        details = {"name": name, "scopes": sorted(token.scopes), "expires_ns": token.expires_ns}
        self._record("make_token", token.token_id, actor=who, now_ns=now_ns, **details)
        if not self._bucket.create(_key(token.token_id), token.as_bytes()):
            raise StorageUnavailable(f"a token with the id {token.token_id} was there already")
        return token, f"fft_{token.token_id}_{secret}"

    def find(self, token_id: str) -> Token | None:
        """None if there never was one. A revoked or expired one is found: it says so itself."""
        found = self._bucket.read(_key(token_id)) if is_token_id(token_id) else None
        return None if found is None else Token.parse(found[1])

    async def find_async(self, token_id: str) -> Token | None:
        """The same for a caller who may give up waiting."""
        body = await self._bucket.read_async(_key(token_id)) if is_token_id(token_id) else None
        return None if body is None else Token.parse(body)

    def revoke(self, token_id: str, *, now_ns: int, actor: Actor | None = None) -> bool:
        """Every replica refuses the token within seconds. False if there never was one.

        The object first, then the record, as for a robot's key. Repeating it finishes what was cut off.
        """
        token = self.find(token_id)
        if token is None:
            return False
        if token.revoked_ns is None:
            self._record("revoke_token", token_id, actor=actor or who_runs_this(), now_ns=now_ns)
            self._bucket.overwrite(_key(token_id), replace(token, revoked_ns=now_ns).as_bytes())
        self._revocations.add(token_record(token_id), now_ns=now_ns)
        return True

    def _record(self, act: str, token_id: str, *, actor: Actor, now_ns: int, **details: Any) -> None:
        self._audit.record(act, actor=actor, subject=f"tokens/{token_id}", now_ns=now_ns, **details)

    def list(self, *, after: str = "", limit: int | None = None) -> list[Token]:
        """Every token that ever was, in the order of their ids: the first `limit` after one."""
        names = self._bucket.names(_ROOT, after=f"{after}.json" if after else None, limit=limit)
        with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
            found = pool.map(self.find, [name.removesuffix(".json") for name in names])
        return [token for token in found if token is not None]


def parse_token(text: str) -> tuple[str, str] | None:
    """Id and secret of a token's text; None if it is no person's token."""
    match = _TOKEN.fullmatch(text)
    return None if match is None else (match[1], match[2])


def is_token_id(text: str) -> bool:
    return _TOKEN_ID.fullmatch(text) is not None


def check_wishes(name: str, scopes: Iterable[str], days: float) -> None:
    """`Refused("bad_body")` unless a token may have this name, these scopes and this lifetime."""
    asked = list(scopes)
    if not (name.isprintable() and 0 < len(name) <= MAX_NAME):
        raise _bad(f"name: needs 1 to {MAX_NAME} printable characters")
    if not asked or not set(asked) <= set(SCOPES):
        raise _bad(f"scopes: needs some of {', '.join(SCOPES)}, got {asked!r:.80}")
    if not 0 < days <= MAX_LIFETIME_DAYS:
        raise _bad(f"days: must be more than 0 and at most {MAX_LIFETIME_DAYS}")


def _bad(what: str) -> Refused:
    return Refused("bad_body", what)


def _key(token_id: str) -> str:
    return f"{_ROOT}/{token_id}.json"


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
