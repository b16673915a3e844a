"""Taking in one request body within bounds: its length, its time, its digest, its form, and all bodies together."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from starlette.requests import ClientDisconnect, Request

from edge.errors import GapError
from edge.segment import looks_like_mcap
from edge.wire import MCAP_TYPE, MP4_TYPE, Gap
from ingest_serve.errors import Refused


class BytesInFlight:
    """The bytes that one process has promised to hold for requests under way."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """`Refused("busy")` if there is no room for `size` more bytes."""
        if self._held + size > self._max_bytes:
            raise Refused("busy", f"{self._held} bytes of at most {self._max_bytes} are under way")
        self._held += size
        try:
            yield
        finally:
            self._held -= size


async def read_body(request: Request, *, length: int, sha256: bytes, timeout_s: float) -> bytes:
    """The body, whole and verified against its declared length and digest. `Refused` otherwise."""
    try:
        async with asyncio.timeout(timeout_s):
            body, came = await _receive(request, length)
    except TimeoutError as error:
        raise Refused("slow_body", f"the body did not arrive within {timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise Refused("incomplete_body", f"the client went before all of {length} bytes had come") from error
    if len(body) != length:
        raise Refused("incomplete_body", f"Content-Length says {length} bytes, the body has another length")
    if came != sha256:
        raise Refused("digest_mismatch", f"the body that came has sha-256 {came.hex()}")
    return body


async def _receive(request: Request, length: int) -> tuple[bytes, bytes]:
    """The body, at most one chunk longer than `length`, and its SHA-256, taken chunk by chunk as it comes."""
    hasher, chunks, arrived = hashlib.sha256(), [], 0
    async for chunk in request.stream():
        hasher.update(chunk)
        chunks.append(chunk)
        arrived += len(chunk)
        if arrived > length:
            break
    return b"".join(chunks), hasher.digest()


def check_form(body: bytes | bytearray, content_type: str) -> None:
    """Refuse what is plainly not the file its type says; whether it reads whole is found out when it is indexed."""
    if content_type == MCAP_TYPE and not looks_like_mcap(cast(bytes, body)):  # it only looks at both ends
        raise Refused("not_a_segment", "an MCAP file begins and ends with the MCAP magic")
    if content_type == MP4_TYPE and body[4:8] != b"ftyp":
        raise Refused("not_a_segment", "an MP4 file begins with an ftyp box")


def check_gap(body: bytes | bytearray, *, seq: int, start_ns: int, end_ns: int) -> None:
    """`Refused("bad_gap")` unless the body is a gap record that says of itself what its upload's query says."""
    try:
        gap = Gap.parse(bytes(body))
    except GapError as error:
        raise Refused("bad_gap", str(error)[:500]) from error
    said, asked = (gap.first_seq, gap.start_ns, gap.end_ns), (seq, start_ns, end_ns)
    if said != asked:
        raise Refused("bad_gap", f"first_seq, start_ns and end_ns are {said} in the body and {asked} in the query")
