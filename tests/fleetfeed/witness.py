"""An HTTP server that remembers every byte of what reached it."""

from __future__ import annotations

import re
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

SOON_S = 5.0


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    head: bytes
    body: bytes

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    def values(self, name: str) -> list[str]:
        """Of every field of this name, the value."""
        found = re.findall(rf"(?mi)^{re.escape(name)}:[ \t]*(.*?)\r$".encode(), self.head)
        return [value.decode() for value in found]

    @property
    def names(self) -> set[str]:
        return {line.split(b":")[0].decode().lower() for line in self.head.split(b"\r\n")[1:] if line}


class Witness:
    """Answers by the target: `/status/503` with that status and plain text, `/silent` never, `/drop` by hanging up,
    `/early` with 401 before it has read the body; anything else with 200 once the body is there."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen: list[Seen] = []
        self.connections = 0
        self.came = threading.Event()
        self.goes = threading.Event()

    @property
    def targets(self) -> list[str]:
        return [one.target for one in self.seen]


class _Handler(socketserver.StreamRequestHandler):
    def __init__(self, witness: Witness, *arguments: object) -> None:
        self.witness = witness
        super().__init__(*arguments)  # type: ignore[arg-type]

    def handle(self) -> None:
        self.witness.connections += 1
        try:
            while head := self._head():
                self._exchange(head)
        except OSError:
            return

    def _head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return b""
            head += line
        return head

    def _exchange(self, head: bytes) -> None:
        said = Seen(head, b"")
        self.witness.came.set()
        if said.target == "/early":
            return self._early(said)
        length = int((said.values("content-length") or ["0"])[0])
        self.witness.seen.append(Seen(head, self.rfile.read(length)))
        if said.target == "/drop":
            raise ConnectionError
        if said.target == "/silent":
            self.witness.goes.wait(SOON_S)
        status = said.target.removeprefix("/status/") if said.target.startswith("/status/") else "200"
        told = f"HTTP/1.1 {status} x\r\nServer: witness\r\nContent-Type: text/plain\r\n"
        self.wfile.write(f"{told}Content-Length: 4\r\n\r\nseen".encode())
        return None

    def _early(self, said: Seen) -> None:
        """As uvicorn does: the answer, and the connection stays until the client, or a proxy, has had enough."""
        self.witness.seen.append(said)
        self.wfile.write(b"HTTP/1.1 401 x\r\nContent-Type: application/problem+json\r\nContent-Length: 2\r\n\r\n{}")
        deadline = time.monotonic() + SOON_S
        while self.rfile.read1(65536) and time.monotonic() < deadline:  # type: ignore[attr-defined]
            pass


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


@contextmanager
def witness() -> Iterator[Witness]:
    """A witness on a free port of loopback."""
    one = Witness(0)
    with _Server(("127.0.0.1", 0), partial(_Handler, one)) as server:
        one.port = int(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield one
        finally:
            one.goes.set()
            server.shutdown()
            thread.join()
