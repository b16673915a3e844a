"""A person's token opens the routes of its scopes, until it expires or is revoked."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request

from edge.signing import sign_request
from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused
from ingest_serve.lookups import TokenCache
from ingest_serve.people import Person, check_person
from ingest_serve.revocations import RevocationView
from ingest_serve.tokens import Tokens

NOW_NS = 1_760_000_000_000_000_000
DAY_NS = 86_400 * 10**9


class Door:
    """Asks for a scope, as a route does, with a replica's cache of tokens."""

    def __init__(self, bucket: Bucket, *, key_cache_s: float = 0) -> None:
        view = RevocationView(bucket, max_age_s=key_cache_s)
        self._cache = TokenCache(Tokens(bucket), view, absent_s=0)

    def ask(self, text: str | None, scope: str = "read", *, now_ns: int = NOW_NS) -> Person | str:
        """Who it is, or the code of the refusal."""
        headers = [] if text is None else [(b"authorization", text.encode("latin-1"))]
        request = Request({"type": "http", "headers": headers})
        try:
            return asyncio.run(check_person(request, self._cache, scope=scope, now_ns=now_ns))
        except Refused as refused:
            return refused.code


@pytest.fixture
def tokens(bucket: Bucket) -> Tokens:
    return Tokens(bucket)


def given(tokens: Tokens, *scopes: str) -> tuple[str, str]:
    """Id and bearer field of a new token."""
    token, text = tokens.create("Ada", scopes=scopes, now_ns=NOW_NS, days=1)
    return token.token_id, f"Bearer {text}"


def test_a_token_opens_the_scopes_that_it_has_and_no_other(tokens: Tokens, bucket: Bucket) -> None:
    door, (token_id, bearer) = Door(bucket), given(tokens, "read", "publish")
    for scope in ("read", "publish"):
        assert door.ask(bearer, scope) == Person(token_id, "Ada", frozenset({"read", "publish"}))
    assert door.ask(bearer, "admin") == "wrong_scope"
    _, admin = given(tokens, "admin")
    assert door.ask(admin, "read") == "wrong_scope"  # scopes are independent of each other


def test_a_scope_that_does_not_exist_is_a_mistake_of_ours(bucket: Bucket) -> None:
    door = Door(bucket)
    with pytest.raises(ValueError, match="scope must be one of"):
        door.ask("Bearer x", "write")


def test_a_token_expires(tokens: Tokens, bucket: Bucket) -> None:
    door, (_, bearer) = Door(bucket), given(tokens, "read")
    assert isinstance(door.ask(bearer, now_ns=NOW_NS + DAY_NS - 1), Person)
    assert door.ask(bearer, now_ns=NOW_NS + DAY_NS) == "token_expired"


@pytest.mark.parametrize("scope", ["read", "admin"])
def test_a_revoked_token_opens_nothing_and_only_its_holder_learns_why(
    tokens: Tokens, bucket: Bucket, scope: str
) -> None:
    door, (token_id, bearer) = Door(bucket), given(tokens, scope)
    assert isinstance(door.ask(bearer, scope), Person)
    tokens.revoke(token_id, now_ns=NOW_NS)
    assert door.ask(bearer, scope) == "token_revoked"
    assert door.ask(f"Bearer fft_{token_id}_{'a' * 43}", scope) == "bad_token"
    bucket.delete(f"registry/revoked/_tokens/{token_id}")
    assert Door(bucket).ask(bearer, scope) == "token_revoked"


def test_a_revoked_token_lets_no_other_in_even_where_it_is_cached(tokens: Tokens, bucket: Bucket) -> None:
    door, (token_id, bearer) = Door(bucket, key_cache_s=3600), given(tokens, "read", "admin")
    assert isinstance(door.ask(bearer, "read"), Person)
    tokens.revoke(token_id, now_ns=NOW_NS)
    assert isinstance(door.ask(bearer, "read"), Person)  # for as long as the view is trusted
    assert door.ask(bearer, "admin") == "token_revoked"


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "no_token"),
        ("", "no_token"),
        ("Bearer", "no_token"),
        ("Bearer ", "no_token"),
        ("Basic YTpi", "no_token"),
        ("Bearer x", "bad_token"),
        ("Bearer a.b.c", "bad_token"),
        ("Bearer fft_0123456789abcdef_short", "bad_token"),
        (f"Bearer fft_0123456789abcdef_{'a' * 43}", "bad_token"),
        (f"Bearer fft_../../robots/x_{'a' * 43}", "bad_token"),
        ("Bearer \xff\xfe", "bad_token"),
    ],
)
def test_what_is_no_token_opens_nothing(bucket: Bucket, authorization: str | None, code: str) -> None:
    door = Door(bucket)
    assert [door.ask(authorization, scope) for scope in ("read", "admin")] == [code] * 2


def test_another_secret_or_another_id_opens_nothing(tokens: Tokens, bucket: Bucket) -> None:
    door, (one, bearer), (other, _) = Door(bucket), given(tokens, "read"), given(tokens, "read")
    assert door.ask(bearer.replace(one, other)) == "bad_token"
    assert door.ask(bearer[:-1] + ("a" if bearer[-1] != "a" else "b")) == "bad_token"


def test_a_robot_is_told_that_the_route_is_not_for_robots(bucket: Bucket) -> None:
    door, key = Door(bucket), Ed25519PrivateKey.generate()
    token = sign_request(key, robot="g1-001", method="GET", target="/v1/tokens", digest="", now_ns=NOW_NS)
    assert door.ask(f"Bearer {token}") == "wrong_scope"
