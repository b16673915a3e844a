"""A body is taken only as long as it was declared, whatever the server in front hands over."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import pytest
from starlette.requests import Request
from starlette.types import Message

from ingest_serve.body import check_form, read_body, read_upload
from ingest_serve.errors import Refused
from ingest_serve.in_flight import InFlight
from ingest_serve.settings import IngestSettings

SHA256 = hashlib.sha256(b"abcdef").digest()


def request_of(*messages: Message) -> Request:
    """A request of which these ASGI messages come; after the last one nothing comes any more."""
    waiting = list(messages)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def read_small(*messages: Message, length: int = 6) -> bytes:
    return asyncio.run(read_body(request_of(*messages), length=length, sha256=SHA256, timeout_s=0.05))


def read_large(*messages: Message, length: int = 6) -> bytes:
    """The same by `read_upload`, which leaves nothing counted."""

    async def read() -> bytes:
        in_flight = InFlight(IngestSettings(body_grace_s=0.05).bounds())
        try:
            with in_flight.hold("g1-001", length) as place:
                return bytes(await read_upload(request_of(*messages), in_flight, place, sha256=SHA256))
        finally:
            assert (in_flight.held_bytes, in_flight.bodies) == (0, 0)

    return asyncio.run(read())


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize("read", [read_small, read_large])
def test_a_body_in_parts_is_put_together(read: Callable[..., bytes]) -> None:
    assert read(part(b"abc", more=True), part(b"", more=True), part(b"def")) == b"abcdef"


@pytest.mark.parametrize("read", [read_small, read_large])
@pytest.mark.parametrize(
    ("messages", "length", "code"),
    [
        ([part(b"abcdef")], 7, "incomplete_body"),
        ([part(b"abcdef")], 5, "incomplete_body"),
        ([part(b"abcdef", more=True), part(b"more", more=True)], 8, "incomplete_body"),
        ([part(b"abc", more=True), {"type": "http.disconnect"}], 6, "incomplete_body"),
        ([part(b"abcdeF")], 6, "digest_mismatch"),
        ([part(b"abc", more=True)], 6, "slow_body"),
    ],
)
def test_a_body_that_is_not_what_was_declared_is_refused(
    read: Callable[..., bytes], messages: list[Message], length: int, code: str
) -> None:
    with pytest.raises(Refused) as refused:
        read(*messages, length=length)
    assert refused.value.code == code


@pytest.mark.parametrize("body", [b"", b"ftyp", b"1234mdat"])
def test_what_does_not_begin_with_ftyp_is_no_mp4(body: bytes) -> None:
    with pytest.raises(Refused, match="ftyp"):
        check_form(body, "video/mp4")


def test_a_body_that_has_come_whole_is_not_cut_while_it_is_stored() -> None:
    async def stored() -> None:
        in_flight = InFlight(IngestSettings().bounds())
        with in_flight.hold("g1-001", 6) as place:
            await read_upload(request_of(part(b"abcdef")), in_flight, place, sha256=SHA256)
            for _ in range(1000):
                in_flight.look()
            assert place.cut is None
            assert in_flight.held_bytes == 6

    asyncio.run(stored())


def test_a_cancelled_request_leaves_nothing_counted() -> None:
    async def cancelled() -> None:
        in_flight = InFlight(IngestSettings().bounds())

        async def handle() -> None:
            with in_flight.hold("g1-001", 6) as place:
                await read_upload(request_of(part(b"abc", more=True)), in_flight, place, sha256=SHA256)

        task = asyncio.create_task(handle())
        await asyncio.sleep(0.01)
        assert in_flight.held_bytes == 6
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (in_flight.held_bytes, in_flight.bodies) == (0, 0)

    asyncio.run(cancelled())
