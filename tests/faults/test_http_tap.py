"""The tap strikes at the phase that it is told, and passes everything else on as it came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tests.faults.http_tap import PHASES, HttpTap, Phase, Tapped, nth, that
from tests.ingest_serve.conftest import wait_until

BODY = bytes(range(256)) * 1024
LIMIT_S = 10.0


class Target:
    """Answers every request with the body that it got, once `gate` is open, and counts the bytes that came."""

    def __init__(self) -> None:
        self.arrived, self.answered, self.gate = 0, 0, threading.Event()
        self.gate.set()
        target = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                body, length = b"", int(self.headers["Content-Length"])
                while len(body) < length and (chunk := self.rfile.read1(length - len(body))):
                    body += chunk
                    target.arrived += len(chunk)
                if len(body) < length:
                    self.close_connection = True
                    return
                target.gate.wait(LIMIT_S)
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                target.answered += 1
                self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.close()


@pytest.fixture
def tap(target: Target) -> Iterator[HttpTap]:
    with HttpTap(target.url) as tap:
        yield tap


def test_requests_pass_as_they_are(tap: HttpTap) -> None:
    with requests.Session() as session:
        for n in range(3):
            assert session.put(f"{tap.url}/a%20b/{n}?c=d%2Fe", data=BODY, timeout=LIMIT_S).content == BODY
    assert [str(one) for one in tap.requests] == [f"PUT /a b/{n}?c=d/e" for n in range(3)]
    assert {one.length for one in tap.requests} == {len(BODY)}


@pytest.mark.parametrize("phase", PHASES)
def test_a_blow_falls_at_its_phase_and_the_answer_is_lost(tap: HttpTap, target: Target, phase: Phase) -> None:
    arrived = {"before": 0, "within": len(BODY) // 2, "sent": len(BODY), "after": len(BODY)}[phase]
    seen: list[Tapped] = []

    def blow(request: Tapped) -> None:
        wait_until(lambda: target.arrived == arrived, limit_s=LIMIT_S)
        assert target.answered == (phase == "after")
        seen.append(request)

    if phase == "sent":
        target.gate.clear()  # else the answer may be there before anybody looks
    strike = tap.strike(that("PUT", "/x"), phase, blow)
    with pytest.raises(requests.ConnectionError):
        requests.put(f"{tap.url}/x", data=BODY, timeout=LIMIT_S)
    assert strike.struck.wait(LIMIT_S)
    target.gate.set()
    assert len(seen) == 1
    assert requests.put(f"{tap.url}/x", data=BODY, timeout=LIMIT_S).content == BODY, "it strikes once"


def test_only_the_request_that_is_meant_is_struck(tap: HttpTap) -> None:
    strike = tap.strike(nth(1, that("PUT", "/y")), "before", lambda _: None)
    for path in ("/y", "/x", "/x"):
        assert requests.put(tap.url + path, data=BODY, timeout=LIMIT_S).status_code == 200
    with pytest.raises(requests.ConnectionError):
        requests.put(f"{tap.url}/y", data=BODY, timeout=LIMIT_S)
    assert strike.struck.wait(LIMIT_S)
