"""The body of an enrolment: a one-time token and the public key that the robot has made."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ingest_serve.errors import Refused

MAX_ENROLMENT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a robot asks for; `public_key` is the raw 32 bytes of `key`."""

    token: str = field(repr=False)
    public_key: bytes
    key: Ed25519PublicKey


def parse_enrolment(body: bytes) -> Enrolment:
    """`Refused("bad_enrolment")` unless it is {"token": text, "public_key": base64 of 32 bytes}."""
    try:
        found = json.loads(body)
        token, public_key = found["token"], base64.b64decode(found["public_key"], validate=True)
        key = Ed25519PublicKey.from_public_bytes(public_key)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise Refused("bad_enrolment", f"needs a token and a base64 public_key of 32 bytes: {error}") from error
    if not isinstance(token, str) or not token.isascii():
        raise Refused("bad_enrolment", "the token must be ASCII text")
    return Enrolment(token, public_key, key)
