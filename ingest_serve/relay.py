"""Answering a request in another process: an ASGI application becomes a stream of its messages, and back.

One message at a time is under way, so an application makes no more than its client takes. A client that goes ends the
stream, and with it the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest_serve.errors import IngestError, Refused

log = logging.getLogger(__name__)

Messages = AsyncGenerator[Message, None]


async def messages(app: ASGIApp, scope: dict[str, Any]) -> Messages:
    """What the application sends for a request without a body, one after the other; closing it ends the application."""
    waiting: asyncio.Queue[Message] = asyncio.Queue(1)
    answering = asyncio.create_task(_answer(app, scope, waiting))
    try:
        while (message := await _next(waiting, answering)) is not None:
            yield message
        await answering
    finally:
        await _ended(answering)


class Relay:
    """The ASGI application whose answers are streams of messages from elsewhere; `Refused("busy")` if none begins."""

    def __init__(self, ask: Callable[[dict[str, Any]], Messages]) -> None:
        self._ask = ask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = complete = False
        async with contextlib.aclosing(self._ask(dict(scope))) as answer:
            try:
                async for message in answer:
                    begun, complete = True, _is_last(message)
                    await send(message)
            except Exception as error:
                if begun:
                    raise
                log.warning("no answer to a read: %s", error)
                raise Refused("busy", "the reads cannot be reached just now") from error
        if not complete:
            raise IngestError(f"the answer to {scope['path']} broke off")


async def until_gone(answering: asyncio.Task[None], receive: Receive) -> None:
    """Wait for an answer to a request without a body; end it when the client goes."""
    leaving = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            await answering
    finally:
        await _ended(leaving)
        await _ended(answering)


async def _answer(app: ASGIApp, scope: dict[str, Any], waiting: asyncio.Queue[Message]) -> None:
    never = asyncio.Event()

    async def receive() -> Message:
        await never.wait()  # who goes is noticed by whoever reads the messages
        return {"type": "http.disconnect"}

    await app(scope, receive, waiting.put)


async def _next(waiting: asyncio.Queue[Message], answering: asyncio.Task[None]) -> Message | None:
    """The next message; None when the application has returned and all are taken."""
    taking = asyncio.create_task(waiting.get())
    await asyncio.wait({taking, answering}, return_when=asyncio.FIRST_COMPLETED)
    if not taking.done() and waiting.empty():
        await _ended(taking)
        return None
    return await taking


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task, unless it is done, and wait for it; what it raises is nobody's any more."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
