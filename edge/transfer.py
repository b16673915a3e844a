"""How one item goes to the server: whole in one request, or in resumable pieces; either way one receipt at the end.

Pieces: https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/, without its interim responses. The server
keeps what is durable, so the robot remembers nothing: it creates the upload (again), and goes on where the server is.
"""

from __future__ import annotations

import hashlib

import requests

from edge import wire
from edge.link import Link
from edge.spool import Spool, Spooled

OFFSET_MISMATCH = "offset_mismatch"
MAX_CORRECTIONS = 3
NO_BODY = wire.content_digest(hashlib.sha256(b"").digest())


def carry(link: Link, spool: Spool, item: Spooled, *, piece_bytes: int) -> requests.Response:
    """Send an item; returns the answer that decides. `requests.RequestException`: the link broke; nothing is lost.

    `FileNotFoundError` where the item's bytes are not there.
    """
    body = spool.data_path(item).read_bytes()
    if len(body) <= piece_bytes:
        return post_whole(link, item, body)
    return _send_in_pieces(link, item, body, piece_bytes)


def post_whole(link: Link, item: Spooled, body: bytes) -> requests.Response:
    digest = wire.content_digest(bytes.fromhex(item.sha256))
    return link.send(
        "POST", target_of(link, item), body=body, digest=digest, headers={"Content-Type": item.content_type}
    )


def create(link: Link, item: Spooled) -> requests.Response:
    """Begin a resumable upload without sending a byte of it; the answer says how much the server has, or gives the
    receipt where it has all of it."""
    headers = {
        "Content-Type": item.content_type,
        wire.UPLOAD_COMPLETE_HEADER: "?0",
        wire.UPLOAD_LENGTH_HEADER: str(item.bytes),
        wire.REPR_DIGEST_HEADER: wire.content_digest(bytes.fromhex(item.sha256)),
    }
    return link.send("POST", target_of(link, item), digest=NO_BODY, headers=headers, upload=";?0")


def target_of(link: Link, item: Spooled) -> str:
    name = item.named(link.identity.robot)
    return wire.upload_target(name, kind=item.kind, start_ns=item.start_ns, end_ns=item.end_ns)


def _send_in_pieces(link: Link, item: Spooled, body: bytes, piece_bytes: int) -> requests.Response:
    response = create(link, item)
    offset = _offset(response, status=201)
    resume = wire.resume_target(link.identity.robot, wire.upload_id(target_of(link, item), item.sha256))
    corrections = 0
    while offset is not None and offset <= len(body) and corrections <= MAX_CORRECTIONS:
        # an empty piece where all is there: it was not joined, say for want of the bucket
        response = _append(link, resume, body[offset : offset + piece_bytes], offset=offset, total=len(body))
        before, offset = offset, _offset(response, status=204)
        if offset is not None and offset <= before:
            return response  # it did not go on: let the caller wait
        if response.status_code == 409 and wire.problem(response.content).code == OFFSET_MISMATCH:
            offset, corrections = _offset(response, status=409), corrections + 1
    return response


def _append(link: Link, target: str, piece: bytes, *, offset: int, total: int) -> requests.Response:
    complete = "?1" if offset + len(piece) == total else "?0"
    headers = {
        "Content-Type": wire.PIECE_TYPE,
        wire.UPLOAD_OFFSET_HEADER: str(offset),
        wire.UPLOAD_COMPLETE_HEADER: complete,
    }
    digest = wire.content_digest(hashlib.sha256(piece).digest())
    return link.send("PATCH", target, body=piece, digest=digest, headers=headers, upload=f"{offset};{complete}")


def _offset(response: requests.Response, *, status: int) -> int | None:
    """The durable offset that an answer tells; None where the answer is another one."""
    text = response.headers.get(wire.UPLOAD_OFFSET_HEADER, "")
    is_offset = text.isascii() and text.isdecimal() and len(text) < 19
    return int(text) if response.status_code == status and is_offset else None
