"""What FastAPI cannot see in the handlers: headers, bodies, receipts and problems."""

from __future__ import annotations

from typing import Any

from edge.wire import PROBLEM_TYPE, ROBOT_TIME_HEADER, Kind, Receipt
from ingest_serve.body import TYPES
from ingest_serve.problems import PROBLEMS

_SIGNED = {"Authorization": "Bearer token over method, target and digest", "Content-Digest": "RFC 9530, sha-256"}
_ENROLMENT = {
    "type": "object",
    "required": ["token", "public_key"],
    "properties": {"token": {"type": "string"}, "public_key": {"type": "string", "format": "byte"}},
}


def upload_docs(kind: Kind) -> dict[str, Any]:
    """Arguments of `add_api_route` for one upload route."""
    body = {name: {"schema": {"type": "string", "format": "binary"}} for name in TYPES[kind]}
    headers = [*_headers(_SIGNED, required=True), *_headers({ROBOT_TIME_HEADER: "ns since the Unix epoch"})]
    extra = {"parameters": headers, "requestBody": {"required": True, "content": body}}
    return {"status_code": 201, "response_model": Receipt, "responses": _problems(), "openapi_extra": extra}


def enrol_docs() -> dict[str, Any]:
    """Arguments of `add_api_route` for the enrolment."""
    body = {"required": True, "content": {"application/json": {"schema": _ENROLMENT}}}
    extra = {"parameters": _headers(_SIGNED, required=True), "requestBody": body}
    return {"status_code": 201, "responses": _problems(), "openapi_extra": extra}


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
