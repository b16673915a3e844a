"""A fixed corpus of wrong requests: each is refused for what is wrong with it, and leaves nothing where it must not.

What a case says is signed is signed as it is sent, so that the signature is not what it fails of.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import wire
from edge.segment import MAGIC
from ingest_serve.tokens import Tokens
from tests.ingest_serve.conftest import BODY, RECORDING, START_NS, Robot, new_lake, serve
from tests.ingest_serve.malformed import NOT_HTTP, Answer, Onlooker, request, watched
from tests.ingest_serve.resuming import digest_of

OWN = ("raw/g1-001/", "uploads/g1-001/", "conflicts/g1-001/")
UNREADABLE = (400, "")  # uvicorn's own answer: the application was never asked


@pytest.fixture(scope="module")
def robot(s3_endpoint: str) -> Iterator[Robot]:
    with serve(new_lake(s3_endpoint)) as server:
        yield server.new_robot()


@pytest.fixture(scope="module")
def admin(robot: Robot) -> str:
    """A person's token with every scope."""
    tokens = Tokens(robot.server.bucket)
    scopes = ("read", "publish", "admin")
    return tokens.create("somebody", scopes=scopes, now_ns=robot.server.clock())[1]


@pytest.fixture
def look(robot: Robot) -> Iterator[Onlooker]:
    """Whatever a case sends: nothing is logged as failed, and no key comes to be outside of the robot's own."""
    with watched(robot.server) as onlooker:
        before = onlooker.keys()
        yield onlooker
        onlooker.check(None)
        strange = {key for key in onlooker.keys() - before if not key.startswith(OWN)}
        assert not strange


def answered(look: Onlooker, raw: bytes) -> tuple[int, str]:
    answer = look.send(raw)
    look.check(answer)
    assert answer is not None
    return answer.status, answer.code


def signed(robot: Robot, target: str, body: bytes = BODY, **fields: str) -> bytes:
    """A right request but for its target, or for these fields; a field named Content_Digest is signed."""
    given = {name.replace("_", "-"): value for name, value in fields.items()}
    right = {"Content-Type": wire.MCAP_TYPE, "Content-Digest": digest_of(body)} | given
    token = robot.token(target, right["Content-Digest"])
    return request("POST", target, {"Authorization": f"Bearer {token}"} | right, body)


NAME, NUMBER, QUERY = (400, "bad_name"), (400, "bad_parameter"), (400, "bad_parameter")
NOWHERE = (404, "not_found")
PATHS = {
    "../telemetry": NAME,
    "%2e%2e/telemetry": NAME,
    "x/../g1-001/telemetry": NOWHERE,
    "./g1-001/telemetry": NOWHERE,
    "g1-001%2f..%2fx/telemetry": NOWHERE,
    "g1-001%5c..%5cx/telemetry": NAME,
    "g1-001%00/telemetry": NAME,
    "g1-001%0a/telemetry": NAME,
    "g1-001%20/telemetry": NAME,
    "%ff%fe/telemetry": NAME,
    "%ed%a0%80/telemetry": NAME,
    "%zz/telemetry": NAME,
    "%/telemetry": NAME,
    "g1-00%D0%B0/telemetry": NAME,  # a Cyrillic a
    "%EF%BD%871-001/telemetry": NAME,  # a fullwidth g
    "G1-001/telemetry": NAME,
    "/telemetry": NOWHERE,
    "/g1-001/telemetry": NOWHERE,
    "g1-001//telemetry": NOWHERE,
    "g1-001/telemetry/": NOWHERE,
    "g1-001/Telemetry": NOWHERE,
    "g1-001;x=y/telemetry": NAME,
    "a" * 50_000 + "/telemetry": NAME,
    "a" * 1_000_000 + "/telemetry": UNREADABLE,
    "g1-001\xe9/telemetry": UNREADABLE,
    "g1-001\x00/telemetry": UNREADABLE,
    "g1-001 /telemetry": UNREADABLE,
    "g1-001\t/telemetry": UNREADABLE,
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path[:40]))
def test_a_path_that_is_no_robots_is_refused(look: Onlooker, robot: Robot, path: str) -> None:
    target = f"/v1/robots/{path}?{robot.target().partition('?')[2]}"
    assert answered(look, signed(robot, target)) == PATHS[path]


@pytest.mark.parametrize("robot_path", ["g1%2d001", "g1%2D001", "%671-001"])
def test_an_escaped_path_is_the_same_robots_and_signed_as_it_was_sent(
    look: Onlooker, robot: Robot, robot_path: str
) -> None:
    query = robot.target(seq=900).partition("?")[2]
    escaped = f"/v1/robots/{robot_path}/telemetry?{query}"
    assert answered(look, signed(robot, escaped))[0] in (200, 201)
    right = signed(robot, robot.target(seq=900)).replace(robot.target(seq=900).encode(), escaped.encode())
    assert answered(look, right) == (401, "bad_signature")


NUMBERS = ["+1", "%2B1", "-1", "-0", "1_0", "1.0", "1e1", "%201", "1%20", "007", "0x1", "NaN", "Infinity", "true", ""]
NUMBERS += ["1%00", "%D9%A3", "%C2%B2", "10000000000", "9" * 5000, "null", "[1]", "1,2"]


@pytest.mark.parametrize("text", NUMBERS, ids=lambda text: text[:20])
@pytest.mark.parametrize("name", ["seq", "start_ns", "end_ns"])
def test_a_number_has_one_spelling(look: Onlooker, robot: Robot, name: str, text: str) -> None:
    if name != "seq" and text == "10000000000":
        text = str(2**63)
    assert answered(look, signed(robot, robot.target(**{name: text}))) == NUMBER


STREAMS = [
    "..",
    ".",
    "a%2f..%2fb",
    "a/b",
    "a%0a",
    "%ff",
    "%00",
    "A",
    "",
    "a" * 64,
    "%ED%A0%80",
    "-a",
    "%E2%80%8Ba",
    "%F0%9F%A4%96",
]


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream[:20])
def test_a_stream_that_is_no_name_is_refused(look: Onlooker, robot: Robot, stream: str) -> None:
    assert answered(look, signed(robot, robot.target(stream=stream))) == NAME


RECORDINGS = [
    "..",
    RECORDING.lower(),
    RECORDING[:-1],
    RECORDING + "0",
    "8" + RECORDING[1:],
    RECORDING[:-1] + "U",
    "%30" * 25,
]


@pytest.mark.parametrize("recording", RECORDINGS)
def test_a_recording_that_is_no_ulid_is_refused(look: Onlooker, robot: Robot, recording: str) -> None:
    assert answered(look, signed(robot, robot.target(recording=recording))) == NAME


@pytest.mark.parametrize(
    "more",
    [
        f"&recording={RECORDING}",
        "&seq=1",
        "&seq=0",
        "&x=1",
        "&",
        "&&",
        "&=",
        "&%73eq=1",
        "&SEQ=1",
        "&seq[]=1",
        "?seq=1",
        "&seq",
    ],
)
def test_a_parameter_that_is_not_known_or_comes_twice_is_refused(look: Onlooker, robot: Robot, more: str) -> None:
    assert answered(look, signed(robot, robot.target() + more)) == QUERY


@pytest.mark.parametrize("target", ["http://x/", "http://evil.example/", "https://x:443/", "HTTP://x/"])
def test_of_an_absolute_target_path_and_query_are_what_is_signed(look: Onlooker, robot: Robot, target: str) -> None:
    right = signed(robot, robot.target(seq=901))
    asked = right.replace(b"POST /", f"POST {target}".encode(), 1)
    assert answered(look, asked)[0] in (200, 201)
    absolute = target.rstrip("/") + robot.target(seq=901)
    assert answered(look, signed(robot, absolute)) == (401, "bad_signature")


@pytest.mark.parametrize(
    "target", ["*", "//", "/", "/v1", "/v1/robots/g1-001", "/V1/robots", "/healthz/", "/openapi.json", "/docs"]
)
def test_a_target_that_is_no_route_is_refused(look: Onlooker, target: str) -> None:
    assert answered(look, request("GET", target)) == NOWHERE


FIELDS: dict[str, tuple[dict[str, str], tuple[int, str]]] = {
    "a length of a terabyte": ({"Content-Length": str(10**12)}, (413, "too_large")),
    "a negative length": ({"Content-Length": "-1"}, UNREADABLE),
    "a length with a sign": ({"Content-Length": "+60"}, UNREADABLE),
    "a length of 400 digits": ({"Content-Length": "9" * 400}, UNREADABLE),
    "a length in hex": ({"Content-Length": "0x3c"}, UNREADABLE),
    "two lengths in one field": ({"Content-Length": "60, 60"}, UNREADABLE),
    "an empty length": ({"Content-Length": ""}, UNREADABLE),
    "a length and chunks": ({"Content-Length": "5", "Transfer-Encoding": "chunked"}, UNREADABLE),
    "a coding that is no chunks": ({"Transfer-Encoding": "gzip"}, UNREADABLE),
    "an unknown coding": ({"Content-Encoding": "zstd"}, (415, "unsupported_encoding")),
    "a digest that is none": ({"Content-Digest": "sha-256=::"}, (400, "bad_digest")),
    "a digest in Latin-1": ({"Content-Digest": "sha-256=:\xff:"}, (400, "bad_digest")),
    "a digest of another kind": ({"Content-Digest": "md5=:1B2M2Y8AsgTpgAmY7PhCfg==:"}, (400, "bad_digest")),
    "two digests": ({"Content-Digest": f"{digest_of(b'')}, {digest_of(BODY)}"}, (400, "bad_digest")),
    "another body's digest": ({"Content-Digest": digest_of(b"")}, (400, "digest_mismatch")),
    "a type in Latin-1": ({"Content-Type": "\xff" * 300}, (415, "unsupported_type")),
    "another type": ({"Content-Type": "application/json"}, (415, "unsupported_type")),
    "a clock that is none": ({"Fleetfeed-Robot-Clock": "\xb2"}, (400, "bad_parameter")),
    "a time with a sign": ({"Fleetfeed-Robot-Time-Ns": "+1"}, (400, "bad_parameter")),
    "a superscript time": ({"Fleetfeed-Robot-Time-Ns": "\xb2"}, (400, "bad_parameter")),
    "half of an upload": ({"Upload-Complete": "?0", "Upload-Length": "1e9"}, (400, "bad_parameter")),
    "an offset at the start": ({"Upload-Offset": "0"}, (400, "bad_parameter")),
    "a field with a NUL": ({"X": "a\x00b"}, UNREADABLE),
    "a name with a space": ({"X ": "a"}, UNREADABLE),
    "a folded field": ({"X": "a\r\n b"}, UNREADABLE),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_field_that_is_wrong_is_refused(look: Onlooker, robot: Robot, case: str) -> None:
    fields, expected = FIELDS[case]
    given = {name.replace("-", "_"): value for name, value in fields.items()}
    assert answered(look, signed(robot, robot.target(seq=902), **given)) == expected


@pytest.mark.parametrize("name", ["Authorization", "Content-Digest", "Content-Type", "Host"])
def test_a_field_that_comes_twice_is_refused(look: Onlooker, robot: Robot, name: str) -> None:
    raw = signed(robot, robot.target(seq=902))
    line = next(line for line in raw.split(b"\r\n") if line.startswith(name.encode()))
    assert answered(look, raw.replace(line, line + b"\r\n" + line, 1)) == (400, "bad_parameter")


def test_a_compressed_bomb_is_refused_before_it_is_looked_at(look: Onlooker, robot: Robot) -> None:
    bomb = gzip.compress(bytes(5_000_000))
    asked = signed(robot, robot.target(seq=902), bomb, Content_Encoding="gzip")
    assert answered(look, asked) == (415, "unsupported_encoding")


CHUNKS = {
    "with a trailer": (b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n", (411, "length_required")),
    "none": (b"0\r\n\r\n", (411, "length_required")),
    "of a size of 18 digits": (b"ffffffffffffffffff\r\nabc", None),
    "of no size": (b"zz\r\nabc", None),
}


@pytest.mark.parametrize("case", CHUNKS)
def test_a_body_in_chunks_is_refused(look: Onlooker, robot: Robot, case: str) -> None:
    body, expected = CHUNKS[case]
    raw = signed(robot, robot.target(seq=902), Transfer_Encoding="chunked").removesuffix(BODY) + body
    assert answered(look, raw) in ([expected] if expected else [UNREADABLE, (411, "length_required")])


NOISE = {
    "the hello of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "every byte": bytes(range(256)) * 4,
    "zeros": bytes(1000) + b"\r\n\r\n",
    "an unknown method": b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a proxy's method": b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
    "an unknown version": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: x\n\n",
    "no name of a field": b"GET /healthz HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
}


@pytest.mark.parametrize("case", NOISE)
def test_what_is_no_http_never_reaches_the_application(look: Onlooker, case: str) -> None:
    answer = look.send(NOISE[case])
    look.check(answer)
    assert answer is None or (answer.status, answer.body) == (400, NOT_HTTP)


def test_a_body_that_ends_early_stores_nothing(look: Onlooker, robot: Robot) -> None:
    before = look.keys()
    raw = signed(robot, robot.target(seq=903), Content_Length="1000")
    look.check(look.send(raw, cut=True))
    assert look.keys() == before


def test_http_1_0_is_enough(look: Onlooker, robot: Robot) -> None:
    raw = signed(robot, robot.target(seq=904)).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    assert answered(look, raw)[0] in (200, 201)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH"])
def test_a_method_that_a_route_does_not_take_is_told_those_it_does(look: Onlooker, robot: Robot, method: str) -> None:
    answer = look.send(request(method, f"/v1/robots/{robot.name}/enrol"))
    look.check(answer)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.fields["allow"]) == (405, "POST")
    assert json.loads(answer.body)["detail"] == "this route takes POST"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Forger:
    """Tokens by hand for one request: any header, any claims, signed by the robot's key unless said otherwise."""

    def __init__(self, robot: Robot, target: str) -> None:
        now = robot.server.clock() // 10**9
        self.robot, self.header = robot, {"alg": "EdDSA", "kid": robot.kid, "typ": "JWT"}
        self.claims: dict[str, Any] = {"sub": robot.name, "aud": "fleetfeed-ingest", "iat": now, "exp": now + 60}
        self.claims |= {"htm": "POST", "htu": target, "dig": digest_of(BODY)}

    def of(self, header: bytes | None = None, claims: bytes | None = None, *, signature: bytes | None = None) -> str:
        head = base64url(json.dumps(self.header).encode() if header is None else header)
        text = f"{head}.{base64url(json.dumps(self.claims).encode() if claims is None else claims)}"
        return f"{text}.{base64url(self.robot.key.sign(text.encode()) if signature is None else signature)}"

    def head(self, **changes: Any) -> str:
        return self.of(json.dumps(self.header | changes).encode())

    def says(self, **changes: Any) -> str:
        return self.of(claims=json.dumps(self.claims | changes).encode())

    def spelt(self, name: str, text: str) -> str:
        """With a claim that Python would not write."""
        said = json.dumps({key: value for key, value in self.claims.items() if key != name})
        return self.of(claims=f'{said[:-1]}, "{name}": {text}}}'.encode())

    def by_hmac(self) -> str:
        """Signed with the public key as if it were a shared secret."""
        head = base64url(json.dumps(self.header | {"alg": "HS256"}).encode())
        text = f"{head}.{base64url(json.dumps(self.claims).encode())}"
        secret = self.robot.key.public_key().public_bytes_raw()
        return f"{text}.{base64url(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


BAD, UNKNOWN, SIGNATURE = (401, "bad_token"), (401, "unknown_key"), (401, "bad_signature")
CLOCK, OTHER = (401, "clock"), (403, "wrong_robot")
FORGED: dict[str, tuple[Callable[[Forger], str], tuple[int, str]]] = {
    "alg none": (lambda t: t.of(json.dumps(t.header | {"alg": "none"}).encode(), signature=b""), BAD),
    "alg None": (lambda t: t.of(json.dumps(t.header | {"alg": "NoNe"}).encode(), signature=b""), BAD),
    "alg HS256 with the public key": (Forger.by_hmac, BAD),
    "alg a list": (lambda t: t.head(alg=["EdDSA"]), BAD),
    "alg a number": (lambda t: t.head(alg=1), BAD),
    "alg null": (lambda t: t.head(alg=None), BAD),
    "alg of another key": (lambda t: t.head(alg="ES256"), BAD),
    "kid a path": (lambda t: t.head(kid="../../registry"), UNKNOWN),
    "kid with a slash": (lambda t: t.head(kid=f"{t.robot.kid}/"), UNKNOWN),
    "kid dots": (lambda t: t.head(kid=".."), UNKNOWN),
    "kid a NUL": (lambda t: t.head(kid="a\0"), UNKNOWN),
    "kid empty": (lambda t: t.head(kid=""), UNKNOWN),
    "kid of 5,000": (lambda t: t.head(kid="a" * 5000), UNKNOWN),
    "kid upper case": (lambda t: t.head(kid="A" + t.robot.kid[1:].upper()), UNKNOWN),
    "kid half a pair": (lambda t: t.head(kid="\ud800"), UNKNOWN),
    "kid look-alikes": (lambda t: t.head(kid="\u0430" * 16), UNKNOWN),
    "kid a number": (lambda t: t.head(kid=5), BAD),
    "kid missing": (lambda t: t.of(b'{"alg": "EdDSA"}'), BAD),
    "crit b64": (lambda t: t.head(crit=["b64"], b64=False), BAD),
    "crit unknown": (lambda t: t.head(crit=["x"], x=1), BAD),
    "crit no list": (lambda t: t.head(crit="b64"), BAD),
    "exp a float": (lambda t: t.says(exp=t.claims["exp"] + 0.5), BAD),
    "exp true": (lambda t: t.says(exp=True), BAD),
    "exp text": (lambda t: t.says(exp=str(t.claims["exp"])), BAD),
    "exp null": (lambda t: t.says(exp=None), BAD),
    "exp huge": (lambda t: t.says(exp=10**400), BAD),
    "exp 1e400": (lambda t: t.spelt("exp", "1e400"), BAD),
    "exp NaN": (lambda t: t.spelt("exp", "NaN"), BAD),
    "exp of 20,000 digits": (lambda t: t.spelt("exp", "9" * 20_000), BAD),
    "iat NaN": (lambda t: t.spelt("iat", "NaN"), BAD),
    "iat -Infinity": (lambda t: t.spelt("iat", "-Infinity"), BAD),
    "iat and exp huge": (lambda t: t.says(iat=10**400, exp=10**400 + 1), CLOCK),
    "expired": (lambda t: t.says(iat=t.claims["iat"] - 900, exp=t.claims["exp"] - 900), CLOCK),
    "too long": (lambda t: t.says(exp=t.claims["iat"] + 301), BAD),
    "nbf tomorrow": (lambda t: t.says(nbf=t.claims["iat"] + 86_400), CLOCK),
    "nbf text": (lambda t: t.says(nbf="x"), BAD),
    "nbf Infinity": (lambda t: t.spelt("nbf", "Infinity"), BAD),
    "aud another": (lambda t: t.says(aud="other"), BAD),
    "aud an object": (lambda t: t.says(aud={"fleetfeed-ingest": 1}), BAD),
    "aud nested": (lambda t: t.says(aud=[["fleetfeed-ingest"]]), BAD),
    "sub another": (lambda t: t.says(sub="other"), OTHER),
    "sub a list": (lambda t: t.says(sub=["g1-001"]), OTHER),
    "sub a number": (lambda t: t.says(sub=5), OTHER),
    "sub twice": (lambda t: t.spelt("sub", '"g1-001", "sub": "other"'), OTHER),
    "htm lower case": (lambda t: t.says(htm="post"), SIGNATURE),
    "htu a list": (lambda t: t.says(htu=[t.claims["htu"]]), SIGNATURE),
    "htu without its query": (lambda t: t.says(htu=t.claims["htu"].partition("?")[0]), SIGNATURE),
    "dig null": (lambda t: t.says(dig=None), BAD),
    "dig empty": (lambda t: t.says(dig=""), SIGNATURE),
    "upl of none": (lambda t: t.says(upl=";?0"), SIGNATURE),
    "fld a number": (lambda t: t.says(fld=5), SIGNATURE),
    "claims a list": (lambda t: t.of(claims=b"[]"), BAD),
    "claims 20,000 deep": (lambda t: t.of(claims=b"[" * 20_000), BAD),
    "claims no UTF-8": (lambda t: t.of(claims=b"\xff{}"), BAD),
    "claims empty": (lambda t: t.of(claims=b""), BAD),
    "header a list": (lambda t: t.of(b"[]"), BAD),
    "header 20,000 deep": (lambda t: t.of(b"[" * 20_000), BAD),
    "header no UTF-8": (lambda t: t.of(b"\xff{}"), BAD),
    "no signature": (lambda t: t.of(signature=b""), SIGNATURE),
    "half a signature": (lambda t: t.of(signature=bytes(32)), SIGNATURE),
    "another's signature": (lambda t: t.of(signature=Ed25519PrivateKey.generate().sign(b"x")), SIGNATURE),
    "two tokens": (lambda t: f"{t.of()} {t.of()}", BAD),
    "two tokens with a comma": (lambda t: f"{t.of()}, Bearer {t.of()}", BAD),
    "four parts": (lambda t: f"{t.of()}.x", BAD),
    "dots": (lambda t: "..", BAD),
    "100,000 letters": (lambda t: "a" * 100_000, BAD),
    "beyond ASCII": (lambda t: f"{t.of()}\xe9", BAD),
    "a person's": (lambda t: f"fft_{'0' * 16}_{'a' * 43}", BAD),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_token_that_is_forged_or_odd_is_refused(look: Onlooker, robot: Robot, case: str) -> None:
    make, expected = FORGED[case]
    target, before = robot.target(seq=905), look.keys()
    fields = {"Content-Type": wire.MCAP_TYPE, "Content-Digest": digest_of(BODY)}
    fields["Authorization"] = f"Bearer {make(Forger(robot, target))}"
    assert answered(look, request("POST", target, fields, BODY)) == expected
    assert look.keys() == before


def test_the_token_that_these_are_made_of_is_right(look: Onlooker, robot: Robot) -> None:
    target = robot.target(seq=906)
    fields = {"Content-Type": wire.MCAP_TYPE, "Content-Digest": digest_of(BODY)}
    fields["Authorization"] = f"Bearer {Forger(robot, target).of()}"
    assert answered(look, request("POST", target, fields, BODY)) == (201, "")


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic eDp5", "Bearer\tx", "bearer", "Digest a=b", "\xff"])
def test_what_is_no_bearer_token_is_asked_for_one(look: Onlooker, robot: Robot, value: str) -> None:
    raw = signed(robot, robot.target(seq=905), Authorization=value)
    assert answered(look, raw) == (401, "no_token")


JSON = {
    "nested 4,000 deep": b"[" * 4000,
    "nested objects": b'{"a":' * 700,
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"token": "\xff"}',
    "UTF-16": '{"token": "x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"token": "x"}',
    "NaN": b"NaN",
    "a huge number": b"9" * 4000,
    "an exponent": b"1e999999",
    "half a pair": b'{"token": "\\ud800", "public_key": "\\ud800", "proof": "\\ud800"}',
    "a NUL": b'{"token": "\\u0000", "public_key": "\\u0000", "proof": ""}',
    "wrong kinds": b'{"token": {}, "public_key": [], "proof": 1}',
    "a key of no point": b'{"token": "x", "proof": "x", "public_key": "' + base64.b64encode(b"\xff" * 32) + b'"}',
    "a short key": b'{"token": "x", "proof": "x", "public_key": "AAAA"}',
    "base64 of the web": b'{"token": "x", "proof": "x", "public_key": "' + b"_" * 43 + b'="}',
}


@pytest.mark.parametrize("case", JSON)
def test_a_body_that_is_not_the_object_asked_for_is_refused(
    look: Onlooker, robot: Robot, admin: str, case: str
) -> None:
    body = JSON[case]
    person = {"Authorization": f"Bearer {admin}", "Content-Type": "application/json", "Content-Length": str(len(body))}
    for path, codes in {"enrol": ("bad_enrolment", "bad_signature"), "keys": ("bad_new_key",)}.items():
        raw = signed(robot, f"/v1/robots/{robot.name}/{path}", body, Content_Length=str(len(body)))
        status, code = answered(look, raw)
        assert code in codes, (status, code)
    if body:
        for target in ("/v1/tokens", f"/v1/robots/{robot.name}/invitations", f"/v1/robots/{robot.name}/revoke"):
            status, code = answered(look, request("POST", target, person, body))
            assert (status, code) == (400, "bad_body"), target


WISHES: dict[str, dict[str, Any]] = {
    "a name of half a pair": {"name": "\ud800", "scopes": ["read"]},
    "a name with a line's end": {"name": "a\nb", "scopes": ["read"]},
    "a name of a kilobyte": {"name": "a" * 1000, "scopes": ["read"]},
    "no scopes": {"name": "a", "scopes": []},
    "an unknown scope": {"name": "a", "scopes": ["root"]},
    "a scope twice over": {"name": "a", "scopes": [["read"]]},
    "forever": {"name": "a", "scopes": ["read"], "days": 1e308},
    "never": {"name": "a", "scopes": ["read"], "days": 0},
    "not a number of days": {"name": "a", "scopes": ["read"], "days": float("nan")},
    "endless days": {"name": "a", "scopes": ["read"], "days": float("inf")},
    "days of 400 digits": {"name": "a", "scopes": ["read"], "days": 10**400},
    "true days": {"name": "a", "scopes": ["read"], "days": True},
    "more than asked": {"name": "a", "scopes": ["read"], "secret": "x"},
}


@pytest.mark.parametrize("case", WISHES)
def test_a_token_that_nobody_may_have_is_not_made(look: Onlooker, admin: str, case: str) -> None:
    fields = {"Authorization": f"Bearer {admin}", "Content-Type": "application/json"}
    status, code = answered(look, request("POST", "/v1/tokens", fields, json.dumps(WISHES[case]).encode()))
    assert (status, code) == (400, "bad_body")


GAP = {"first_seq": 907, "last_seq": 908, "start_ns": START_NS, "end_ns": START_NS + 10_000_000_000}
GAP |= {"cause": "lost", "reason": "", "size_bytes": 1, "counts": {}}
GAPS: dict[str, bytes] = {
    "nested 60,000 deep": b"[" * 60_000,
    "half a pair": json.dumps(GAP | {"reason": "\ud800"}).encode(),
    "a topic of half a pair": json.dumps(GAP | {"counts": {"\ud800": 1}}).encode(),
    "a seq in text": json.dumps(GAP | {"first_seq": "907"}).encode(),
    "a seq with a point": json.dumps(GAP | {"first_seq": 907.0}).encode(),
    "a true seq": json.dumps(GAP | {"first_seq": True}).encode(),
    "a last seq of 4,000 digits": json.dumps(GAP | {"last_seq": 10**4000}).encode(),
    "a number that Python does not read": b'{"first_seq": ' + b"9" * 5000 + b"}",
    "a seq that is NaN": json.dumps(GAP | {"first_seq": float("nan")}).encode(),
    "a range backwards": json.dumps(GAP | {"last_seq": 1}).encode(),
    "another range": json.dumps(GAP | {"first_seq": 906}).encode(),
    "another cause": json.dumps(GAP | {"cause": "eaten"}).encode(),
    "no counts": json.dumps(GAP | {"counts": []}).encode(),
    "a first seq twice": json.dumps(GAP)[:-1].encode() + b', "first_seq": 1}',
}


@pytest.mark.parametrize("case", GAPS)
def test_a_gap_record_that_is_none_is_refused(look: Onlooker, robot: Robot, case: str) -> None:
    raw = signed(robot, robot.target(seq=907), GAPS[case], Content_Type=wire.GAP_TYPE)
    assert answered(look, raw) == (400, "bad_gap")


HEADER = MAGIC + b"\x01" + (2**63).to_bytes(8, "little")  # an opcode, and a record of 8 EB
FILES: dict[str, tuple[str, str, bytes, tuple[int, str]]] = {
    "an MCAP file cut off": ("telemetry", wire.MCAP_TYPE, BODY[:-3], (400, "not_a_segment")),
    "only a magic": ("telemetry", wire.MCAP_TYPE, MAGIC, (400, "not_a_segment")),
    "a magic and a half": ("telemetry", wire.MCAP_TYPE, MAGIC + MAGIC[:5], (400, "not_a_segment")),
    "zeros": ("video", wire.MCAP_TYPE, bytes(1000), (400, "not_a_segment")),
    "an MP4 file as MCAP": ("video", wire.MCAP_TYPE, b"\x00\x00\x00\x18ftypisom", (400, "not_a_segment")),
    "an MP4 file cut off": ("video", wire.MP4_TYPE, b"\x00\x00\x00\x18fty", (400, "not_a_segment")),
    "an MP4 file for telemetry": ("telemetry", wire.MP4_TYPE, b"\x00\x00\x00\x18ftyp", (415, "unsupported_type")),
    "absurd lengths between magics": ("telemetry", wire.MCAP_TYPE, HEADER + MAGIC, (201, "")),  # the index finds it
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_plainly_not_whole_is_refused(look: Onlooker, robot: Robot, case: str) -> None:
    kind, content_type, body, expected = FILES[case]
    target = robot.target(kind=kind, seq=910)
    assert answered(look, signed(robot, target, body, Content_Type=content_type)) == expected


KIDS = ["..", "%2e%2e", "%00", "x", "a" * 5000, "A" * 16, "%ff", "0" * 16]


@pytest.mark.parametrize("name", KIDS, ids=lambda name: name[:20])
def test_a_name_in_a_path_that_there_is_not_is_told_so(look: Onlooker, robot: Robot, admin: str, name: str) -> None:
    for method, path, expected in (
        ("DELETE", f"/v1/robots/{robot.name}/keys/{name}", "unknown_key_id"),
        ("HEAD", f"/v1/robots/{robot.name}/uploads/{name}", ""),
        ("DELETE", f"/v1/robots/{robot.name}/uploads/{name}", "upload_unknown"),
    ):
        token = robot.token(path, "", method=method)
        raw = request(method, path, {"Authorization": f"Bearer {token}"})
        assert answered(look, raw) == (404, expected)
    raw = request("DELETE", f"/v1/tokens/{name}", {"Authorization": f"Bearer {admin}"})
    assert answered(look, raw) == (404, "unknown_token_id")


ODD = ["", "..", "%00", "%ff", "-1", "1e400", "NaN", "9" * 5000, "%ED%A0%80", "2026-13-01", "0000-00-00T00:00:00Z"]
ODD += ["9999-12-31T23:59:59.999999999Z", "%27;DROP%20TABLE%20segments", "1%20OR%201=1", "%F0%9F%A4%96", "x" * 5000]
READS = {
    "/v1/robots/g1-001/video?stream={}&start=1&end=2": "stream",
    "/v1/robots/g1-001/video?stream=a&start={}&end=2": "start",
    "/v1/robots/g1-001/telemetry?topic={}&start=1&end=2": "topic",
    "/v1/robots/g1-001/telemetry?topic=/a&start=1&end={}": "end",
    "/v1/videos?where={}": "where",
    "/v1/videos?limit={}": "limit",
    "/v1/videos?cursor={}": "cursor",
    "/v1/videos?robot={}": "robot",
    "/v1/audit?start={}": "start",
    "/v1/audit?cursor={}": "cursor",
    "/v1/tokens?cursor={}": "cursor",
    "/v1/quarantine?limit={}": "limit",
    "/v1/quarantine?cursor={}": "cursor",
    "/v1/registry/robots?cursor={}": "cursor",
}


@pytest.mark.parametrize("target", READS)
def test_an_odd_value_in_a_persons_query_is_answered(look: Onlooker, admin: str, target: str) -> None:
    for value in ODD:
        answer = look.send(request("GET", target.format(value), {"Authorization": f"Bearer {admin}"}))
        look.check(answer)
        assert answer is not None
