"""The interface's description, as OpenAPI 3.1: what each route takes, what it answers, and why it refuses.

A route says of itself what its handler's signature cannot: `app.add_api_route(path, handler, methods=[…], **route(…))`.
`describe` makes one document of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from edge.wire import (
    GAP_TYPE,
    PIECE_TYPE,
    PROBLEM_TYPE,
    REPR_DIGEST_HEADER,
    REQUEST_ID_HEADER,
    ROBOT_CLOCK_HEADER,
    ROBOT_TIME_HEADER,
    SERVER_TIME_HEADER,
    UPLOAD_COMPLETE_HEADER,
    UPLOAD_LENGTH_HEADER,
    UPLOAD_LIMIT_HEADER,
    UPLOAD_OFFSET_HEADER,
    Kind,
)
from ingest_serve.declared import TYPES
from ingest_serve.described import (
    ANSWER_HEADERS,
    BINARY,
    DIGEST_HEADER,
    PARAMETERS,
    REQUEST_HEADERS,
    SCHEMAS,
    Schema,
    one,
)
from ingest_serve.problems import PROBLEMS

Who = Literal["robot", "read", "publish", "admin"]

JSON = "application/json"
_TAGS = {
    "uploads": "Robots: segments and gap records, whole or in pieces.",
    "keys": "Robots: enrolment, a new key, the end of an old one.",
    "reads": "Researchers: what is stored.",
    "platform": "The platform team: robots, tokens, quarantine, audit.",
    "health": "Whoever watches the replicas.",
}
_SECURITY: dict[str, Schema] = {
    "robot": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Made by the robot for this one request, signed with its Ed25519 key: see PROTOCOL.md.",
    },
    "person": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "fft_{id}_{secret}",
        "description": "Opaque, with one or more of the scopes `read`, `publish` and `admin`.",
    },
}
_ANY = ("not_found", "bad_parameter", "internal_error")
_SIGNED = ("no_token", "bad_token", "storage_unavailable")
_ROBOT = (*_SIGNED, "bad_name", "unknown_key", "bad_signature", "clock", "wrong_robot")
_PERSON = (*_SIGNED, "token_revoked", "token_expired", "wrong_scope")
_BODY = ("bad_digest", "digest_mismatch", "incomplete_body", "length_required", "too_large", "slow_body")
_CODED = ("unsupported_encoding",)
_SEGMENT = ("not_a_segment", "bad_gap", "conflict", "upload_length", "unsupported_type", "robot_busy", "busy")


def route(
    operation: str,
    tag: str,
    *,
    answers: Mapping[int, Schema],
    who: Sequence[Who] = (),
    body: Mapping[str, Schema] | None = None,
    headers: Mapping[str, bool] | None = None,
    query: Sequence[Schema] = (),
    codes: Iterable[str] = (),
) -> dict[str, Any]:
    """Arguments of `add_api_route`. The first of `answers` (see `answer`) is the usual one.

    `operation` is the operationId, which stays as it is. `who` may call: a robot, or persons whose token has one of the
    scopes. `body`: schemas by content type. `headers`: names in `REQUEST_HEADERS`, and whether each must be there.
    `query`: parameters that the handler's signature does not show (see `parameter`). `codes`: of `PROBLEMS`, besides
    those that follow from who may call and from there being a body.
    """
    extra: dict[str, Any] = {"parameters": [*_header_parameters(headers or {}), *query]}
    if who:
        extra["security"] = [{"robot": []} if one == "robot" else {"person": [one]} for one in who]
    if body:
        content = {media: {"schema": schema} for media, schema in body.items()}
        extra["requestBody"] = {"required": True, "content": content}
    return {
        "operation_id": operation,
        "tags": [tag],
        "status_code": next(iter(answers)),
        "response_class": Response,
        "responses": {**answers, **_refusals({*_implied(who, body), *codes})},
        "openapi_extra": extra,
    }


def answer(what: str, schema: Schema | None = None, *, media: str = JSON, headers: Sequence[str] = ()) -> Schema:
    """One answer of a route: a sentence, the body's schema if it has one, and names in `ANSWER_HEADERS`."""
    found: Schema = {"description": what}
    if schema is not None:
        found["content"] = {media: {"schema": schema}}
    if headers:
        found["headers"] = {name: _header(name) for name in headers}
    return found


def parameter(name: str, what: str, schema: Schema, *, required: bool = False) -> Schema:
    """A query parameter that a handler reads by itself."""
    return {"in": "query", "name": name, "required": required, "description": what, "schema": schema}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application all of whose routes say what they are with `route`."""
    found = get_openapi(title="fleetfeed ingest", version="1", routes=app.routes, openapi_version="3.1.0")
    for path in found["paths"].values():
        for operation in path.values():
            _complete(operation)
    schemas: dict[str, Schema] = found.setdefault("components", {}).get("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components = {
        "schemas": schemas | SCHEMAS,
        "parameters": _used(_request_headers(), found["paths"]),
        "headers": _answer_headers(),
        "securitySchemes": _SECURITY,
    }
    info = {**found["info"], "description": "Robots put recordings in, people take them out. In words: PROTOCOL.md."}
    tags = [{"name": name, "description": text} for name, text in _TAGS.items()]
    return {**found, "info": info, "tags": tags, "components": components}


def as_text(app: FastAPI) -> str:
    """The document as it is checked in, in `docs/openapi.json`."""
    return _folded(describe(app), "") + "\n"


def _folded(value: Any, indent: str) -> str:
    """JSON in which what fits into a line is one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= 110 or not isinstance(value, dict | list):
        return line
    inner = indent + " "
    if isinstance(value, list):
        items = [_folded(item, inner) for item in value]
    else:
        items = [f"{json.dumps(name)}: {_folded(item, inner)}" for name, item in value.items()]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{last}"


def upload_docs(kind: Kind) -> dict[str, Any]:
    """A whole segment or gap record, or the first piece of one."""
    names = (ROBOT_TIME_HEADER, ROBOT_CLOCK_HEADER, UPLOAD_COMPLETE_HEADER, UPLOAD_LENGTH_HEADER, REPR_DIGEST_HEADER)
    begun = {"anyOf": [one("Receipt"), one("UploadBegun")]}
    state = ("Location", UPLOAD_OFFSET_HEADER, UPLOAD_COMPLETE_HEADER, UPLOAD_LIMIT_HEADER)
    return route(
        f"upload{kind.title()}",
        "uploads",
        who=["robot"],
        body={media: one("Gap") if media == GAP_TYPE else BINARY for media in TYPES[kind]},
        headers={DIGEST_HEADER: True} | dict.fromkeys(names, False),
        answers={
            201: answer("It is durable; or, of `Upload-Complete: ?0`, the upload has begun.", begun, headers=state),
            200: answer("It was stored before, byte for byte.", one("Receipt"), headers=[UPLOAD_COMPLETE_HEADER]),
        },
        codes=_SEGMENT,
    )


def offset_docs() -> dict[str, Any]:
    """How far an upload is."""
    state = (UPLOAD_OFFSET_HEADER, UPLOAD_COMPLETE_HEADER, UPLOAD_LENGTH_HEADER, UPLOAD_LIMIT_HEADER)
    return route(
        "uploadOffset",
        "uploads",
        who=["robot"],
        answers={204: answer("The upload as it stands.", headers=state)},
        codes=["upload_unknown"],
    )


def append_docs() -> dict[str, Any]:
    """One more piece; after the last one the answer is that of a whole upload."""
    names = {DIGEST_HEADER: True, UPLOAD_OFFSET_HEADER: True, UPLOAD_COMPLETE_HEADER: True}
    state = (UPLOAD_OFFSET_HEADER, UPLOAD_COMPLETE_HEADER, UPLOAD_LIMIT_HEADER)
    done = "That was the last piece; the whole"
    return route(
        "appendToUpload",
        "uploads",
        who=["robot"],
        body={PIECE_TYPE: BINARY},
        headers=names | dict.fromkeys((ROBOT_TIME_HEADER, ROBOT_CLOCK_HEADER), False),
        answers={
            204: answer("The piece is durable.", headers=state),
            201: answer(f"{done} is durable.", one("Receipt"), headers=[UPLOAD_COMPLETE_HEADER]),
            200: answer(f"{done} was stored before.", one("Receipt"), headers=[UPLOAD_COMPLETE_HEADER]),
        },
        codes=[*_SEGMENT, "upload_unknown", "offset_mismatch", "too_many_pieces"],
    )


def cancel_docs() -> dict[str, Any]:
    """The end of an upload that nobody wants."""
    gone = answer("The upload and its pieces are gone.")
    return route("cancelUpload", "uploads", who=["robot"], answers={204: gone}, codes=["upload_unknown"])


def enrol_docs() -> dict[str, Any]:
    """A one-time token against a key that counts."""
    return route(
        "enrolRobot",
        "keys",
        who=["robot"],
        body={JSON: one("Enrolment")},
        headers={DIGEST_HEADER: True},
        answers=_known(),
        codes=[
            "bad_enrolment",
            "enrolment_unknown",
            "enrolment_used",
            "enrolment_revoked",
            "enrolment_expired",
            "key_retired",
        ],
    )


def new_key_docs() -> dict[str, Any]:
    """A new key beside the one that signs."""
    return route(
        "addKey",
        "keys",
        who=["robot"],
        body={JSON: one("NewKey")},
        headers={DIGEST_HEADER: True},
        answers=_known(),
        codes=["bad_new_key", "key_retired"],
    )


def retire_docs() -> dict[str, Any]:
    """The end of a key."""
    gone = answer("The key counts no longer, perhaps since before.")
    codes = ["key_in_use", "unknown_key_id"]
    return route("retireKey", "keys", who=["robot", "admin"], answers={204: gone}, codes=codes)


def alive_docs() -> dict[str, Any]:
    """Whether the process answers."""
    return route("isAlive", "health", answers={200: answer("The process answers.", one("Health"))})


def ready_docs() -> dict[str, Any]:
    """Whether the bucket answers too."""
    ready = answer("The bucket answers too.", one("Health"))
    return route("isReady", "health", answers={200: ready}, codes=["storage_unavailable"])


def _known() -> dict[int, Schema]:
    return {
        201: answer("The key counts from now on.", one("Known")),
        200: answer("It did already: a reply was lost.", one("Known")),
    }


def _implied(who: Sequence[Who], body: Mapping[str, Schema] | None) -> set[str]:
    """The codes that follow from who may call and from there being a body."""
    codes = {*_ANY, *_CODED}
    if "robot" in who:
        codes.update(_ROBOT)
    if set(who) - {"robot"}:
        codes.update(_PERSON)
    if body:
        codes.update(_BODY)
    return codes


def _refusals(codes: Iterable[str]) -> dict[int, Schema]:
    """One answer per status: a problem with one of its codes."""
    wanted, by_status = set(codes), dict[int, list[str]]()
    if not wanted <= PROBLEMS.keys():
        raise ValueError(f"there are no such codes: {sorted(wanted - PROBLEMS.keys())}")
    for code in PROBLEMS:
        if code in wanted:
            by_status.setdefault(PROBLEMS[code].status, []).append(code)
    return {status: _refusal(status, found) for status, found in by_status.items()}


def _refusal(status: int, codes: list[str]) -> Schema:
    members = {"status": {"const": status}, "code": {"enum": codes}}
    content = {"schema": {"allOf": [one("Problem"), {"properties": members}]}}
    headers = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status, [])
    return {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM_TYPE: content},
        "headers": {name: _header(name) for name in headers},
    }


def _header(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


def _answer_headers() -> dict[str, Schema]:
    return {name: {"description": what, "schema": schema} for name, (what, schema) in ANSWER_HEADERS.items()}


def _header_parameters(names: Mapping[str, bool]) -> list[Schema]:
    """By reference: the same field is required by some routes only."""
    return [{"$ref": f"#/components/parameters/{_parameter_name(*item)}"} for item in names.items()]


def _request_headers() -> dict[str, Schema]:
    found = {}
    for name, (what, schema) in REQUEST_HEADERS.items():
        for required in (True, False):
            parameter = {"in": "header", "name": name, "required": required, "description": what, "schema": schema}
            found[_parameter_name(name, required)] = parameter
    return found


def _used(parameters: dict[str, Schema], paths: Schema) -> dict[str, Schema]:
    text = json.dumps(paths)
    return {name: one for name, one in parameters.items() if f'/parameters/{name}"' in text}


def _parameter_name(name: str, required: bool) -> str:
    return name if required else f"{name}-Optional"


def _complete(operation: Schema) -> None:
    """What is the same for every route: its parameters' schemas by name, the headers of every answer, no 422."""
    operation["responses"].pop("422", None)  # what FastAPI would answer is 400 bad_parameter here
    for found in operation.get("parameters", []):
        if found.get("name") in PARAMETERS:
            found["schema"] = one(PARAMETERS[found["name"]])
    for response in operation["responses"].values():
        stamps = {name: _header(name) for name in (SERVER_TIME_HEADER, REQUEST_ID_HEADER)}
        response["headers"] = stamps | response.get("headers", {})
