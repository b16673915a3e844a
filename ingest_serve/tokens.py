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
from dataclasses import dataclass, field
from typing import Any

from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused, StorageUnavailable

SCOPES = ("read", "publish", "admin")
TOKEN_LIFETIME_DAYS = 90
MAX_LIFETIME_DAYS = 3650
LOOKUP_THREADS = 16
SECRET_BYTES = 32
_PREFIX = "registry/tokens"
_DAY_NS = 86_400 * 10**9
_TOKEN_ID = re.compile(r"[0-9a-f]{16}")
_TOKEN = re.compile(r"fft_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


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

    def create(
        self, name: str, *, scopes: Iterable[str], created_by: str, now_ns: int, days: float = TOKEN_LIFETIME_DAYS
    ) -> tuple[Token, str]:
        """A new token, and its text, which nobody can tell again. `Refused("bad_token_request")` for bad wishes."""
        check_wishes(name, scopes, days)
        secret = secrets.token_urlsafe(SECRET_BYTES)
        token = Token(
            token_id=secrets.token_hex(8),
            name=name,
            scopes=frozenset(scopes),
            secret_sha256=_sha256(secret),
            created_ns=now_ns,
            expires_ns=now_ns + int(days * _DAY_NS),
            created_by=created_by,
        )
        if not self._bucket.create(_key(token.token_id), token.as_bytes()):
            raise StorageUnavailable(f"a token with the id {token.token_id} was there already")
        return token, f"fft_{token.token_id}_{secret}"

    def find(self, token_id: str) -> Token | None:
        """None if there never was one. A revoked or expired one is found: it says so itself."""
        found = self._bucket.read(_key(token_id)) if _TOKEN_ID.fullmatch(token_id) else None
        return None if found is None else Token.parse(found[1])

    def revoke(self, token_id: str, *, now_ns: int) -> bool:
        """False if there never was such a token."""
        token = self.find(token_id)
        if token is None:
            return False
        if token.revoked_ns is None:
            entry = {**json.loads(token.as_bytes()), "revoked_ns": now_ns}
            self._bucket.overwrite(_key(token_id), json.dumps(entry, sort_keys=True).encode())
        return True

    def list(self) -> list[Token]:
        """Every token that ever was, in the order of their ids."""
        names = [name.removesuffix(".json") for name in self._bucket.names(_PREFIX)]
        with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
            return [token for token in pool.map(self.find, names) if token is not None]


def parse_token(text: str) -> tuple[str, str] | None:
    """Id and secret of a token's text; None if it is no person's token."""
    match = _TOKEN.fullmatch(text)
    return None if match is None else (match[1], match[2])


def check_wishes(name: str, scopes: Iterable[str], days: float) -> None:
    """`Refused("bad_token_request")` unless a token may have this name, these scopes and this lifetime."""
    asked = list(scopes)
    if not _NAME.fullmatch(name):
        raise _bad("name: needs 1 to 100 printable characters")
    if not asked or not set(asked) <= set(SCOPES):
        raise _bad(f"scopes: needs some of {', '.join(SCOPES)}, got {asked!r:.80}")
    if not 0 < days <= MAX_LIFETIME_DAYS:
        raise _bad(f"days: must be more than 0 and at most {MAX_LIFETIME_DAYS}, got {days:g}")


def _bad(what: str) -> Refused:
    return Refused("bad_token_request", what)


def _key(token_id: str) -> str:
    return f"{_PREFIX}/{token_id}.json"


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
