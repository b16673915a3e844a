"""The least that a client can be: it sends requests that are ready over kept connections, and times every answer.

Run as a process of its own: `python -m benchmarks.ready_client ADDRESS CONNECTIONS STATUS`. Its input is one line of
JSON, {"bodies": [path, …], "requests": [[head, index of its body], …]}, where a head is all that goes before the
body, byte for byte. It prints `ready` once everything is in memory and connected, and begins at the next line; its last
line says what it saw (`Seen`). Any other status than STATUS ends it with an error. What it costs depends on the bodies
alone, whatever answers.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

READY = "ready"
RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Seen:
    """How long all of it took, how long each request did, and what this process spent on it."""

    whole_s: float
    latencies_s: list[float]
    cpu_s: float

    @classmethod
    def parse(cls, line: str) -> Seen:
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests as they go on the wire."""

    bodies: list[bytes]
    requests: list[tuple[bytes, int]]

    @classmethod
    def parse(cls, line: str) -> Batch:
        told = json.loads(line)
        bodies = [Path(path).read_bytes() for path in told["bodies"]]
        return cls(bodies, [(head.encode("latin-1"), index) for head, index in told["requests"]])


def send_all(batch: Batch, *, connections: list[socket.socket], status: int) -> Seen:
    """Send every request once, each over the connection that is free first. `RuntimeError`: another answer came."""
    left, latencies_s, errors = deque(batch.requests), list[float](), list[Exception]()

    def work(connection: socket.socket) -> None:
        while left and not errors:
            try:
                head, index = left.popleft()
            except IndexError:  # another one took the last
                return
            sent_s = time.perf_counter()
            try:
                _exchange(connection, head, batch.bodies[index], status)
            except (OSError, RuntimeError) as error:
                errors.append(error)
            latencies_s.append(time.perf_counter() - sent_s)

    began_s, cpu_before_s = time.perf_counter(), _cpu_s()
    threads = [threading.Thread(target=work, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole_s = time.perf_counter() - began_s
    if errors:
        raise errors[0]
    return Seen(whole_s, latencies_s, _cpu_s() - cpu_before_s)


def connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _exchange(connection: socket.socket, head: bytes, body: bytes, status: int) -> None:
    """One request and its whole answer."""
    sent = connection.sendmsg([head, body])
    if sent < len(head) + len(body):
        connection.sendall(memoryview(body)[sent - len(head) :] if sent >= len(head) else head[sent:] + body)
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        answer += _receive(connection)
    fields, _, rest = bytes(answer).partition(b"\r\n\r\n")
    left = _content_length(fields) - len(rest)
    while left > 0:
        left -= len(more := _receive(connection))
        rest += more
    if int(fields[9:12]) != status:
        raise RuntimeError(f"{head[:200]!r}: {fields[:200]!r} {rest[:300]!r}")


def _receive(connection: socket.socket) -> bytes:
    received = connection.recv(RECEIVE_BYTES)
    if not received:
        raise ConnectionError("the server closed the connection")
    return received


def _content_length(fields: bytes) -> int:
    for line in fields.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError(f"an answer without Content-Length: {fields[:300]!r}")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    address, connections, status = sys.argv[1:]
    batch = Batch.parse(sys.stdin.readline())
    kept = [connect(address) for _ in range(int(connections))]
    print(READY, flush=True)
    sys.stdin.readline()
    print(json.dumps(asdict(send_all(batch, connections=kept, status=int(status)))), flush=True)


if __name__ == "__main__":
    main()
