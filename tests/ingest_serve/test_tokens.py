"""People's tokens in the registry: made once, told once, found by their id, ended for good."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused, StorageUnavailable
from ingest_serve.tokens import Token, Tokens, parse_token

NOW_NS = 1_760_000_000_000_000_000
DAY_NS = 86_400 * 10**9


@pytest.fixture
def tokens(bucket: Bucket) -> Tokens:
    return Tokens(bucket)


def test_a_token_is_found_as_it_was_made(tokens: Tokens) -> None:
    token, text = tokens.create("Ada Lovelace", scopes=["read", "admin", "read"], now_ns=NOW_NS, days=2)
    assert re.fullmatch(r"fft_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", text)
    token_id, secret = parse_token(text) or ("", "")
    found = tokens.find(token_id)
    assert found == token
    assert found.is_opened_by(secret)
    assert not found.is_opened_by(secret[:-1] + ("a" if secret[-1] != "a" else "b"))
    assert (found.name, found.scopes) == ("Ada Lovelace", {"read", "admin"})
    assert (found.created_ns, found.expires_ns, found.revoked_ns) == (NOW_NS, NOW_NS + 2 * DAY_NS, None)


def test_no_secret_is_kept_or_printed(tokens: Tokens, bucket: Bucket) -> None:
    token, text = tokens.create("Ada", scopes=["read"], now_ns=NOW_NS)
    secret = text.rpartition("_")[2] if text.count("_") == 2 else (parse_token(text) or ("", ""))[1]
    for root in ("registry", "audit"):
        for name in bucket.names(root):
            found = bucket.read(f"{root}/{name}")
            assert found is not None
            assert secret.encode() not in found[1]
            assert secret not in name
    assert hashlib.sha256(secret.encode()).hexdigest() not in repr(token) + json.dumps(token.as_json())


def test_tokens_are_listed_in_order_and_page_by_page(tokens: Tokens) -> None:
    made = sorted(tokens.create(f"n{n}", scopes=["read"], now_ns=NOW_NS)[0].token_id for n in range(5))
    assert [one.token_id for one in tokens.list()] == made
    first = tokens.list(limit=2)
    assert [one.token_id for one in first] == made[:2]
    assert [one.token_id for one in tokens.list(after=made[1])] == made[2:]


def test_a_revoked_token_is_found_and_says_so_once(tokens: Tokens) -> None:
    token, _ = tokens.create("Ada", scopes=["read"], now_ns=NOW_NS)
    assert tokens.revoke(token.token_id, now_ns=NOW_NS + 1)
    assert tokens.revoke(token.token_id, now_ns=NOW_NS + 2)
    found = tokens.find(token.token_id)
    assert found is not None
    assert found.revoked_ns == NOW_NS + 1
    assert found.as_json()["revoked_ns"] == NOW_NS + 1


@pytest.mark.parametrize("token_id", ["", "0" * 16, "0" * 15, "../robots/x", "0123456789ABCDEF", "a/b", "\n"])
def test_an_id_that_nobody_has_is_no_token(tokens: Tokens, token_id: str) -> None:
    assert tokens.find(token_id) is None
    assert not tokens.revoke(token_id, now_ns=NOW_NS)


@pytest.mark.parametrize(
    "text",
    ["", "fft_", "fft_0123456789abcdef_", f"fft_0123456789abcdef_{'a' * 42}", f"fft_0123456789ABCDEF_{'a' * 43}"]
    + [f"fft_0123456789abcdef_{'a' * 43}{end}" for end in ("a", "\n", "=")]
    + [f"xfft_0123456789abcdef_{'a' * 43}", f"fft_0123456789abcdeé_{'a' * 43}"],
)
def test_what_is_no_token_s_text_is_none(text: str) -> None:
    assert parse_token(text) is None


@pytest.mark.parametrize(
    ("name", "scopes", "days"),
    [
        ("", ["read"], 1),
        ("a" * 101, ["read"], 1),
        ("a\nb", ["read"], 1),
        ("\ud800", ["read"], 1),
        ("Ada", [], 1),
        ("Ada", ["read", "all"], 1),
        ("Ada", ["READ"], 1),
        ("Ada", ["read"], 0),
        ("Ada", ["read"], -1),
        ("Ada", ["read"], float("nan")),
        ("Ada", ["read"], float("inf")),
        ("Ada", ["read"], 10**400),
    ],
)
def test_a_token_that_cannot_be_is_refused(
    tokens: Tokens, bucket: Bucket, name: str, scopes: list[str], days: float
) -> None:
    with pytest.raises(Refused) as refused:
        tokens.create(name, scopes=scopes, now_ns=NOW_NS, days=days)
    assert refused.value.code == "bad_body"
    assert bucket.names("registry") == bucket.names("audit") == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"sha256": "00"}', b'{"sha256": "00", "scopes": 5}', b"\xff"])
def test_an_object_that_cannot_be_read_lets_nobody_in(body: bytes) -> None:
    with pytest.raises(StorageUnavailable, match="cannot be read"):
        Token.parse(body)
