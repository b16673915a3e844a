"""A body is taken only as long as it was declared, whatever the server in front hands over."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from starlette.requests import Request
from starlette.types import Message

from ingest_serve.body import BytesInFlight, check_form, read_body
from ingest_serve.errors import Refused

SHA256 = hashlib.sha256(b"abcdef").digest()


def read(*messages: Message, length: int = 6, timeout_s: float = 5.0) -> bytes:
    """What `read_body` makes of these ASGI messages; after the last one nothing comes any more."""
    waiting = list(messages)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    return asyncio.run(read_body(request, length=length, sha256=SHA256, timeout_s=timeout_s))


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_parts_is_put_together() -> None:
    assert read(part(b"abc", more=True), part(b"", more=True), part(b"def")) == b"abcdef"


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
def test_a_body_that_is_not_what_was_declared_is_refused(messages: list[Message], length: int, code: str) -> None:
    with pytest.raises(Refused) as refused:
        read(*messages, length=length, timeout_s=0.05)
    assert refused.value.code == code


def test_bytes_in_flight_are_given_back_also_after_a_failure() -> None:
    in_flight = BytesInFlight(10)
    with (
        in_flight.hold(6),
        in_flight.hold(4),
        pytest.raises(Refused, match="10 bytes of at most 10"),
        in_flight.hold(1),
    ):
        pass
    with pytest.raises(ZeroDivisionError), in_flight.hold(10):
        raise ZeroDivisionError
    with in_flight.hold(10):
        pass


@pytest.mark.parametrize("body", [b"", b"ftyp", b"1234mdat"])
def test_what_does_not_begin_with_ftyp_is_no_mp4(body: bytes) -> None:
    with pytest.raises(Refused, match="ftyp"):
        check_form(body, "video/mp4")
