"""What FastAPI cannot see in the handlers: headers, bodies, receipts and problems."""

from __future__ import annotations

from typing import Any

from edge.wire import (
    GAP_TYPE,
    PIECE_TYPE,
    PROBLEM_TYPE,
    REPR_DIGEST_HEADER,
    ROBOT_CLOCK_HEADER,
    ROBOT_TIME_HEADER,
    UPLOAD_COMPLETE_HEADER,
    UPLOAD_LENGTH_HEADER,
    UPLOAD_LIMIT_HEADER,
    UPLOAD_OFFSET_HEADER,
    Gap,
    Kind,
    Receipt,
)
from ingest_serve.declared import TYPES
from ingest_serve.problems import PROBLEMS

_TOKEN = {"Authorization": "Bearer token over method, target, digest and place of the piece"}
_SIGNED = {**_TOKEN, "Content-Digest": "RFC 9530, sha-256, of this request's body"}
_CLOCK = {
    ROBOT_TIME_HEADER: "the robot's clock, in ns since the Unix epoch",
    ROBOT_CLOCK_HEADER: "what the robot knows of its clock: offset-ns, uncertainty-ns, drift-ppb, …, boot",
}
_CREATION = {
    UPLOAD_COMPLETE_HEADER: "?0: the body is the first piece of a resumable upload; ?1 or none: it is whole",
    UPLOAD_LENGTH_HEADER: "of a resumable upload: bytes of the whole",
    REPR_DIGEST_HEADER: "of a resumable upload: RFC 9530, sha-256, of the whole",
}
_PIECE = {
    UPLOAD_OFFSET_HEADER: "where the piece begins: where the upload ends now",
    UPLOAD_COMPLETE_HEADER: "?1: the piece is the last; ?0: it is not",
}
_STATE = {
    UPLOAD_OFFSET_HEADER: "bytes that are durable",
    UPLOAD_COMPLETE_HEADER: "?0",
    UPLOAD_LIMIT_HEADER: "max-size and max-append-size, in bytes",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def upload_docs(kind: Kind) -> dict[str, Any]:
    """Arguments of `add_api_route` for one upload route."""
    content = dict.fromkeys(TYPES[kind], _BINARY) | {GAP_TYPE: {"schema": _object(*Gap.__slots__)}}
    parameters = [*_headers(_SIGNED, required=True), *_headers({**_CLOCK, **_CREATION})]
    return _docs(201, parameters, content) | {"response_model": Receipt}


def offset_docs() -> dict[str, Any]:
    """Arguments of `add_api_route` for the question how far an upload is."""
    told = {name: {"description": text, "schema": {"type": "string"}} for name, text in _STATE.items()}
    docs = _docs(204, _headers(_TOKEN, required=True))
    docs["responses"][204] = {"description": "The upload as it stands.", "headers": told}
    return docs


def append_docs() -> dict[str, Any]:
    """Arguments of `add_api_route` for one more piece; after the last one the answer is that of a whole upload."""
    parameters = [*_headers({**_SIGNED, **_PIECE}, required=True), *_headers(_CLOCK)]
    docs = _docs(204, parameters, {PIECE_TYPE: _BINARY})
    docs["responses"][201] = {"description": "That was the last piece; the whole is durable.", "model": Receipt}
    docs["responses"][200] = {"description": "That was the last piece; the whole was stored before.", "model": Receipt}
    return docs


def cancel_docs() -> dict[str, Any]:
    """Arguments of `add_api_route` for giving an upload up."""
    return _docs(204, _headers(_TOKEN, required=True))


def enrol_docs() -> dict[str, Any]:
    """Arguments of `add_api_route` for the enrolment."""
    return _docs(
        201, _headers(_SIGNED, required=True), {"application/json": {"schema": _object("token", "public_key")}}
    )


def new_key_docs() -> dict[str, Any]:
    """Arguments of `add_api_route` for a new key."""
    return _docs(
        201, _headers(_SIGNED, required=True), {"application/json": {"schema": _object("public_key", "proof")}}
    )


def retire_docs() -> dict[str, Any]:
    """Arguments of `add_api_route` for retiring a key."""
    return _docs(204, _headers(_TOKEN, required=True))


def _docs(status: int, parameters: list[dict[str, Any]], content: dict[str, Any] | None = None) -> dict[str, Any]:
    extra: dict[str, Any] = {"parameters": parameters}
    if content:
        extra["requestBody"] = {"required": True, "content": content}
    return {"status_code": status, "responses": _problems(), "openapi_extra": extra}


def _object(*names: str) -> dict[str, Any]:
    return {"type": "object", "required": list(names)}


def _headers(names: dict[str, str], *, required: bool = False) -> list[dict[str, Any]]:
    schema = {"type": "string"}
    return [
        {"in": "header", "name": name, "required": required, "description": text, "schema": schema}
        for name, text in names.items()
    ]


def _problems() -> dict[int | str, Any]:
    """One entry per status, naming its codes."""
    by_status: dict[int, list[str]] = {}
    for code, problem in PROBLEMS.items():
        by_status.setdefault(problem.status, []).append(f"`{code}`: {problem.meaning}")
    content = {PROBLEM_TYPE: {"schema": {"type": "object"}}}
    return {status: {"description": "\n".join(lines), "content": content} for status, lines in by_status.items()}
