"""One kept HTTP/1.1 connection of an event loop: a request that is ready goes out, its answer is read whole.

What is sent is not copied (by uvloop): it goes from the memory where it is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import httptools

MAX_ANSWER_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, and the body as far as `MAX_ANSWER_BYTES`."""

    status: int
    body: bytes


class KeptConnection(asyncio.Protocol):
    """For one request at a time. Any error but an answer ends it."""

    def __init__(self) -> None:
        self.is_fresh = True  # nothing was sent over it before
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, host: str, port: int, *, tls: ssl.SSLContext | None) -> KeptConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, host, port, ssl=tls)
        return connection

    async def exchange(self, request: Sequence[bytes | bytearray]) -> Answer:
        """Send a request, given in parts. `ConnectionError` where no whole answer came.

        Whoever gives up waiting must close the connection.
        """
        if self.is_closing:
            raise ConnectionResetError("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.writelines(request)
        try:
            return await self._answer
        finally:
            self.is_fresh, self._answer = False, None

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        """At once, whatever is still under way."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"no HTTP came back: {error}"))
            self.close()

    def on_body(self, body: bytes) -> None:
        self._body += body[: MAX_ANSWER_BYTES - len(self._body)]

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        answer, self._body = Answer(status, bytes(self._body)), bytearray()
        if status < 200:  # an interim one
            return
        if not self._parser.should_keep_alive():
            self._transport.close()
        if self._answer is None:
            self.close()  # nobody asked
        elif not self._answer.done():
            self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ConnectionResetError(f"the connection was lost: {error or 'closed by the other side'}"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
