"""Every way to say no: one table of problem codes, answered as RFC 9457 `application/problem+json`.

`code` is the contract a client may act on; `detail` is a sentence for people. 408 and 503 mean "the same again, later".
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from edge.errors import BadName, SignatureError
from edge.wire import PROBLEM_TYPE
from ingest_serve.errors import Refused, StorageUnavailable


@dataclass(frozen=True, slots=True)
class Problem:
    """One code's HTTP status and what it means to the client."""

    status: int
    meaning: str


PROBLEMS = {
    "bad_name": Problem(400, "The robot, recording or stream is no name that the protocol allows."),
    "bad_parameter": Problem(400, "A query parameter or header is missing or out of range; `parameter` names it."),
    "bad_digest": Problem(400, "`Content-Digest` or `Repr-Digest` is missing or holds no `sha-256`."),
    "digest_mismatch": Problem(400, "What arrived, a body or a joined upload, has another SHA-256 than was declared."),
    "incomplete_body": Problem(400, "The body that arrived is not as long as `Content-Length` says."),
    "not_a_segment": Problem(400, "The body is neither a finished MCAP file nor, for video, an MP4 file."),
    "bad_gap": Problem(400, "The body is no gap record, or not that of the query."),
    "upload_length": Problem(400, "The pieces and `Upload-Length` do not fit each other."),
    "too_many_pieces": Problem(400, "The upload has as many pieces as it may; delete it, and use larger ones."),
    "bad_new_key": Problem(400, "The body is not the JSON object that is asked for, or the new key did not sign it."),
    "bad_enrolment": Problem(400, "The enrolment body is not the JSON object that is asked for."),
    "bad_body": Problem(400, "The body is not the JSON object that is asked for, or a member of it is out of range."),
    "bad_query": Problem(400, "The SQL predicate cannot be run, or takes more than it may."),
    "clip_too_long": Problem(400, "The range is more than one answer holds; `playlist` is where it comes in parts."),
    "no_token": Problem(401, "There is no `Authorization: Bearer` token."),
    "bad_token": Problem(401, "The token is no JWT with the claims that are asked for, or none that was given out."),
    "unknown_key": Problem(401, "The robot has no such key, or it was revoked."),
    "bad_signature": Problem(401, "The token is signed by another key, or for another method, target or digest."),
    "clock": Problem(401, "The token is not for the server's present time; take that from the response's header."),
    "token_revoked": Problem(401, "The person's token was revoked."),
    "token_expired": Problem(401, "The person's token has expired; ask for another one."),
    "wrong_scope": Problem(403, "The route asks for a scope that the token does not have, or is not for robots."),
    "wrong_robot": Problem(403, "The token belongs to another robot than the route."),
    "enrolment_unknown": Problem(403, "There is no such enrolment token for this robot."),
    "enrolment_used": Problem(403, "The enrolment token was used with another key."),
    "enrolment_revoked": Problem(403, "The enrolment token was revoked before it was used."),
    "enrolment_expired": Problem(403, "The enrolment token has expired."),
    "not_found": Problem(404, "There is no such route."),
    "upload_unknown": Problem(
        404, "There is no such unfinished upload: it was never created, is done, or was removed."
    ),
    "no_video": Problem(404, "The index holds no video of this stream in this range."),
    "unknown_topic": Problem(404, "No telemetry of this topic is loaded; `topics` lists what is."),
    "unknown_robot": Problem(404, "The registry knows no robot of this name."),
    "unknown_token_id": Problem(404, "There never was a token of this id."),
    "unknown_key_id": Problem(404, "The robot never had a key of this id."),
    "method_not_allowed": Problem(405, "The route does not take this method."),
    "not_acceptable": Problem(406, "The route gives none of the types that `Accept` takes."),
    "slow_body": Problem(408, "The body did not come as fast as it must, or was the slowest when room was needed."),
    "conflict": Problem(409, "Other bytes are stored under this name; if new ones came, they are kept for inspection."),
    "offset_mismatch": Problem(409, "The piece does not begin where the upload ends; `expected_offset` says where."),
    "key_in_use": Problem(409, "A key cannot retire itself; sign with another one."),
    "key_retired": Problem(409, "The key was retired or revoked, and never counts again; make another one."),
    "codec_changed": Problem(409, "The encoding changes inside the range, at `changed_at_ns`; ask for both parts."),
    "overlapping_video": Problem(409, "Two segments hold the same time; `recordings` are theirs, name one."),
    "length_required": Problem(411, "There is no `Content-Length`."),
    "too_large": Problem(413, "The body is larger than this route takes; `max_bytes` says how large it may be."),
    "unsupported_type": Problem(415, "The route does not take this `Content-Type`."),
    "unsupported_encoding": Problem(415, "The body is encoded (`Content-Encoding`); it must come as it is."),
    "bad_range": Problem(416, "None of the range of bytes is there; `bytes` says how many are."),
    "robot_busy": Problem(429, "The replica works on as many uploads of this robot as it may."),
    "internal_error": Problem(500, "The server failed; nothing is promised."),
    "damaged_segment": Problem(502, "A stored segment is gone, or its bytes are not what was acknowledged."),
    "busy": Problem(503, "The replica holds as many bodies or bytes, or reads as much at once, as it may."),
    "storage_unavailable": Problem(503, "The bucket cannot be reached; nothing is promised."),
}

# What to do next, where what is wrong does not say it already; it ends the detail.
_AGAIN = "send the same again, not before Retry-After"
_ASK = "ask the platform team for another one"
ADVICE = {
    "digest_mismatch": "compare the bytes with their SHA-256, and send them again if they are whole",
    "incomplete_body": "send it again",
    "not_a_segment": "keep the file aside",
    "unknown_key": "enrol a key with an invitation",
    "bad_signature": "sign method, path with query, and fields just as they are sent",
    "clock": "sign again by the time in Fleetfeed-Server-Time-Ns",
    "token_revoked": _ASK,
    "token_expired": _ASK,
    "enrolment_unknown": _ASK,
    "enrolment_used": _ASK,
    "enrolment_revoked": _ASK,
    "enrolment_expired": _ASK,
    "upload_unknown": "create it: if it is done, the answer is its receipt",
    "slow_body": "send it again, or in smaller pieces",
    "conflict": "keep the file aside, and tell the platform team",
    "offset_mismatch": "go on from where the upload ends",
    "key_retired": "make another one",
    "too_many_pieces": "delete it, and use larger ones",
    "robot_busy": _AGAIN,
    "internal_error": "send the same again later, and tell the platform team the Fleetfeed-Request-Id",
    "damaged_segment": "tell the platform team",
    "busy": _AGAIN,
    "storage_unavailable": _AGAIN,
}

MAX_DETAIL = 1000
ANSWERED = (Refused, SignatureError, BadName, StorageUnavailable, RequestValidationError, HTTPException)


def as_refused(error: Exception) -> Refused:
    """The problem that an exception of ours, of `edge.wire` or of FastAPI is answered with."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, SignatureError):
        return Refused(error.code, str(error))
    if isinstance(error, BadName):
        return Refused("bad_name", str(error))
    if isinstance(error, StorageUnavailable):
        return Refused("storage_unavailable", "the storage cannot be reached; nothing was promised")
    if isinstance(error, RequestValidationError):
        return _bad_parameter(error)
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        return _no_route(error)
    return Refused("internal_error", "the server failed; nothing was promised")


def problem_response(refused: Refused, *, retry_after_s: int) -> JSONResponse:
    status = PROBLEMS[refused.code].status
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": refused.code,
        "detail": _sentence(refused),
        **refused.extra,
    }
    return JSONResponse(body, status, _headers(status, retry_after_s), PROBLEM_TYPE)


def _sentence(refused: Refused) -> str:
    """What is wrong and what to do, of bounded length; what a client said may be in it, even half a surrogate pair."""
    wrong = refused.detail[:MAX_DETAIL].encode(errors="backslashreplace").decode()
    return f"{wrong}; {ADVICE[refused.code]}" if refused.code in ADVICE else wrong


def _headers(status: int, retry_after_s: int) -> dict[str, str]:
    by_status = {
        401: {"WWW-Authenticate": "Bearer"},
        429: {"Retry-After": str(retry_after_s)},
        503: {"Retry-After": str(retry_after_s)},
    }
    return by_status.get(status, {})


def _bad_parameter(error: RequestValidationError) -> Refused:
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return Refused("bad_parameter", f"{name}: {first['msg'].removeprefix('Value error, ')}", parameter=name)


def _no_route(error: HTTPException) -> Refused:
    if error.status_code == 404:
        return Refused("not_found", "there is no such route; every byte of a path counts, docs/PROTOCOL.md has them")
    methods = (error.headers or {}).get("Allow", "other methods")
    return Refused("method_not_allowed", f"this route takes {methods}")
