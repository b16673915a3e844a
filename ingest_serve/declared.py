"""What an upload declares before its body: its target, its type and lengths, its digests, the robot's clock.

Every function reads one thing from a request, and refuses what is missing or malformed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query
from pydantic import BeforeValidator
from starlette.requests import Request

from edge.wire import (
    GAP_TYPE,
    MAX_GAP_BYTES,
    MAX_SEQ,
    MAX_TIME_NS,
    MCAP_TYPE,
    MP4_TYPE,
    PIECE_TYPE,
    REPR_DIGEST_HEADER,
    ROBOT_CLOCK_HEADER,
    ROBOT_TIME_HEADER,
    UPLOAD_COMPLETE_HEADER,
    Kind,
    RobotClock,
    SegmentId,
    parse_content_digest,
)
from ingest_serve.errors import Refused
from ingest_serve.settings import IngestSettings

TYPES: dict[Kind, tuple[str, ...]] = {
    "telemetry": (MCAP_TYPE, GAP_TYPE),
    "video": (MCAP_TYPE, MP4_TYPE, GAP_TYPE),
}
_MAX_DIGITS = 15  # of an integer in a structured field (RFC 9651)
_NUMBER = re.compile("0|[1-9][0-9]{0,19}")
_COMPLETE = {"?0": False, "?1": True}


def _spelt_in_digits(text: object) -> object:
    """A number has one spelling: pydantic alone takes "+1", "1_0", "1.0" and " 1" too."""
    if isinstance(text, str) and not _NUMBER.fullmatch(text):
        raise ValueError("must be a whole number in digits")
    return text


Seq = Annotated[int, BeforeValidator(_spelt_in_digits), Query(ge=0, le=MAX_SEQ)]
TimeNs = Annotated[int, BeforeValidator(_spelt_in_digits), Query(ge=0, le=MAX_TIME_NS)]


@dataclass(frozen=True, slots=True)
class Target:
    """What an upload's path and query say."""

    segment: SegmentId
    start_ns: int
    end_ns: int


async def target_of(robot: str, recording: str, stream: str, seq: Seq, start_ns: TimeNs, end_ns: TimeNs) -> Target:
    if start_ns >= end_ns:
        raise Refused("bad_parameter", "end_ns: must be greater than start_ns", parameter="end_ns")
    return Target(SegmentId(robot, recording, stream, seq), start_ns, end_ns)


Upload = Annotated[Target, Depends(target_of)]


def declared_type(request: Request, *, kind: Kind) -> str:
    found = _media_type(request)
    if found not in TYPES[kind]:
        raise Refused("unsupported_type", f"{kind} comes as {' or '.join(TYPES[kind])}, got {found[:80]!r}")
    return found


def check_piece_type(request: Request) -> None:
    found = _media_type(request)
    if found != PIECE_TYPE:
        raise Refused("unsupported_type", f"a piece comes as {PIECE_TYPE}, got {found[:80]!r}")


def max_bytes(settings: IngestSettings, *, kind: Kind, content_type: str) -> int:
    """The largest body of this kind and type."""
    if content_type == GAP_TYPE:
        return MAX_GAP_BYTES
    return settings.max_telemetry_bytes if kind == "telemetry" else settings.max_video_bytes


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


def declared_digest(request: Request) -> tuple[str, bytes]:
    """The `Content-Digest` field as it came, which the token signs, and the raw SHA-256 in it."""
    field = request.headers.get("content-digest", "")
    try:
        return field, _only_sha256(field)
    except ValueError as error:
        raise Refused("bad_digest", str(error)) from error


def declared_whole_sha256(request: Request) -> bytes:
    """The raw SHA-256 in `Repr-Digest`: of the whole upload, not of the piece."""
    field = request.headers.get(REPR_DIGEST_HEADER, "")
    try:
        return _only_sha256(field)
    except ValueError as error:
        raise Refused("bad_digest", f"{REPR_DIGEST_HEADER} must hold sha-256=:<base64>:, got {field[:80]!r}") from error


def _only_sha256(field: str) -> bytes:
    """The raw SHA-256 of a field that holds one; `ValueError` for two, of which others may believe the other."""
    if field.lower().count("sha-256=") > 1:
        raise ValueError(f"there must be one sha-256, got {field[:160]!r}")
    return parse_content_digest(field)


def declared_complete(request: Request) -> bool:
    """`Upload-Complete`: whether this request carries the end of the upload."""
    field = request.headers.get(UPLOAD_COMPLETE_HEADER, "")
    if field not in _COMPLETE:
        raise bad_header(UPLOAD_COMPLETE_HEADER, f"must be ?0 or ?1, got {field[:80]!r}")
    return _COMPLETE[field]


def declared_number(request: Request, name: str) -> int:
    """A field that is one whole number, such as `Upload-Offset`."""
    field = request.headers.get(name, "")
    if not (field.isascii() and field.isdigit() and len(field) <= _MAX_DIGITS):
        raise bad_header(name, f"must be a whole number of at most {_MAX_DIGITS} digits, got {field[:80]!r}")
    return int(field)


def robot_time_ns(request: Request) -> int | None:
    """The robot's own clock as it sent the request, if it told."""
    text = request.headers.get(ROBOT_TIME_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_TIME_NS):
        raise bad_header(ROBOT_TIME_HEADER, "must be ns since the Unix epoch")
    return int(text)


def robot_clock(request: Request) -> str | None:
    """What the robot knows of its clock, as it came, if it told."""
    field = request.headers.get(ROBOT_CLOCK_HEADER)
    if field is None:
        return None
    try:
        RobotClock.parse_field(field)
    except ValueError as error:
        raise bad_header(ROBOT_CLOCK_HEADER, str(error)) from error
    return field


def bad_header(name: str, what: str) -> Refused:
    return Refused("bad_parameter", f"{name}: {what}", parameter=name)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
