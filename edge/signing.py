"""The signature of a request: a short-lived token that only the robot's key can make, good for that one request.

It is a JWT (RFC 7519) signed with Ed25519 (`EdDSA`, RFC 8037) over the method, the whole target with its query, and
the `Content-Digest` (RFC 9530).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.errors import SignatureError

ALGORITHM = "EdDSA"
AUDIENCE = "fleetfeed-ingest"
TOKEN_LIFETIME_S = 120
MAX_TOKEN_LIFETIME_S = 300
SIGNED_FIELDS = (  # what `fields_claim` is over, in this order
    "content-type",
    "repr-digest",
    "upload-length",
    "fleetfeed-robot-time-ns",
    "fleetfeed-robot-clock",
)
_NEEDED_CLAIMS = ("sub", "aud", "iat", "exp", "htm", "htu", "dig")


def public_bytes(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id(public_key: bytes) -> str:
    """Short name of a raw 32-byte public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def upload_claim(offset: str, complete: str) -> str:
    """What a token signs of a resumable upload: its fields `Upload-Offset` and `Upload-Complete`, "" for one not sent.

    "" where neither is sent: such a request signs nothing of it.
    """
    return f"{offset};{complete}" if offset or complete else ""


def fields_claim(headers: Mapping[str, str]) -> str:
    """What a token may sign of the other fields that say something of an upload, so that none changes on the way.

    The first 32 hex digits of SHA-256 over a line `name:value` of each of `SIGNED_FIELDS` that is sent; "" for none.
    """
    sent = {name.lower(): value for name, value in headers.items()}
    lines = "".join(f"{name}:{sent[name]}\n" for name in SIGNED_FIELDS if name in sent)
    return hashlib.sha256(lines.encode()).hexdigest()[:32] if lines else ""


def sign_request(
    key: Ed25519PrivateKey,
    *,
    robot: str,
    method: str,
    target: str,
    digest: str,
    now_ns: int,
    upload: str = "",
    fields: str = "",
) -> str:
    """A token good for this one request, for `TOKEN_LIFETIME_S`. `digest` is the `Content-Digest` value, or "".

    `upload`: the `upload_claim` of a request that carries `Upload-Offset` or `Upload-Complete`. `fields`: its
    `fields_claim`, if that is to be signed too.
    """
    issued = now_ns // 1_000_000_000
    claims = {
        "sub": robot,
        "aud": AUDIENCE,
        "iat": issued,
        "exp": issued + TOKEN_LIFETIME_S,
        "htm": method,
        "htu": target,
        "dig": digest,
    } | {name: claim for name, claim in (("upl", upload), ("fld", fields)) if claim}
    kid = key_id(public_bytes(key.public_key()))
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": kid})


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token taken apart. Nothing in it is to be believed before `verify_token`."""

    kid: str
    algorithm: object
    claims: dict[str, Any]
    signed: bytes
    signature: bytes

    @classmethod
    def parse(cls, text: str) -> Token:
        """`SignatureError` for what is no JWT, names no key, or asks to be understood in another way (`crit`)."""
        signed, _, signature = text.rpartition(".")
        try:
            head, claims = (json.loads(_decoded(part)) for part in signed.split("."))
            made = _decoded(signature)
        except (ValueError, RecursionError) as error:
            raise SignatureError("bad_token", f"the bearer token is not a JWT: {error}") from error
        if not isinstance(head, dict) or not isinstance(claims, dict) or "crit" in head:
            raise SignatureError("bad_token", "the bearer token is not a JWT of plain header and claims")
        kid = head.get("kid")
        if not isinstance(kid, str):
            raise SignatureError("bad_token", "the bearer token names no key (kid)")
        return cls(kid, head.get("alg"), claims, signed.encode(), made)


def _decoded(segment: str) -> bytes:
    """Base64url without padding (RFC 7515, appendix C); `ValueError` for anything else."""
    return base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)


def token_key_id(token: str) -> str:
    """The key id that a token says it is signed with (not yet verified)."""
    return Token.parse(token).kid


def verify_request(
    token: str,
    find_key: Callable[[], Ed25519PublicKey],
    *,
    robot: str,
    method: str,
    target: str,
    digest: str,
    now_ns: int,
    upload: str = "",
    fields: str = "",
) -> None:
    """Raise `SignatureError` unless the token was made for just this request by the holder of the key.

    `fields`, the request's `fields_claim`, counts where the token signs it.
    """
    verify_token(
        Token.parse(token),
        find_key(),
        robot=robot,
        method=method,
        target=target,
        digest=digest,
        now_ns=now_ns,
        upload=upload,
        fields=fields,
    )


def verify_token(
    token: Token,
    key: Ed25519PublicKey,
    *,
    robot: str,
    method: str,
    target: str,
    digest: str,
    now_ns: int,
    upload: str = "",
    fields: str = "",
) -> None:
    """`verify_request` for a token that was parsed to find its key."""
    claims = _verified_claims(token, key)
    now_s = now_ns / 1e9
    if claims["exp"] - claims["iat"] > MAX_TOKEN_LIFETIME_S:
        raise SignatureError("bad_token", f"a token may live {MAX_TOKEN_LIFETIME_S} s at most")
    if not max(claims["iat"] - MAX_TOKEN_LIFETIME_S, claims.get("nbf", 0)) <= now_s <= claims["exp"]:
        raise SignatureError(
            "clock", f"token is for {claims['iat']}..{claims['exp']}, the server's time is {now_s:.0f}"
        )
    if claims["sub"] != robot:
        raise SignatureError("wrong_robot", f"the token is of robot {claims['sub']!r}, the route of {robot!r}")
    signed = (
        ("htm", "method", method),
        ("htu", "target", target),
        ("dig", "Content-Digest", digest),
        ("upl", "Upload-Offset or Upload-Complete", upload),
        ("fld", "value of one of the signed fields", fields if "fld" in claims else ""),
    )
    for name, said, is_ in signed:
        if claims.get(name, "") != is_:
            raise SignatureError("bad_signature", f"the token was signed for another {said}")


def _verified_claims(token: Token, key: Ed25519PublicKey) -> dict[str, Any]:
    if token.algorithm != ALGORITHM:
        raise SignatureError("bad_token", f"the bearer token must be signed with {ALGORITHM}")
    try:
        key.verify(token.signature, token.signed)
    except InvalidSignature as error:
        raise SignatureError("bad_signature", "the token is not signed by this robot's key") from error
    claims = token.claims
    missing = [name for name in _NEEDED_CLAIMS if claims.get(name) is None]
    if missing:
        raise SignatureError("bad_token", f"the bearer token is not valid: it lacks {', '.join(missing)}")
    audience = claims["aud"]
    if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
        raise SignatureError("bad_token", f"the bearer token is not valid: aud must be {AUDIENCE}")
    if not all(type(claims.get(name, 0)) is int for name in ("iat", "exp", "nbf")):
        raise SignatureError("bad_token", "iat, exp and nbf must be whole seconds")
    return claims
