"""What robot and server agree on: names, routes, headers, the digest and the signature of a request.

The signature is a JWT (RFC 7519) signed with Ed25519 (`EdDSA`, RFC 8037) over the method, the whole target with its
query, and the `Content-Digest` (RFC 9530), so that a captured token is good for that one request only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.errors import BadName, SignatureError

Kind = Literal["telemetry", "video"]

MCAP_TYPE = "application/vnd.mcap"
MP4_TYPE = "video/mp4"
PROBLEM_TYPE = "application/problem+json"
ROBOT_TIME_HEADER = "Fleetfeed-Robot-Time-Ns"
SERVER_TIME_HEADER = "Fleetfeed-Server-Time-Ns"
AUDIENCE = "fleetfeed-ingest"
TOKEN_LIFETIME_S = 120
MAX_TOKEN_LIFETIME_S = 300
UNKNOWN = "unknown"  # the code of an error answer that is not ours
MAX_SEQ = 10**10 - 1
MAX_TIME_NS = 2**63 - 1

_ROBOT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_STREAM = re.compile(r"[a-z0-9_][a-z0-9._-]{0,62}")
_RECORDING = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


@dataclass(frozen=True, slots=True)
class SegmentId:
    """The name of one segment in the whole fleet: (robot, recording, stream, seq)."""

    robot: str
    recording: str
    stream: str
    seq: int

    def __post_init__(self) -> None:
        check_robot(self.robot)
        check_recording(self.recording)
        check_stream(self.stream)
        if not 0 <= self.seq <= MAX_SEQ:
            raise BadName(f"seq must be within 0..{MAX_SEQ}, got {self.seq}")

    @property
    def key(self) -> str:
        """The object's key in the bucket."""
        return f"raw/{self.robot}/{self.recording}/{self.stream}/{self.seq:010d}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The server's word that a segment is durable. `sha256` is in hex; the robot frees disk only when it matches."""

    key: str
    sha256: str
    bytes: int
    server_time_ns: int
    already_stored: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Receipt:
        return cls(**{name: body[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Problem:
    """An error answer (RFC 9457): a stable `code`, and a sentence for people."""

    code: str
    detail: str


def problem(body: bytes) -> Problem:
    """Read an error answer; one that is not ours (a proxy's page) has the code `unknown`."""
    try:
        fields = json.loads(body)
        return Problem(str(fields["code"]), str(fields["detail"]))
    except (ValueError, KeyError, TypeError):
        return Problem(UNKNOWN, body[:200].decode(errors="replace"))


def check_robot(name: str) -> str:
    return _checked("robot", name, _ROBOT)


def check_stream(name: str) -> str:
    return _checked("stream", name, _STREAM)


def check_recording(name: str) -> str:
    return _checked("recording", name, _RECORDING)


def _checked(what: str, name: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(name):
        raise BadName(f"{what} must match {pattern.pattern}, got {name[:80]!r}")
    return name


def upload_target(segment: SegmentId, *, kind: Kind, start_ns: int, end_ns: int) -> str:
    """Path and query of the POST that carries a segment."""
    query = {
        "recording": segment.recording,
        "stream": segment.stream,
        "seq": segment.seq,
        "start_ns": start_ns,
        "end_ns": end_ns,
    }
    return f"/v1/robots/{segment.robot}/{kind}?{urlencode(query)}"


def enrol_target(robot: str) -> str:
    return f"/v1/robots/{check_robot(robot)}/enrol"


def content_digest(sha256: bytes) -> str:
    """The `Content-Digest` field value (RFC 9530) of a raw 32-byte SHA-256."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def parse_content_digest(field: str) -> bytes:
    """The raw SHA-256 of a `Content-Digest` field; `ValueError` when there is none in it."""
    found = re.search(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/=]{44}):", field)
    if not found:
        raise ValueError(f"Content-Digest must hold sha-256=:<base64>:, got {field[:80]!r}")
    return base64.b64decode(found.group(1), validate=True)


def public_bytes(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id(public_key: bytes) -> str:
    """Short name of a raw 32-byte public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def sign_request(key: Ed25519PrivateKey, *, robot: str, method: str, target: str, digest: str, now_ns: int) -> str:
    """A token good for this one request, for `TOKEN_LIFETIME_S`. `digest` is the `Content-Digest` value, or ""."""
    issued = now_ns // 1_000_000_000
    claims = {
        "sub": robot,
        "aud": AUDIENCE,
        "iat": issued,
        "exp": issued + TOKEN_LIFETIME_S,
        "htm": method,
        "htu": target,
        "dig": digest,
    }
    kid = key_id(public_bytes(key.public_key()))
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": kid})


def token_key_id(token: str) -> str:
    """The key id that a token says it is signed with (not yet verified)."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except jwt.PyJWTError as error:
        raise SignatureError("bad_token", f"the bearer token is not a JWT: {error}") from error
    if not isinstance(kid, str):
        raise SignatureError("bad_token", "the bearer token names no key (kid)")
    return kid


def verify_request(
    token: str,
    find_key: Callable[[], Ed25519PublicKey],
    *,
    robot: str,
    method: str,
    target: str,
    digest: str,
    now_ns: int,
) -> None:
    """Raise `SignatureError` unless the token was made for just this request by the holder of the key."""
    claims = _verified_claims(token, find_key())
    now_s = now_ns / 1e9
    if claims["exp"] - claims["iat"] > MAX_TOKEN_LIFETIME_S:
        raise SignatureError("bad_token", f"a token may live {MAX_TOKEN_LIFETIME_S} s at most")
    if not claims["iat"] - MAX_TOKEN_LIFETIME_S <= now_s <= claims["exp"]:
        raise SignatureError(
            "clock", f"token is for {claims['iat']}..{claims['exp']}, the server's time is {now_s:.0f}"
        )
    if claims["sub"] != robot:
        raise SignatureError("wrong_robot", f"the token is of robot {claims['sub']!r}, the route of {robot!r}")
    for name, said, is_ in (("htm", "method", method), ("htu", "target", target), ("dig", "Content-Digest", digest)):
        if claims.get(name) != is_:
            raise SignatureError("bad_signature", f"the token was signed for another {said}")


def _verified_claims(token: str, key: Ed25519PublicKey) -> dict[str, Any]:
    needed = ["sub", "aud", "iat", "exp", "htm", "htu", "dig"]
    options: Any = {"require": needed, "verify_exp": False, "verify_iat": False}
    try:
        claims: dict[str, Any] = jwt.decode(token, key, algorithms=["EdDSA"], audience=AUDIENCE, options=options)
    except jwt.InvalidSignatureError as error:
        raise SignatureError("bad_signature", "the token is not signed by this robot's key") from error
    except jwt.PyJWTError as error:
        raise SignatureError("bad_token", f"the bearer token is not valid: {error}") from error
    if not all(isinstance(claims[name], int) for name in ("iat", "exp")):
        raise SignatureError("bad_token", "iat and exp must be whole seconds")
    return claims
