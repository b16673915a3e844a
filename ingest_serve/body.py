"""Taking in one request body: its length, its time, its digest, its form. `in_flight` bounds all of them together."""

from __future__ import annotations

import asyncio
import hashlib

from starlette.requests import ClientDisconnect, Request

from edge.errors import GapError
from edge.segment import looks_like_mcap
from edge.wire import MCAP_TYPE, MP4_TYPE, Gap
from ingest_serve.chunks import Body, Chunks, ends_of
from ingest_serve.errors import Refused
from ingest_serve.in_flight import InFlight, Place


async def read_upload(request: Request, in_flight: InFlight, place: Place, *, sha256: bytes) -> Chunks:
    """The body of an upload, whole and verified against its declared length and digest. `Refused` otherwise.

    It may take as long as it comes as fast as `in_flight` asks of it.
    """
    hasher = hashlib.sha256()
    try:
        async with asyncio.timeout(None) as place.timeout:
            async for chunk in request.stream():
                in_flight.take(place, chunk)
                hasher.update(chunk)
    except ClientDisconnect as error:
        raise _gone(place.length) from error
    except TimeoutError as error:
        raise place.cut or error from error
    if place.cut:
        raise place.cut
    in_flight.received(place)
    _check(place.arrived, length=place.length, came=hasher.digest(), sha256=sha256)
    return place.body


async def read_body(request: Request, *, length: int, sha256: bytes | None, timeout_s: float) -> bytes:
    """A small body, as `read_upload`, within so many seconds. Nothing counts it: `length` must have been bounded.

    `sha256` None: none was declared.
    """
    try:
        async with asyncio.timeout(timeout_s):
            body = await _receive(request, length)
    except TimeoutError as error:
        raise Refused("slow_body", f"the body did not arrive within {timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise _gone(length) from error
    _check(len(body), length=length, came=hashlib.sha256(body).digest(), sha256=sha256)
    return body


async def _receive(request: Request, length: int) -> bytes:
    """The body, at most one chunk longer than `length`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > length:
            break
    return bytes(body)


def _gone(length: int) -> Refused:
    return Refused("incomplete_body", f"the client went before all of {length} bytes had come")


def _check(arrived: int, *, length: int, came: bytes, sha256: bytes | None) -> None:
    if arrived != length:
        raise Refused("incomplete_body", f"Content-Length says {length} bytes, the body has another length")
    if sha256 is not None and came != sha256:
        raise Refused("digest_mismatch", f"the body that came has sha-256 {came.hex()}")


def check_form(body: Body, content_type: str) -> None:
    """Refuse what is plainly not the file its type says; whether it reads whole is found out when it is indexed."""
    ends = ends_of(body)
    if content_type == MCAP_TYPE and not looks_like_mcap(ends):
        raise Refused("not_a_segment", "an MCAP file begins and ends with the MCAP magic")
    if content_type == MP4_TYPE and ends[4:8] != b"ftyp":
        raise Refused("not_a_segment", "an MP4 file begins with an ftyp box")


def check_gap(body: Body, *, seq: int, start_ns: int, end_ns: int) -> None:
    """`Refused("bad_gap")` unless the body is a gap record that says of itself what its upload's query says."""
    try:
        gap = Gap.parse(bytes(body))
    except GapError as error:
        raise Refused("bad_gap", str(error)[:500]) from error
    said, asked = (gap.first_seq, gap.start_ns, gap.end_ns), (seq, start_ns, end_ns)
    if said != asked:
        raise Refused("bad_gap", f"first_seq, start_ns and end_ns are {said} in the body and {asked} in the query")
