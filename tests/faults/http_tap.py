"""A tap on HTTP: a proxy on loopback that knows each request, and does something at an exact moment of one of them.

It stands before the replicas (what robots send) or behind them (what replicas ask of S3). Each request goes on over a
connection of its own, so what happens to one is in no other's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

LIMIT_S = 10.0
MAX_HEAD_BYTES = 1 << 16
CHUNK_BYTES = 1 << 16
Phase = Literal["before", "within", "sent", "after"]
PHASES: tuple[Phase, ...] = ("before", "within", "sent", "after")


@dataclass(frozen=True, slots=True)
class Tapped:
    """One request: its path is decoded, `length` is its body's; the ports are those of its two connections' near ends.

    `client_port` is the sender's; `server_port` that of the tap's own connection to the target, 0 before there is one.
    """

    method: str
    path: str
    query: str
    length: int
    client_port: int
    server_port: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path}{'?' * bool(self.query)}{self.query}"


@dataclass
class Strike:
    """What is to happen once: `blow` is called at `phase` of the first request that `matches`, and its answer is lost.

    before: nothing has gone on; within: half the body has; sent: all of it; after: the answer has come, and stays here.
    """

    matches: Callable[[Tapped], bool]
    phase: Phase
    blow: Callable[[Tapped], None]
    struck: threading.Event = field(default_factory=threading.Event)


class HttpTap:
    """Listens at `url` and passes requests on to `target`, another URL's host and port."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"target must be a URL with host and port, got {target!r}")
        self._target = parts.hostname, parts.port
        self.requests: list[Tapped] = []
        self._strikes: list[Strike] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, args=(listening,), name="http-tap", daemon=True)
        self._thread.start()

    def strike(self, matches: Callable[[Tapped], bool], phase: Phase, blow: Callable[[Tapped], None]) -> Strike:
        """Arm it. Several are struck in the order in which their requests come, each once."""
        strike = Strike(matches, phase, blow)
        self._strikes.append(strike)
        return strike

    def disarm(self) -> None:
        """Nothing that is armed will happen any more."""
        self._strikes.clear()

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the event loop's thread -----------------------------------------------------------------------------------

    def _run(self, listening: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=listening, limit=MAX_HEAD_BYTES))
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one request after the other, until a side goes or a blow falls; then the client is reset."""
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
            while await self._pass_one(reader, writer):
                pass
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def _pass_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        request = _request(head, client_port=writer.get_extra_info("peername")[1])
        self.requests.append(request)
        strike = self._due(request)
        if await self._fell(strike, "before", request):
            return False
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        try:
            request = _with_port(request, server_writer)
            server_writer.write(head)
            half = request.length // 2
            await _copy(reader, server_writer, half)
            if await self._fell(strike, "within", request):
                return False
            await _copy(reader, server_writer, request.length - half)
            if await self._fell(strike, "sent", request):
                return False
            answer = await _answer(server_reader, method=request.method)
            if await self._fell(strike, "after", request):
                return False
        finally:
            server_writer.close()
        writer.write(answer)
        await writer.drain()
        return True

    def _due(self, request: Tapped) -> Strike | None:
        """The first strike that is meant for this request; it is armed no longer."""
        for strike in self._strikes:
            if strike.matches(request):
                self._strikes.remove(strike)
                return strike
        return None

    async def _fell(self, strike: Strike | None, phase: Phase, request: Tapped) -> bool:
        if strike is None or strike.phase != phase:
            return False
        await asyncio.to_thread(strike.blow, request)
        strike.struck.set()
        return True


def any_request(_: Tapped) -> bool:
    return True


def nth(number: int, matches: Callable[[Tapped], bool] = any_request) -> Callable[[Tapped], bool]:
    """Only the request of that number, from 0 on, of those that match."""
    seen = 0

    def is_it(request: Tapped) -> bool:
        nonlocal seen
        seen += matches(request)
        return matches(request) and seen == number + 1

    return is_it


def that(method: str, *parts: str) -> Callable[[Tapped], bool]:
    """The requests of this method in whose path and query all these texts are."""
    return lambda request: request.method == method and all(part in f"{request.path}?{request.query}" for part in parts)


def _request(head: bytes, *, client_port: int) -> Tapped:
    line, *fields = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    path, _, query = target.partition("?")
    return Tapped(method, unquote(path), unquote(query), _length(fields) or 0, client_port)


def _with_port(request: Tapped, writer: asyncio.StreamWriter) -> Tapped:
    port = writer.get_extra_info("sockname")[1]
    return Tapped(request.method, request.path, request.query, request.length, request.client_port, port)


def _length(fields: Sequence[str]) -> int | None:
    found = [one.partition(":")[2].strip() for one in fields if one.lower().startswith("content-length:")]
    return int(found[0]) if found else None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
    """Pass on just so many bytes. `EOFError`: the sender went before."""
    while length:
        piece = await reader.read(min(length, CHUNK_BYTES))
        if not piece:
            raise EOFError
        writer.write(piece)
        await writer.drain()
        length -= len(piece)
    await writer.drain()


async def _answer(reader: asyncio.StreamReader, *, method: str) -> bytes:
    """One whole answer, as it came."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    if method == "HEAD" or status.split(" ")[1] in ("204", "304"):
        return head
    if any(one.lower().replace(" ", "") == "transfer-encoding:chunked" for one in fields):
        return head + await _chunked(reader)
    length = _length(fields)
    return head + (await reader.read() if length is None else await reader.readexactly(length))


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        chunk = await reader.readexactly(int(size.partition(b";")[0], 16) + 2)
        body += size + chunk
        if chunk == b"\r\n":
            return body
