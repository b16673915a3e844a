"""The bodies with which a robot makes a public key known: with a one-time token, or beside a key that it has."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ingest_serve.errors import Refused

MAX_ENROLMENT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a robot asks for; `public_key` is the raw 32 bytes of `key`."""

    token: str = field(repr=False)
    public_key: bytes
    key: Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that a robot wants known beside the one that signs; `proof` is a token that the new one has signed."""

    proof: str = field(repr=False)
    public_key: bytes
    key: Ed25519PublicKey


def parse_enrolment(body: bytes) -> Enrolment:
    """`Refused("bad_enrolment")` unless it is {"token": text, "public_key": base64 of 32 bytes}."""
    try:
        return Enrolment(*_parse(body, "token"))
    except ValueError as error:
        raise Refused("bad_enrolment", f"needs a token and a base64 public_key of 32 bytes: {error}") from error


def parse_new_key(body: bytes) -> NewKey:
    """`Refused("bad_new_key")` unless it is {"proof": text, "public_key": base64 of 32 bytes}."""
    try:
        return NewKey(*_parse(body, "proof"))
    except ValueError as error:
        raise Refused("bad_new_key", f"needs a proof and a base64 public_key of 32 bytes: {error}") from error


def _parse(body: bytes, name: str) -> tuple[str, bytes, Ed25519PublicKey]:
    """The text of this name and the public key. `ValueError` for a body of another form."""
    try:
        found: Any = json.loads(body)
        text, public_key = found[name], base64.b64decode(found["public_key"], validate=True)
        key = Ed25519PublicKey.from_public_bytes(public_key)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(text, str) or not text.isascii():
        raise ValueError(f"the {name} must be ASCII text")
    return text, public_key, key
