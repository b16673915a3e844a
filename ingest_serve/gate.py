"""What every request must satisfy before a handler sees it, and how a connection ends whose body nobody has read."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest_serve.errors import Refused
from ingest_serve.problems import problem_response

LINGER_BYTES = 4 << 20
LINGER_S = 2.0
LINGER_AT_ONCE = 64  # a server that still reads holds up to 320 KiB for each
ANSWER_S = 30.0
_ONCE = frozenset(
    (
        b"authorization",
        b"content-digest",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"fleetfeed-robot-clock",
        b"fleetfeed-robot-time-ns",
        b"host",
        b"repr-digest",
        b"transfer-encoding",
        b"upload-complete",
        b"upload-length",
        b"upload-offset",
    )
)

Headers = Iterable[tuple[bytes, bytes]]


class Gate:
    """Refuses requests whose fields are ambiguous or encoded, and ends within bounds those that were answered early."""

    def __init__(self, app: ASGIApp, *, retry_after_s: int) -> None:
        self._app = app
        self._retry_after_s = retry_after_s
        self._lingering = asyncio.Semaphore(LINGER_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = _Exchange(scope["headers"], receive, send, lingering=self._lingering)
        try:
            check_fields(scope["headers"])
        except Refused as refused:
            answer = problem_response(refused, retry_after_s=self._retry_after_s)
            return await answer(scope, exchange.receive, exchange.send)
        return await self._app(scope, exchange.receive, exchange.send)


def check_fields(headers: Headers) -> None:
    """`Refused` for a field that came twice, of which a proxy might take the other one, and for an encoded body."""
    found = [name for name, _ in headers if name in _ONCE]
    if len(set(found)) != len(found):
        name = Counter(found).most_common(1)[0][0].decode()
        raise Refused("bad_parameter", f"{name}: must not be sent twice", parameter=name)
    if b"content-encoding" in found:
        coding = dict(headers)[b"content-encoding"].decode("latin-1").strip().lower()
        if coding != "identity":
            raise Refused("unsupported_encoding", f"a body comes as it is, not encoded as {coding[:80]!r}")


class _Exchange:
    """One request's `receive` and `send`.

    A client that is answered while it still sends is heard out for a while, so that it sees the answer and no reset;
    then the connection is closed. A client that does not read its answer is given up.
    """

    def __init__(self, headers: Headers, receive: Receive, send: Send, *, lingering: asyncio.Semaphore) -> None:
        fields = dict(headers)
        self._receive, self._send, self._lingering = receive, send, lingering
        self._unread = fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields
        self._waits_for_continue = fields.get(b"expect", b"").lower() == b"100-continue"

    async def receive(self) -> Message:
        self._waits_for_continue = False
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._unread:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            return await self._send(message)
        if message.get("more_body", False):
            async with asyncio.timeout(ANSWER_S):
                return await self._send(message)
        if self._unread and not self._waits_for_continue and not self._lingering.locked():
            await self._send({**message, "more_body": True})
            async with self._lingering:
                await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        return await self._send(message)

    async def _linger(self) -> None:
        heard = 0
        try:
            async with asyncio.timeout(LINGER_S):
                while self._unread and heard < LINGER_BYTES:
                    heard += len((await self.receive()).get("body", b""))
        except TimeoutError:
            return
