"""The TLS front over a server that remembers what reached it: what comes through, what does not, and what is said."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from ray.serve._private import constants as serve_constants
from ray.serve._private.constants import SERVE_MULTIPLEXED_MODEL_ID

from edge.wire import PROBLEM_TYPE, SERVER_TIME_HEADER
from fleetfeed import tls
from fleetfeed.processes import wait_until
from tests.fleetfeed.fronted import Front, heard
from tests.fleetfeed.witness import witness
from tests.front import running_front

ROOT = Path(__file__).parents[2]
HEADERS_S = 1
OF_SERVE = {
    *(value for name, value in vars(serve_constants).items() if "HTTP" in name and name.endswith("_HEADER")),
    serve_constants.SERVE_SESSION_ID,
    f"{serve_constants.SERVE_INGRESS_ROUTER_HEADER_PREFIX}target",
    SERVE_MULTIPLEXED_MODEL_ID,
    SERVE_MULTIPLEXED_MODEL_ID.replace("_", "-"),
    "traceparent",
    "tracestate",
}
OF_PROXIES = {
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix",
    "x-forwarded-proto", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "x-original-url",
    "x-original-host", "x-rewrite-url", "x-http-method-override", "x_forwarded_for", "x_real_ip",
}  # fmt: skip
HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("front")
    with witness() as behind, running_front(behind.port, folder, headers_s=HEADERS_S, idle_s=2) as (url, ca_file):
        yield Front(url, ca_file, behind)


@pytest.fixture
def front(shared: Front) -> Front:
    """The shared one; what was behind it has seen nothing yet."""
    shared.behind.seen.clear()
    shared.behind.came.clear()
    return shared


def problem(response: requests.Response) -> tuple[int, str]:
    """Status and code; fails where the answer is none of the front's, with all that belongs to one."""
    assert response.headers["Content-Type"] == PROBLEM_TYPE
    assert response.headers["Strict-Transport-Security"].startswith("max-age=")
    assert SERVER_TIME_HEADER in response.headers
    told = response.json()
    assert told["status"] == response.status_code
    return response.status_code, told["code"]


# -- what comes through ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OF_SERVE | OF_PROXIES | HOP_BY_HOP))
def test_a_header_that_a_proxy_or_serve_would_obey_does_not_come_from_outside(front: Front, name: str) -> None:
    words = f"GET /v1 HTTP/1.1\r\nHost: x\r\n{name}: from-outside\r\n{name.title()}: from-outside\r\n\r\n"
    assert b" 200 " in front.say(words.encode())
    assert b"from-outside" not in front.behind.seen[0].head


def test_what_serve_says_of_itself_is_asked_for_by_these_headers() -> None:
    assert {"x-request-timeout-seconds", "x-request-disconnect-disabled", "x-request-id", "x-session-id"} <= OF_SERVE


def test_the_front_says_itself_where_a_request_came_from(front: Front) -> None:
    response = front.request(
        "GET", "/v1?a=b%20c", headers={"Authorization": "Bearer kept", "X-Forwarded-For": "1.2.3.4"}
    )
    seen = front.behind.seen[0]
    assert seen.target == "/v1?a=b%20c"
    assert seen.values("authorization") == ["Bearer kept"]
    assert seen.values("x-forwarded-for") == ["127.0.0.1"]
    assert seen.values("x-forwarded-proto") == ["https"]
    assert seen.values("forwarded") == ["proto=https;for=127.0.0.1"]
    assert seen.values("x-request-id") == [response.headers["X-Request-Id"]]
    assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "Server" not in response.headers


def test_a_body_comes_through_as_it_is(front: Front) -> None:
    body = bytes(range(256)) * 8192
    assert front.request("POST", "/v1", data=body).status_code == 200
    assert front.behind.seen[0].body == body


def test_no_connection_to_the_server_is_used_twice(front: Front) -> None:
    """One that it is just closing would lose a request, which may not be sent again."""
    before = front.behind.connections
    assert front.say(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n").count(b" 200 ") == 3
    assert front.behind.targets == ["/1", "/2", "/after"]
    assert front.behind.connections == before + 3


@pytest.mark.parametrize(
    "target",
    ["/-/healthz", "/-/routes", "/%2d/healthz", "/-%2Froutes", "//-/routes", "/%2f-/routes", "/v1/../-/x", "/-"],
)
def test_what_serve_answers_about_itself_is_not_reached(front: Front, target: str) -> None:
    answer = front.say(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b" 404 " in answer.split(b"\r\n")[0]
    assert b'"code": "not_found"' in answer
    assert front.behind.targets == ["/after"]


# -- two servers that could read one request in two ways -------------------------------------------------------------

EVIL = b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1 HTTP/1.1\r\nHost: x\r\n"
AMBIGUOUS = {
    "both lengths": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL,
    "both lengths, the other way round": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"
    + EVIL,
    "chunked": POST + b"Transfer-Encoding: chunked\r\n\r\n1e\r\n" + EVIL + b"\r\n0\r\n\r\n",
    "a coding that is none": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + EVIL,
    "a space before the colon": POST + b"Content-Length : 31\r\n\r\n" + EVIL,
    "a tab in the coding's name": POST + b"Transfer-Encoding:\x0bchunked\r\nContent-Length: 31\r\n\r\n" + EVIL,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 31\r\n\r\n" + EVIL,
    "a list of lengths": POST + b"Content-Length: 0, 31\r\n\r\n" + EVIL,
    "a signed length": POST + b"Content-Length: +31\r\n\r\n" + EVIL,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + EVIL,
    "a length in hex": POST + b"Content-Length: 0x1f\r\n\r\n" + EVIL,
    "an empty length": POST + b"Content-Length: \r\n\r\n" + EVIL,
    "a length beyond 64 bits": POST + b"Content-Length: 18446744073709551647\r\n\r\n" + EVIL,
    "two hosts": b"GET /v1 HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + EVIL,
    "no host": b"GET /v1 HTTP/1.1\r\n\r\n" + EVIL,
    "a bare CR": POST + b"X-A: a\rContent-Length: 31\r\n\r\n" + EVIL,
    "a NUL": POST + b"X-A: a\x00b\r\n\r\n" + EVIL,
    "a line without a colon": POST + b"nothing\r\n\r\n" + EVIL,
    "a fold before the first field": b"GET /v1 HTTP/1.1\r\n Host: x\r\n\r\n" + EVIL,
    "a space in the target": b"GET /v1 /v2 HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL,
    "another server's target": b"GET http://y/v1 HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL,
    "an encoded first slash": b"GET %2F-/routes HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL,
    "HTTP/0.9": b"GET /v1\r\n" + EVIL,
    "HTTP/2 without saying so": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EVIL,
    "another version": b"GET /v1 HTTP/3.7\r\nHost: x\r\n\r\n" + EVIL,
    "a target of a megabyte": b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL,
    "a header of 16 KiB": b"GET /v1 HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * (16 << 10) + b"\r\n\r\n" + EVIL,
    "eighty headers": b"GET /v1 HTTP/1.1\r\nHost: x\r\n" + b"X-A: a\r\n" * 80 + b"\r\n" + EVIL,
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_connection(front: Front, name: str) -> None:
    answer = front.say(AMBIGUOUS[name])
    assert re.match(rb"HTTP/1\.1 4(00|11) ", answer), answer[:100]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert front.request("GET", "/fence").status_code == 200
    assert front.behind.targets == ["/fence"]


@pytest.mark.parametrize(
    ("words", "head"),
    [
        (b"GET /v1 HTTP/1.1\nHost: x\nX-A: 1\n\n", b"x-a: 1\r\n"),
        (b"GET /v1 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n Content-Length: 5\r\n\r\n", b"x-a: 1   Content-Length: 5\r\n"),
        (b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 4\r\n\r\nbody", b"content-length: 4\r\n"),
        (
            b"POST /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
            b"content-length: 4\r\n",
        ),
    ],
    ids=["bare LF", "a folded line", "a folded length", "one length twice"],
)
def test_what_can_be_read_in_one_way_only_is_handed_on_in_that_way(front: Front, words: bytes, head: bytes) -> None:
    assert front.say(words).count(b"HTTP/1.1 200 ") == 2
    assert front.behind.targets == ["/v1", "/after"]
    seen = front.behind.seen[0].head
    assert seen.count(head) == 1
    assert re.search(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]", seen) is None


@pytest.mark.parametrize(
    "field",
    ["Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk", "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
)
def test_no_upgrade_makes_a_tunnel(front: Front, field: str) -> None:
    words = f"GET /v1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{field}\r\n\r\n"
    assert b"HTTP/1.1 200 " in front.say(words.encode())
    assert not {"upgrade", "http2-settings"} & front.behind.seen[0].names


@pytest.mark.parametrize("method", ["TRACE", "PUT", "PROPFIND"])
def test_a_method_that_no_route_takes_is_refused(front: Front, method: str) -> None:
    assert problem(front.request(method, "/v1")) == (405, "method_not_allowed")
    assert front.behind.targets == []


def test_nobody_gets_a_tunnel_to_another_server(front: Front) -> None:
    answer = front.say(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n")
    assert b" 405 " in answer.split(b"\r\n")[0]
    assert front.behind.targets == ["/after"]


# -- TLS -------------------------------------------------------------------------------------------------------------


def client_of(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_a_version_of_tls_that_is_broken_is_refused(front: Front, version: ssl.TLSVersion) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol version"):
        front.connect(client_of(version))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_version_of_tls_that_is_not_is_taken(front: Front, version: ssl.TLSVersion) -> None:
    with front.connect(client_of(version)) as connection:
        assert connection.version() == version.name.replace("_", ".")
        cipher = connection.cipher()
        assert cipher is not None
        assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-CCM8"])
def test_a_cipher_that_is_weak_is_refused(front: Front, cipher: str) -> None:
    context = client_of(ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake failure"):
        front.connect(context)


def test_plain_http_on_the_tls_port_gets_no_answer(front: Front) -> None:
    with socket.create_connection(front.address, timeout=20) as connection:
        connection.sendall(b"GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/" not in heard(connection)
    assert front.behind.targets == []


# -- what the front says by itself -----------------------------------------------------------------------------------


def written_codes() -> set[tuple[int, str]]:
    """The front's codes, as docs/PROTOCOL.md has them."""
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", (ROOT / "docs" / "PROTOCOL.md").read_text(), re.MULTILINE)
    return {(int(status), code) for status, code in rows}


def test_every_page_of_the_front_is_a_problem_with_a_code_that_is_documented() -> None:
    pages = sorted((tls.find_config().parent / "errors").glob("*.http"))
    codes = set()
    for page in pages:
        head, _, body = page.read_bytes().partition(b"\r\n\r\n")
        told = json.loads(body)
        assert head.startswith(f"HTTP/1.1 {told['status']} {told['title']}\r\n".encode())
        assert f"Content-Length: {len(body)}\r\n".encode() in head
        assert f"Content-Type: {PROBLEM_TYPE}\r\n".encode() in head
        assert (b"Retry-After: " in head) == (told["status"] in (429, 503))
        assert page.stem == str(told["status"])
        codes.add((told["status"], told["code"]))
    in_configuration = re.findall(r'"status":(\d+),"code":"(\w+)"', tls.find_config().read_text())
    assert codes | {(int(status), code) for status, code in in_configuration} == written_codes()
    named = re.findall(r"errorfile (\d+) ", tls.find_config().read_text())
    assert named == [page.stem for page in pages]


def test_a_body_that_is_too_large_is_refused_before_it_comes(front: Front) -> None:
    answer = front.say(POST + b"Content-Length: 67108865\r\n\r\n")
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b'"code": "too_large"' in answer


@pytest.mark.parametrize(
    ("target", "refusal"),
    [
        ("/drop", (502, "no_answer")),
        ("/status/500", (500, "internal_error")),
        ("/status/502", (502, "no_answer")),
        ("/status/503", (503, "unavailable")),
        ("/status/504", (504, "late_answer")),
    ],
)
def test_a_page_of_the_server_or_none_at_all_becomes_a_problem(
    front: Front, target: str, refusal: tuple[int, str]
) -> None:
    response = front.request("POST", target, data=b"body")
    assert problem(response) == refusal
    assert ("Retry-After" in response.headers) == (refusal[0] == 503)
    assert front.behind.targets == [target], "a request may have been done although its answer is lost: never twice"


def test_a_server_that_is_not_there_is_told_with_when_to_come_again(tmp_path: Path) -> None:
    with witness() as gone:
        pass
    with running_front(gone.port, tmp_path) as (url, ca_file):
        response = Front(url, ca_file, gone).request("POST", "/v1", data=b"body")
    assert problem(response) == (503, "unavailable")
    assert int(response.headers["Retry-After"]) > 0


def test_an_answer_that_does_not_come_is_told(tmp_path: Path) -> None:
    with witness() as behind, running_front(behind.port, tmp_path, answer_s=1) as (url, ca_file):
        assert problem(Front(url, ca_file, behind).request("POST", "/silent", data=b"body")) == (504, "late_answer")


@pytest.mark.parametrize("target", ["/early", "/-/routes"])
def test_a_robot_hears_an_answer_that_comes_before_its_body_was_sent(front: Front, target: str) -> None:
    for _ in range(5):
        response = front.request("POST", target, data=bytes(8 << 20))
        assert response.status_code == (401 if target == "/early" else 404)


def test_the_log_has_no_token_and_no_query(tmp_path: Path) -> None:
    with witness() as behind, running_front(behind.port, tmp_path) as (url, ca_file):
        Front(url, ca_file, behind).request("GET", "/v1/logged?q=secret", headers={"Authorization": "Bearer secret"})
        log = tmp_path / "front.log"
        assert wait_until(lambda: '"/v1/logged" 200' in log.read_text(), limit_s=10)
        assert "secret" not in log.read_text()
