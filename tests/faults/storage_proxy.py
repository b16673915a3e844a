"""A bad S3: a proxy on loopback before a real one, which does to each request what it is told.

Requests are passed on byte for byte, so that S3 finds their signatures valid: these cover the `Host` that the client
sent. What is done is drawn for each request alone (`schedule`), by its method, its key and how many came before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import unquote, urlsplit

LIMIT_S = 10.0
MAX_HEAD_BYTES = 1 << 16
END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to S3. `key` is its path without the bucket; `nth`: so many of this method and key came before it."""

    method: str
    key: str
    query: str
    length: int
    nth: int


@dataclass(slots=True)
class Seen:
    """A request, what was done to it (None: it was passed on), and the status that the client was answered."""

    asked: Asked
    fault: Fault | None
    status: int | None = None


class Fault(Protocol):
    """Something that goes wrong with one request."""

    async def play(self, exchange: Exchange) -> None: ...


Schedule = Callable[[Asked], Fault | None]


class StorageProxy:
    """Listens at `url` for S3's clients; `schedule` says what goes wrong, at first nothing. `seen`: all that came."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"target must be a URL with host and port, got {target!r}")
        self._target = parts.hostname, parts.port
        self.schedule: Schedule = lambda _: None
        self.seen: list[Seen] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._healed = asyncio.Event()
        self._address = _reserve()
        host, port = self._address.getsockname()
        self.url = f"http://{host}:{port}"
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="storage-proxy", daemon=True)
        self._thread.start()
        self._await(self._listen())

    def refuse(self) -> None:
        """Reset every connection and refuse new ones, as a server that is down does, until `heal`."""
        self._await(self._refuse())

    def heal(self) -> None:
        """Let nothing go wrong from now on; what hangs is reset."""
        self.schedule = lambda _: None
        self._await(self._heal())

    def close(self) -> None:
        if not self._loop.is_closed():
            self._await(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(LIMIT_S)
            self._loop.close()
            self._address.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the event loop's thread -----------------------------------------------------------------------------------

    def _await(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        if self._server is None:
            listening = _bound(self._address.getsockname())
            listening.listen(512)
            self._server = await asyncio.start_server(self._serve, sock=listening, limit=MAX_HEAD_BYTES)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            reset(writer)
        await asyncio.sleep(0)

    async def _heal(self) -> None:
        await self._listen()
        self._healed.set()
        self._healed = asyncio.Event()

    async def _close(self) -> None:
        await self._refuse()
        left = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        link = _Link(self._target, reader, writer)
        try:
            while (head := await _head(reader)) is not None:
                seen = self._note(head)
                exchange = Exchange(link, head, seen, self._healed)
                await (exchange.pass_on() if seen.fault is None else seen.fault.play(exchange))
                if link.is_over:
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            reset(writer)  # only `close` cancels
        finally:
            self._open.discard(writer)
            await link.close()

    def _note(self, head: bytes) -> Seen:
        method, target = head.split(b" ", 2)[:2]
        path, _, query = target.decode("latin-1").partition("?")
        key = unquote(path).removeprefix("/").partition("/")[2]
        asked = Asked(method.decode("latin-1"), key, query, _length(head) or 0, self._counts[method.decode(), key])
        self._counts[asked.method, key] += 1
        seen = Seen(asked, self.schedule(asked))
        self.seen.append(seen)
        return seen


@dataclass(eq=False)
class _Link:
    """A client's connection, and the one to S3 that belongs to it, opened with the first request."""

    target: tuple[str, int]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    is_over: bool = False

    async def to_storage(self, *parts: bytes) -> asyncio.StreamReader:
        """Send S3 some bytes; returns where its answer comes."""
        if self.upstream is None:
            self.upstream = await asyncio.open_connection(*self.target, limit=MAX_HEAD_BYTES)
        reader, writer = self.upstream
        writer.writelines(parts)
        await writer.drain()
        return reader

    async def close(self) -> None:
        for writer in (self.writer, *(self.upstream or ())[1:]):
            with contextlib.suppress(OSError):
                writer.close()  # type: ignore[union-attr]


class Exchange:
    """One request under way: the steps of which a fault is made."""

    def __init__(self, link: _Link, head: bytes, seen: Seen, healed: asyncio.Event) -> None:
        self.head, self.seen, self.healed = _EXPECTS.sub(b"", head), seen, healed
        self._link = link
        self._waits = _EXPECTS.search(head) is not None

    async def body(self) -> bytes:
        """All of the request's body. A client may wait to be told to send it; S3 is not asked the same again."""
        if self._waits:
            self._link.writer.write(b"HTTP/1.1 100 Continue" + END)
        return await self._link.reader.readexactly(self.seen.asked.length)

    async def send(self, head: bytes, body: bytes) -> None:
        """To S3."""
        await self._link.to_storage(head, body)

    async def answer(self) -> tuple[bytes, bytes]:
        """S3's answer: head and body."""
        reader = await self._link.to_storage()
        return await _answer(reader, has_body=self.seen.asked.method != "HEAD")

    async def reply(self, head: bytes, body: bytes) -> None:
        """To the client."""
        status = head[9:12]
        self.seen.status = int(status) if status.isdigit() else None
        self._link.writer.writelines((head, body))
        await self._link.writer.drain()
        self._link.is_over = b"\r\nconnection: close" in head.lower()

    async def pass_on(self) -> None:
        """The request to S3, and its answer to the client."""
        await self.send(self.head, await self.body())
        await self.reply(*await self.answer())

    async def until_gone(self) -> None:
        """Wait until the proxy is healed, or the client has gone."""
        healed, gone = asyncio.ensure_future(self.healed.wait()), asyncio.ensure_future(self._link.reader.read(1))
        try:
            await asyncio.wait({healed, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            healed.cancel()
            gone.cancel()

    def end(self) -> None:
        """Close the connection behind this answer."""
        self._link.is_over = True

    def reset(self) -> None:
        """Cut the connections to both sides off."""
        self._link.is_over = True
        reset(self._link.writer)
        if self._link.upstream is not None:
            reset(self._link.upstream[1])


# -- what goes wrong -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delay:
    """The request goes on after some time."""

    s: float

    async def play(self, exchange: Exchange) -> None:
        body = await exchange.body()
        await asyncio.sleep(self.s)
        await exchange.send(exchange.head, body)
        await exchange.reply(*await exchange.answer())


@dataclass(frozen=True, slots=True)
class Throttle:
    """The body goes on at a rate."""

    bytes_per_s: float

    async def play(self, exchange: Exchange) -> None:
        body, step = await exchange.body(), max(1, int(self.bytes_per_s / 20))
        await exchange.send(exchange.head, b"")
        for at in range(0, len(body), step):
            await asyncio.sleep(len(body[at : at + step]) / self.bytes_per_s)
            await exchange.send(b"", body[at : at + step])
        await exchange.reply(*await exchange.answer())


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer comes, and S3 never hears of it."""

    async def play(self, exchange: Exchange) -> None:
        await exchange.body()
        await exchange.until_gone()
        exchange.reset()


@dataclass(frozen=True, slots=True)
class Answer:
    """S3's error instead of an answer; nothing is stored."""

    status: int
    code: str

    async def play(self, exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(*self.bytes(exchange.seen.asked))

    def bytes(self, asked: Asked) -> tuple[bytes, bytes]:
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{self.code}</Code></Error>'.encode()
        head = f"HTTP/1.1 {self.status} {self.code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}"
        return head.encode() + END, b"" if asked.method == "HEAD" else body


SLOW_DOWN = Answer(503, "SlowDown")
INTERNAL_ERROR = Answer(500, "InternalError")
CONFLICT = Answer(409, "ConditionalRequestConflict")
PRECONDITION_FAILED = Answer(412, "PreconditionFailed")
FORBIDDEN = Answer(403, "AccessDenied")


@dataclass(frozen=True, slots=True)
class Cut:
    """Both connections are cut when S3 has got this share of the body: 0: none of it; 1: all of it."""

    share: float

    async def play(self, exchange: Exchange) -> None:
        body = await exchange.body()
        await exchange.send(exchange.head, body[: int(len(body) * self.share)])
        exchange.reset()


@dataclass(frozen=True, slots=True)
class CutBefore:
    """The connection is cut before S3 hears anything of the request."""

    async def play(self, exchange: Exchange) -> None:
        exchange.reset()


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """S3 does what it was asked; the client does not learn it."""

    async def play(self, exchange: Exchange) -> None:
        await exchange.send(exchange.head, await exchange.body())
        await exchange.answer()
        exchange.reset()


@dataclass(frozen=True, slots=True)
class SayError:
    """S3 does what it was asked, and answers an error all the same."""

    instead: Answer

    async def play(self, exchange: Exchange) -> None:
        await exchange.send(exchange.head, await exchange.body())
        await exchange.answer()
        await exchange.reply(*self.instead.bytes(exchange.seen.asked))


@dataclass(frozen=True, slots=True)
class Lie:
    """The client is told that it is stored; nothing is. No S3 does that: with it a test shows that it looks."""

    async def play(self, exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 0' + END, b"")


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit of the request changes on its way to S3: `at` counts the head's bytes, then the body's."""

    at: int
    bit: int

    async def play(self, exchange: Exchange) -> None:
        whole = flipped(exchange.head + await exchange.body(), at=self.at, bit=self.bit)
        await exchange.send(whole[: len(exchange.head)], whole[len(exchange.head) :])
        await exchange.reply(*await asyncio.wait_for(exchange.answer(), 0.5))  # S3 may wait for more bytes for ever
        exchange.end()


@dataclass(frozen=True, slots=True)
class FlipAnswer:
    """One bit of S3's answer changes on its way back: `at` counts the head's bytes, then the body's."""

    at: int
    bit: int

    async def play(self, exchange: Exchange) -> None:
        await exchange.send(exchange.head, await exchange.body())
        head, body = await exchange.answer()
        whole = flipped(head + body, at=self.at, bit=self.bit)
        await exchange.reply(whole[: len(head)], whole[len(head) :])
        if self.at < len(head):  # the client may wait for more bytes
            exchange.end()


@dataclass(frozen=True, slots=True)
class Truncate:
    """S3 gets only this share of the body, under a head that says so."""

    share: float

    async def play(self, exchange: Exchange) -> None:
        body = await exchange.body()
        kept = body[: int(len(body) * self.share)]
        await exchange.send(_LENGTH.sub(f"\r\ncontent-length: {len(kept)}".encode(), exchange.head), kept)
        await exchange.reply(*await exchange.answer())


def flipped(data: bytes, *, at: int, bit: int) -> bytes:
    """The same bytes with one bit of byte `at` changed; beyond the end: the last byte's."""
    changed = bytearray(data)
    changed[min(at, len(data) - 1)] ^= 1 << bit
    return bytes(changed)


def shares(seed: int, faults: Mapping[Fault, float], *, only: Callable[[Asked], bool] = lambda _: True) -> Schedule:
    """Each fault befalls about its share of the requests. A request's fate depends on the seed and itself alone."""

    def draw(asked: Asked) -> Fault | None:
        at = random.Random(f"{seed} {asked.method} {asked.key} {asked.query} {asked.nth}").random()
        for fault, share in faults.items() if only(asked) else ():
            if at < share:
                return fault
            at -= share
        return None

    return draw


# -- HTTP ----------------------------------------------------------------------------------------------------------


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    """A request's head; None where the client has gone."""
    try:
        return await reader.readuntil(END)
    except asyncio.IncompleteReadError:
        return None


def _length(head: bytes) -> int | None:
    found = _LENGTH.search(head)
    return int(found[1]) if found else None


async def _answer(reader: asyncio.StreamReader, *, has_body: bool) -> tuple[bytes, bytes]:
    head = await reader.readuntil(END)
    status, length = int(head[9:12]), _length(head)
    if not has_body or status in (204, 304):
        return head, b""
    if _CHUNKED.search(head):
        return head, await _chunks(reader)
    return head, await (reader.read() if length is None else reader.readexactly(length))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body as it comes, without trailers."""
    body = bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return bytes(body)


def reset(writer: asyncio.StreamWriter) -> None:
    """Send RST."""
    if not writer.transport.is_closing():
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


def _reserve() -> socket.socket:
    """A port of loopback that is ours, also while nobody listens there."""
    return _bound(("127.0.0.1", 0))


def _bound(address: tuple[str, int]) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(address)
    return bound
