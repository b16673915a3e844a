"""Clients over raw sockets that keep to no rule: they push, they trickle, they say nothing, they do not read.

Each is a coroutine that ends when the other side closes, or when its time is up; `all_at_once` runs many.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

CHUNK = bytes(1 << 16)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens; with `tls` it is asked for by TLS."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


@dataclass(slots=True)
class Met:
    """What became of one client: how long it was borne once it was connected, what it sent, what it was answered."""

    closed: bool = False
    seconds: float = 0.0
    sent: int = 0
    answer: bytes = b""
    began: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> int:
        """0 where there was no answer."""
        return int(self.answer.split()[1]) if self.answer.startswith(b"HTTP/") else 0


def head(method: str, target: str, fields: dict[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def pushing(address: Address, opening: bytes, *, chunk: bytes = CHUNK, limit_s: float, bytes_max: int) -> Met:
    """Sends `opening`, and then `chunk` again and again, as fast as it is taken."""

    async def push(writer: asyncio.StreamWriter, met: Met) -> None:
        while met.sent < bytes_max:
            writer.write(chunk)
            met.sent += len(chunk)
            await writer.drain()
        await asyncio.Event().wait()

    return await _meeting(address, opening, push, limit_s=limit_s)


async def trickling(address: Address, opening: bytes, *, drop: bytes, every_s: float, limit_s: float) -> Met:
    """Sends `opening`, and then `drop` every so often: no time limit that begins anew with each byte ends it."""

    async def trickle(writer: asyncio.StreamWriter, met: Met) -> None:
        while True:
            await asyncio.sleep(every_s)
            writer.write(drop)
            met.sent += len(drop)
            await writer.drain()

    return await _meeting(address, opening, trickle, limit_s=limit_s)


async def silent(address: Address, *, limit_s: float) -> Met:
    """Connects and says nothing."""
    return await trickling(address, b"", drop=b"", every_s=limit_s, limit_s=limit_s)


def all_at_once(clients: Sequence[Coroutine[Any, Any, Met]]) -> list[Met]:
    """What each of them met, in order."""

    async def meet() -> list[Met]:
        return await asyncio.gather(*clients)

    return asyncio.run(meet())


async def _meeting(address: Address, opening: bytes, send: Any, *, limit_s: float) -> Met:
    met = Met()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(limit_s):
            await _meet(address, opening, send, met)
    met.seconds = time.monotonic() - met.began
    return met


async def _meet(address: Address, opening: bytes, send: Any, met: Met) -> None:
    """Until the other side closes: that is seen by reading, whatever is being sent."""
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=address.tls)
    met.began = time.monotonic()
    writer.write(opening)
    sending = asyncio.create_task(send(writer, met))
    try:
        while part := await reader.read(1 << 16):
            met.answer = (met.answer + part)[: 1 << 16]
        met.closed = True
    except OSError:
        met.closed = True
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await sending
        writer.transport.abort()
