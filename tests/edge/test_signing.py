"""A signature is good for one request only."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edge import signing, wire
from edge.errors import SignatureError

NOW_NS = 1_760_000_000_000_000_000
DIGEST = wire.content_digest(hashlib.sha256(b"body").digest())
REQUEST = {"robot": "g1-007", "method": "POST", "target": "/v1/robots/g1-007/video?seq=1", "digest": DIGEST}


def _sign(key: Ed25519PrivateKey, **changed: Any) -> str:
    return signing.sign_request(key, **{**REQUEST, "now_ns": NOW_NS, **changed})


def _verify(token: str, key: Ed25519PrivateKey, **changed: Any) -> None:
    signing.verify_request(token, key.public_key, **{**REQUEST, "now_ns": NOW_NS, **changed})


def _code(token: str, key: Ed25519PrivateKey, **changed: Any) -> str:
    with pytest.raises(SignatureError) as caught:
        _verify(token, key, **changed)
    return caught.value.code


def _claims(**changed: Any) -> dict[str, Any]:
    issued = NOW_NS // 10**9
    claims = {
        "sub": REQUEST["robot"],
        "aud": signing.AUDIENCE,
        "iat": issued,
        "exp": issued + 60,
        "htm": REQUEST["method"],
        "htu": REQUEST["target"],
        "dig": DIGEST,
    }
    return {name: value for name, value in {**claims, **changed}.items() if value is not None}


def _token(key: Any, *, algorithm: str = "EdDSA", **changed: Any) -> str:
    """A token with a key id, whose claims and algorithm are as they are told to be."""
    return jwt.encode(_claims(**changed), key, algorithm=algorithm, headers={"kid": "0123456789abcdef"})


def test_a_signed_request_is_accepted_as_it_was_made(key: Ed25519PrivateKey) -> None:
    _verify(_sign(key), key)
    assert signing.token_key_id(_sign(key)) == signing.key_id(signing.public_bytes(key.public_key()))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"robot": "g1-008"}, "wrong_robot"),
        ({"method": "GET"}, "bad_signature"),
        ({"target": "/v1/robots/g1-007/video?seq=2"}, "bad_signature"),
        ({"target": "/v1/robots/g1-007/video"}, "bad_signature"),
        ({"target": "/v1/robots/g1-007/telemetry?seq=1"}, "bad_signature"),
        ({"digest": wire.content_digest(hashlib.sha256(b"other").digest())}, "bad_signature"),
        ({"digest": ""}, "bad_signature"),
    ],
)
def test_a_token_is_refused_for_any_other_request(key: Ed25519PrivateKey, changed: dict[str, str], code: str) -> None:
    assert _code(_sign(key), key, **changed) == code


@pytest.mark.parametrize(
    ("offset", "complete", "claim"),
    [("", "", ""), ("", "?0", ";?0"), ("1048576", "?0", "1048576;?0"), ("0", "?1", "0;?1"), ("7", "", "7;")],
)
def test_a_piece_signs_where_it_goes_and_whether_it_ends_the_upload(offset: str, complete: str, claim: str) -> None:
    assert signing.upload_claim(offset, complete) == claim


@pytest.mark.parametrize("signed", ["", ";?0", "1048576;?0"])
@pytest.mark.parametrize("sent", ["", ";?0", ";?1", "0;?0", "1048576;?0", "1048576;?1"])
def test_a_token_of_a_piece_is_refused_for_any_other_place(key: Ed25519PrivateKey, signed: str, sent: str) -> None:
    token = _sign(key, upload=signed)
    if signed == sent:
        _verify(token, key, upload=sent)
    else:
        assert _code(token, key, upload=sent) == "bad_signature"


def test_a_token_of_another_key_is_refused(key: Ed25519PrivateKey) -> None:
    assert _code(_sign(Ed25519PrivateKey.generate()), key) == "bad_signature"


@pytest.mark.parametrize("late_s", [signing.TOKEN_LIFETIME_S + 1, 86_400, -signing.MAX_TOKEN_LIFETIME_S - 1, -86_400])
def test_a_token_outside_its_time_is_told_to_be_a_matter_of_clocks(key: Ed25519PrivateKey, late_s: int) -> None:
    assert _code(_sign(key), key, now_ns=NOW_NS + late_s * 10**9) == "clock"


@pytest.mark.parametrize("late_s", [0, 1, signing.TOKEN_LIFETIME_S, -1, -signing.MAX_TOKEN_LIFETIME_S])
def test_a_token_within_its_time_is_accepted(key: Ed25519PrivateKey, late_s: int) -> None:
    _verify(_sign(key), key, now_ns=NOW_NS + late_s * 10**9)


def test_a_token_that_would_live_too_long_is_refused(key: Ed25519PrivateKey) -> None:
    issued = NOW_NS // 10**9
    assert _code(_token(key, exp=issued + signing.MAX_TOKEN_LIFETIME_S + 1), key) == "bad_token"


@pytest.mark.parametrize("name", ["sub", "aud", "iat", "exp", "htm", "htu", "dig"])
def test_a_token_without_one_of_its_claims_is_refused(key: Ed25519PrivateKey, name: str) -> None:
    assert _code(_token(key, **{name: None}), key) == "bad_token"


@pytest.mark.parametrize(
    "changed",
    [{"iat": "now"}, {"exp": 1.5}, {"iat": 1.5}, {"aud": "somebody-else"}, {"exp": "x"}, {"sub": 7}, {"nbf": "x"}],
)
def test_a_token_with_claims_of_the_wrong_sort_is_refused(key: Ed25519PrivateKey, changed: dict[str, Any]) -> None:
    with pytest.raises((SignatureError, TypeError)) as caught:
        _verify(_token(key, **changed), key)
    assert caught.type is SignatureError


@pytest.mark.parametrize("audience", [signing.AUDIENCE, ["somebody-else", signing.AUDIENCE]])
def test_a_token_may_be_for_others_too(key: Ed25519PrivateKey, audience: object) -> None:
    _verify(_token(key, aud=audience), key)


def test_a_token_is_not_good_before_it_says_so(key: Ed25519PrivateKey) -> None:
    issued = NOW_NS // 10**9
    _verify(_token(key, nbf=issued), key)
    assert _code(_token(key, nbf=issued + 1), key) == "clock"


@pytest.mark.parametrize("claims", [b"[]", b"7", b"{", b"[" * 100_000])
def test_a_token_whose_claims_are_no_object_is_none(key: Ed25519PrivateKey, claims: bytes) -> None:
    token = jwt.PyJWS().encode(claims, key, algorithm="EdDSA", headers={"kid": "0123456789abcdef"})
    assert _code(token, key) == "bad_token"


def test_a_token_signed_with_a_shared_secret_or_not_at_all_is_refused(key: Ed25519PrivateKey) -> None:
    unsigned = _token(None, algorithm="none")
    shared = _token(signing.public_bytes(key.public_key()), algorithm="HS256")
    assert {_code(unsigned, key), _code(shared, key)} == {"bad_token"}


@pytest.mark.parametrize(
    "changed",
    [{"alg": "none"}, {"alg": "HS256"}, {"alg": "ES256"}, {"alg": ""}, {"alg": None}, {"crit": ["b64"], "b64": False}],
)
def test_a_good_signature_under_a_header_that_says_otherwise_is_refused(
    key: Ed25519PrivateKey, changed: dict[str, Any]
) -> None:
    head = json.dumps({"alg": "EdDSA", "kid": "0123456789abcdef"} | changed).encode()
    signed = ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in (head, json.dumps(_claims()).encode()))
    signature = urlsafe_b64encode(key.sign(signed.encode())).decode().rstrip("=")
    assert _code(f"{signed}.{signature}", key) == "bad_token"


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.b.c.d", "\0", "é", "eyJ" * 1000])
def test_what_is_no_token_is_refused_as_such(key: Ed25519PrivateKey, token: str) -> None:
    assert _code(token, key) == "bad_token"
    with pytest.raises(SignatureError):
        signing.token_key_id(token)


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("junk", ["!", " ", "\n", "=", "===="])
def test_a_token_with_anything_between_its_letters_is_refused(key: Ed25519PrivateKey, part: int, junk: str) -> None:
    parts = _sign(key).split(".")
    parts[part] = parts[part][:7] + junk + parts[part][7:]
    assert _code(".".join(parts), key) == "bad_token"


def test_a_token_that_names_no_key_is_refused(key: Ed25519PrivateKey) -> None:
    with pytest.raises(SignatureError, match="kid"):
        signing.token_key_id(jwt.encode(_claims(), key, algorithm="EdDSA"))


@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_token_is_refused_or_changes_nothing(key: Ed25519PrivateKey, at: int, bit: int) -> None:
    token = bytearray(_sign(key).encode())
    at %= len(token)
    token[at] ^= 1 << bit
    changed = token.decode("latin-1")
    try:
        _verify(changed, key)
    except SignatureError:
        return
    signed, signature = changed.rsplit(".", 1)
    assert signed == _sign(key).rsplit(".", 1)[0]  # only the padding bits of the last base64 digit carry nothing
    assert signature[:-1] == _sign(key).rsplit(".", 1)[1][:-1]


def test_the_signed_fields_are_those_that_were_sent_in_any_case_and_order(key: Ed25519PrivateKey) -> None:
    sent = {"Upload-Length": "5", "content-type": "application/vnd.mcap", "User-Agent": "x"}
    claim = signing.fields_claim(sent)
    assert claim == hashlib.sha256(b"content-type:application/vnd.mcap\nupload-length:5\n").hexdigest()[:32]
    assert claim == signing.fields_claim({"CONTENT-TYPE": "application/vnd.mcap", "upload-length": "5"})
    assert signing.fields_claim({"User-Agent": "x"}) == ""
    token = _sign(key, fields=claim)
    _verify(token, key, fields=claim)
    for changed in ({"Upload-Length": "7"}, {"Repr-Digest": DIGEST}, {"Fleetfeed-Robot-Clock": ""}):
        assert _code(token, key, fields=signing.fields_claim(sent | changed)) == "bad_signature"
    assert _code(token, key, fields=signing.fields_claim({"Upload-Length": "5"})) == "bad_signature"


def test_a_token_that_signs_no_fields_is_good_with_any(key: Ed25519PrivateKey) -> None:
    _verify(_sign(key), key, fields=signing.fields_claim({"Upload-Length": "5"}))
