"""An answer that is made elsewhere: the same messages, at the client's pace, ended when the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from ingest_serve.errors import IngestError, Refused
from ingest_serve.read_answers import CHUNK_BYTES, StreamAnswer
from ingest_serve.relay import Messages, Relay, messages, until_gone

SCOPE = {"type": "http", "path": "/v1/robots", "method": "GET", "headers": []}
START: Message = {"type": "http.response.start", "status": 200, "headers": []}


def body(n: int, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": bytes([n]), "more_body": more}


class Counting:
    """An application of `count` messages that knows how many have gone, and how it ended."""

    def __init__(self, count: int, *, fails_at: int | None = None) -> None:
        self.count, self.fails_at, self.sent, self.ended = count, fails_at, 0, ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            for n in range(self.count):
                if n == self.fails_at:
                    raise OSError("the disk is gone")
                await send(START if n == 0 else body(n % 256, more=n < self.count - 1))
                self.sent += 1
            self.ended = "whole"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def relayed(app: Counting) -> tuple[list[Message], Callable[[], Awaitable[None]]]:
    taken: list[Message] = []

    async def take(message: Message) -> None:
        taken.append(message)

    return taken, lambda: Relay(lambda scope: messages(app, scope))(SCOPE, never, take)


def test_every_message_comes_once_and_in_order() -> None:
    for count in (2, 3, 50):
        app = Counting(count)
        taken, run = relayed(app)
        asyncio.run(run())  # type: ignore[arg-type]
        assert taken == [START, *(body(n, more=n < count - 1) for n in range(1, count))]
        assert app.ended == "whole"


def test_nothing_is_made_far_ahead_of_who_takes_it() -> None:
    app = Counting(1000)

    async def take_three() -> None:
        stream = messages(app, SCOPE)
        for _ in range(3):
            await anext(stream)
        for _ in range(100):
            await asyncio.sleep(0)
        assert app.sent <= 3 + 2
        await stream.aclose()

    asyncio.run(take_three())
    assert app.ended == "cancelled"


def test_a_client_that_goes_ends_the_work() -> None:
    app, stuck = Counting(1000), asyncio.Event()

    async def leave_after_two() -> None:
        taken: list[Message] = []

        async def take(message: Message) -> None:
            taken.append(message)
            if len(taken) == 2:
                stuck.set()
                await asyncio.Event().wait()

        async def receive() -> Message:
            await stuck.wait()
            return {"type": "http.disconnect"}

        answering = asyncio.create_task(_relay(app, take))
        await asyncio.wait_for(until_gone(answering, receive), 10)

    asyncio.run(leave_after_two())
    assert app.ended == "cancelled"


async def _relay(app: Counting, take: Send) -> None:
    await Relay(lambda scope: messages(app, scope))(SCOPE, never, take)


def test_an_answer_that_cannot_begin_is_busy_and_one_that_breaks_off_is_an_error() -> None:
    _, run = relayed(Counting(9, fails_at=0))
    with pytest.raises(Refused) as refused:
        asyncio.run(run())  # type: ignore[arg-type]
    assert refused.value.code == "busy"
    taken, run = relayed(Counting(9, fails_at=4))
    with pytest.raises(OSError, match="disk is gone"):
        asyncio.run(run())  # type: ignore[arg-type]
    assert len(taken) == 4


def test_a_stream_that_just_ends_is_not_taken_for_whole() -> None:
    async def torn(scope: Any) -> Messages:
        yield START
        yield body(1)

    async def take(message: Message) -> None:
        """It is taken."""

    with pytest.raises(IngestError, match="broke off"):
        asyncio.run(Relay(torn)(SCOPE, never, take))


def test_a_large_chunk_goes_in_messages_that_grpc_takes() -> None:
    async def rest() -> AsyncGenerator[bytes, None]:
        yield b"b" * (CHUNK_BYTES * 2 + 5)

    sent: list[Message] = []

    async def take(message: Message) -> None:
        sent.append(message)

    answer = StreamAnswer(b"a" * (CHUNK_BYTES + 1), rest(), Request(dict(SCOPE)), {})
    asyncio.run(answer(SCOPE, never, take))
    sizes = [len(message.get("body", b"")) for message in sent]
    assert sizes == [0, CHUNK_BYTES, 1, CHUNK_BYTES, CHUNK_BYTES, 5, 0]
    assert b"".join(message.get("body", b"") for message in sent).count(b"a") == CHUNK_BYTES + 1


def test_the_head_of_an_answer_needs_no_body_and_closes_what_would_make_it() -> None:
    closed, sent = [], []

    async def rest() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            yield b"never asked for"
        finally:
            closed.append(True)

    async def take(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        chunks = rest()
        answer = StreamAnswer(await anext(chunks), chunks, Request({**SCOPE, "method": "HEAD"}), {})
        await answer(SCOPE, never, take)
        assert closed == [True]

    asyncio.run(ask())
    assert [message.get("body") for message in sent] == [None, b""]
