"""What a person asks for in a small JSON body or in a query: read within bounds, checked member by member."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request

from dataset_catalog.errors import QueryError
from dataset_catalog.times import parse_ns
from edge.wire import MAX_TIME_NS
from ingest_serve.body import read_body
from ingest_serve.declared import declared_length
from ingest_serve.errors import Refused
from ingest_serve.invitations import INVITE_LIFETIME_S, MAX_INVITE_LIFETIME_S
from ingest_serve.tokens import TOKEN_LIFETIME_DAYS, check_wishes

MAX_BODY_BYTES = 4096
MAX_PAGE = 1000
BODY_TIMEOUT_S = 5.0

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str, Query(max_length=1024)]


@dataclass(frozen=True, slots=True)
class TokenWish:
    """What a new token is to be."""

    name: str
    scopes: tuple[str, ...]
    days: float


async def read_object(request: Request) -> dict[str, Any]:
    """The body, a JSON object of at most `MAX_BODY_BYTES`; {} for a request without one."""
    if "content-length" not in request.headers and "transfer-encoding" not in request.headers:
        return {}
    length = declared_length(request, max_bytes=MAX_BODY_BYTES)
    body = await read_body(request, length=length, sha256=None, timeout_s=BODY_TIMEOUT_S)
    if not body:
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _bad(f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise _bad(f"it must be a JSON object, got {type(found).__name__}")
    return found


def token_wish(body: dict[str, Any]) -> TokenWish:
    """`Refused("bad_body")` unless it is {"name": text, "scopes": [text, …], "days": number, if it is there}."""
    _check_members(body, "name", "scopes", "days")
    name, scopes, days = body.get("name"), body.get("scopes"), body.get("days", TOKEN_LIFETIME_DAYS)
    if not isinstance(name, str):
        raise _bad("name: must be text")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise _bad("scopes: must be a list of texts")
    if isinstance(days, bool) or not isinstance(days, int | float):
        raise _bad("days: must be a number")
    check_wishes(name, scopes, days)
    return TokenWish(name, tuple(scopes), days)


def invitation_lifetime_s(body: dict[str, Any]) -> int:
    """`Refused("bad_body")` unless it is {"lifetime_s": whole number, if it is there}."""
    _check_members(body, "lifetime_s")
    lifetime_s = body.get("lifetime_s", INVITE_LIFETIME_S)
    if type(lifetime_s) is not int or not 1 <= lifetime_s <= MAX_INVITE_LIFETIME_S:
        raise _bad(f"lifetime_s: must be a whole number from 1 to {MAX_INVITE_LIFETIME_S}")
    return lifetime_s


def check_no_wishes(body: dict[str, Any]) -> None:
    """`Refused("bad_body")` for any member: the route takes none."""
    _check_members(body)


def time_range(start: str | None, end: str | None) -> tuple[int, int]:
    """Half-open, in ns, of texts that are ns since the Unix epoch or ISO 8601; what is left out is no bound."""
    start_ns, end_ns = _time("start", start, 0), _time("end", end, MAX_TIME_NS)
    if start_ns >= end_ns:
        raise Refused("bad_parameter", "end: must be later than start", parameter="end")
    return start_ns, end_ns


def bad_cursor() -> Refused:
    return Refused("bad_parameter", "cursor: must be the `next` of an earlier answer", parameter="cursor")


def _time(name: str, text: str | None, unbound: int) -> int:
    try:
        return unbound if text is None else parse_ns(text)
    except (QueryError, OverflowError) as error:
        raise Refused("bad_parameter", f"{name}: {error}", parameter=name) from error


def _check_members(body: dict[str, Any], *names: str) -> None:
    for name in body:
        if name not in names:
            raise _bad(f"{name[:40]!r} is not asked for; it may hold {', '.join(names) or 'nothing'}")


def _bad(what: str) -> Refused:
    return Refused("bad_body", what)
