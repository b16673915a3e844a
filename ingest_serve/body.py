"""Taking in one request body within bounds: its length, its time, its digest, its form, and all bodies together."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from edge.segment import looks_like_mcap
from edge.wire import MCAP_TYPE, MP4_TYPE, Kind, parse_content_digest
from ingest_serve.errors import Refused

TYPES: dict[Kind, tuple[str, ...]] = {"telemetry": (MCAP_TYPE,), "video": (MCAP_TYPE, MP4_TYPE)}


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


def declared_length(request: Request, *, max_bytes: int) -> int:
    """`Content-Length`, before anything of the body is read."""
    text = request.headers.get("content-length")
    if text is None or "transfer-encoding" in request.headers:
        raise Refused("length_required", "an upload needs a Content-Length")
    if not (text.isascii() and text.isdigit()):
        raise Refused("bad_parameter", "Content-Length: must be a whole number", parameter="Content-Length")
    if len(text) > 18 or int(text) > max_bytes:
        raise Refused("too_large", f"this route takes {max_bytes} bytes at most", max_bytes=max_bytes)
    return int(text)


def declared_type(request: Request, *, kind: Kind) -> str:
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found not in TYPES[kind]:
        raise Refused("unsupported_type", f"{kind} comes as {' or '.join(TYPES[kind])}, got {found[:80]!r}")
    return found


def declared_digest(request: Request) -> tuple[str, bytes]:
    """The `Content-Digest` field as it came, which the token signs, and the raw SHA-256 in it."""
    field = request.headers.get("content-digest", "")
    try:
        return field, parse_content_digest(field)
    except ValueError as error:
        raise Refused("bad_digest", str(error)) from error


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


def check_form(body: bytes, content_type: str) -> None:
    """Refuse what is plainly not the file its type says; whether it reads whole is found out when it is indexed."""
    if content_type == MCAP_TYPE and not looks_like_mcap(body):
        raise Refused("not_a_segment", "an MCAP file begins and ends with the MCAP magic")
    if content_type == MP4_TYPE and body[4:8] != b"ftyp":
        raise Refused("not_a_segment", "an MP4 file begins with an ftyp box")
