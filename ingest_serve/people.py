"""Which person's request it is: an opaque bearer token against the registry, and the scope that the route asks for."""

from __future__ import annotations

from dataclasses import dataclass

import jwt
from starlette.requests import Request

from ingest_serve.audit import Actor
from ingest_serve.errors import Refused
from ingest_serve.lookups import TokenCache
from ingest_serve.signature import bearer_token
from ingest_serve.tokens import SCOPES, TOKEN_PREFIX, Token, parse_token


@dataclass(frozen=True, slots=True)
class Person:
    """Who holds the token of a request."""

    token_id: str
    name: str
    scopes: frozenset[str]

    def as_actor(self) -> Actor:
        return Actor("person", self.token_id, self.name)


def is_persons(text: str) -> bool:
    """Whether a bearer token is meant as a person's, be it right or wrong."""
    return text.startswith(TOKEN_PREFIX)


async def check_person(request: Request, tokens: TokenCache, *, scope: str, now_ns: int) -> Person:
    """The person whose token the request carries. `Refused` unless it counts and has `scope`.

    For the scope `admin` it is always looked up: a revoked token must not let another one in.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, got {scope!r}")
    token = await _known(bearer_token(request), tokens, scope=scope)
    if token.revoked_ns is not None:
        raise Refused("token_revoked", f"token {token.token_id} was revoked")
    if now_ns >= token.expires_ns:
        raise Refused("token_expired", f"token {token.token_id} has expired")
    if scope not in token.scopes:
        raise Refused("wrong_scope", f"the route needs a token with the scope {scope!r}")
    return Person(token.token_id, token.name, token.scopes)


async def _known(text: str, tokens: TokenCache, *, scope: str) -> Token:
    """The token of the registry that this text opens. Whether there is one of its id is told to nobody else."""
    parts = parse_token(text)
    if parts is None:
        raise _stranger(text, scope=scope)
    token_id, secret = parts
    token = await (tokens.find_fresh(token_id) if scope == "admin" else tokens.find(token_id))
    if token is None or not token.is_opened_by(secret):
        raise Refused("bad_token", "the bearer token is not one that was given out")
    return token


def _stranger(text: str, *, scope: str) -> Refused:
    """What a token that is no person's is answered; a robot's is told that the route is not for robots."""
    try:
        jwt.get_unverified_header(text)
    except jwt.PyJWTError:
        return Refused("bad_token", "the bearer token is not one that was given out")
    return Refused("wrong_scope", f"the route needs a person's token with the scope {scope!r}, this is a robot's")
