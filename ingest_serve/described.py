"""The vocabulary of the interface's description: names, header fields, bodies and answers as JSON Schema.

A name in a path or query has one schema wherever it appears; so has a header field. `openapi` puts them together.
"""

from __future__ import annotations

from typing import Any

from edge.wire import (
    MAX_SEQ,
    MAX_TIME_NS,
    REPR_DIGEST_HEADER,
    REQUEST_ID_HEADER,
    ROBOT_CLOCK_HEADER,
    ROBOT_TIME_HEADER,
    SERVER_TIME_HEADER,
    UPLOAD_COMPLETE_HEADER,
    UPLOAD_LENGTH_HEADER,
    UPLOAD_LIMIT_HEADER,
    UPLOAD_OFFSET_HEADER,
)
from ingest_serve.problems import PROBLEMS

Schema = dict[str, Any]

DIGEST_HEADER = "Content-Digest"
_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_DIGEST = {
    "type": "string",
    "pattern": "^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$",
    "examples": ["sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"],
}
_LENGTH = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1, "examples": [2500000]}
_COMPLETE = {"type": "string", "enum": ["?0", "?1"]}


def _text(pattern: str, example: str, what: str) -> Schema:
    return {"type": "string", "pattern": pattern, "description": what, "examples": [example]}


def _whole(most: int, example: int, what: str) -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": most, "description": what, "examples": [example]}


NAMES: dict[str, Schema] = {
    "Robot": _text("^[a-z0-9][a-z0-9._-]{0,62}$", "h1-amber", "One machine."),
    "Recording": _text(
        "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", "01M858NYVVJ0D88BZSHFCBNX5H", "One run of a recorder: a ULID, new each time."
    ),
    "Stream": _text("^[a-z0-9_][a-z0-9._-]{0,62}$", "head_camera", "One ordered series of segments in a recording."),
    "Seq": _whole(MAX_SEQ, 42, "The segment's number in its stream: 0, 1, 2 … without holes."),
    "TimeNs": _whole(MAX_TIME_NS, 1760000000000000000, "Nanoseconds since the Unix epoch."),
    "Time": {
        "type": "string",
        "pattern": "^([0-9]{1,19}|[0-9]{4}-[0-9]{2}-[0-9]{2}"
        "(T[0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?)$",
        "description": "A whole number of ns since the Unix epoch, or ISO 8601 (UTC where it names no zone).",
        "examples": ["1760000000000000000", "2026-01-01T00:00:00Z"],
    },
    "Sha256": _text("^[0-9a-f]{64}$", _SHA256, "SHA-256 in hex."),
    "KeyId": _text("^[0-9a-f]{16}$", "21fe31dfa154a261", "The first 16 hex digits of the raw public key's SHA-256."),
    "UploadId": _text("^[0-9a-f]{32}$", "9f2c1d8e0b7a46539f2c1d8e0b7a4653", "The name of an unfinished upload."),
    "TokenId": _text("^[0-9a-f]{16}$", "5f0e2c8a91d34b67", "The name of a person's token, which is no secret."),
    "PublicKey": _text(
        "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$",
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "An Ed25519 public key: base64 of its raw 32 bytes.",
    ),
}
# Which of them a parameter is, by its name, in whatever route it appears.
PARAMETERS = {
    "robot": "Robot",
    "recording": "Recording",
    "stream": "Stream",
    "seq": "Seq",
    "start_ns": "TimeNs",
    "end_ns": "TimeNs",
    "start": "Time",
    "end": "Time",
    "kid": "KeyId",
    "upload": "UploadId",
    "token_id": "TokenId",
}


def one(name: str) -> Schema:
    """The schema of one of `NAMES`, by reference."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(**properties: Schema) -> Schema:
    """A JSON object that has all of these members."""
    return {"type": "object", "required": sorted(properties), "properties": properties}


def _wish(**properties: Schema) -> Schema:
    """A JSON object of a request: no member must be there, none else may be."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _page(**rows: Schema) -> Schema:
    """A list of rows, and the cursor of those that follow."""
    lists: dict[str, Schema] = {name: {"type": "array", "items": row} for name, row in rows.items()}
    following = {"type": ["string", "null"], "description": "The `cursor` of the next page; null after the last row."}
    return record(**lists, next=following)


_SCOPES: Schema = {"type": "array", "items": {"enum": ["read", "publish", "admin"]}}
_TOKEN = record(
    token_id=one("TokenId"),
    name={"type": "string"},
    scopes=_SCOPES,
    created_ns=one("TimeNs"),
    expires_ns=one("TimeNs"),
    created_by={"type": "string", "description": "A person's token id, or who ran the command."},
)
REQUEST_HEADERS: dict[str, tuple[str, Schema]] = {
    DIGEST_HEADER: ("RFC 9530, of this request's body; the token signs it.", _DIGEST),
    REPR_DIGEST_HEADER: ("Of a resumable upload: RFC 9530, of the whole.", _DIGEST),
    ROBOT_TIME_HEADER: ("The robot's clock as it sends this, in ns since the Unix epoch.", one("TimeNs")),
    ROBOT_CLOCK_HEADER: (
        "What the robot knows of its clock: server's time minus its own, the drift of that, and what bounds both.",
        {
            "type": "string",
            "pattern": "^offset-ns=-?[0-9]{1,19}, uncertainty-ns=[0-9]{1,19}, drift-ppb=-?[0-9]{1,19}, "
            'drift-uncertainty-ppb=[0-9]{1,19}, boot="[0-9a-f-]{1,64}"$',
            "examples": [
                'offset-ns=-81250, uncertainty-ns=900000, drift-ppb=140, drift-uncertainty-ppb=20, boot="4b1e"'
            ],
        },
    ),
    UPLOAD_COMPLETE_HEADER: ("?1: this request carries the end of the upload; ?0: it does not.", _COMPLETE),
    UPLOAD_LENGTH_HEADER: ("Of a resumable upload: bytes of the whole.", _LENGTH),
    UPLOAD_OFFSET_HEADER: ("Where the piece begins: where the upload stands now.", _LENGTH),
}
ANSWER_HEADERS: dict[str, tuple[str, Schema]] = {
    SERVER_TIME_HEADER: ("The server's clock, in ns since the Unix epoch.", one("TimeNs")),
    REQUEST_ID_HEADER: ("This answer's name in the server's log.", {"type": "string", "examples": ["9b1f03aa-17"]}),
    UPLOAD_COMPLETE_HEADER: ("?1: the upload is done, or will never be; ?0: it can go on.", _COMPLETE),
    UPLOAD_LENGTH_HEADER: ("Bytes of the whole.", _LENGTH),
    UPLOAD_LIMIT_HEADER: (
        "The largest upload and the largest piece, in bytes.",
        {"type": "string", "pattern": "^max-size=[0-9]+, max-append-size=[0-9]+$"},
    ),
    UPLOAD_OFFSET_HEADER: ("Bytes of the upload that are durable.", _LENGTH),
    "Location": ("The address of what is told of.", {"type": "string", "format": "uri-reference"}),
    "Retry-After": ("Seconds to wait before the same again.", {"type": "integer", "minimum": 1}),
    "WWW-Authenticate": ("How to sign.", {"type": "string", "const": "Bearer"}),
}
_MEANINGS = "\n".join(f"- `{code}`: {problem.meaning}" for code, problem in PROBLEMS.items())
BINARY: Schema = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
SCHEMAS: dict[str, Schema] = NAMES | {
    "Receipt": record(
        key={"type": "string", "description": "The object in the bucket.", "examples": ["raw/h1-amber/…/0000000042"]},
        sha256=one("Sha256"),
        bytes={"type": "integer", "minimum": 0, "examples": [123]},
        server_time_ns=one("TimeNs"),
        already_stored={"type": "boolean", "description": "It was stored before, byte for byte."},
    )
    | {"description": "The server's word that a segment is durable. Free the disk only if sha256 and bytes match."},
    "Gap": record(
        first_seq=one("Seq"),
        last_seq=one("Seq"),
        start_ns=one("TimeNs"),
        end_ns=one("TimeNs"),
        cause={"type": "string", "enum": ["evicted", "quarantined", "lost"]},
        reason={"type": "string", "description": "A sentence."},
        size_bytes={"type": "integer", "description": "Of the segments that are gone."},
        counts={"type": "object", "additionalProperties": {"type": "integer"}, "description": "Messages by topic."},
    )
    | {"description": "Seqs first_seq..last_seq of a stream that will never arrive."},
    "UploadBegun": record(upload=one("UploadId"), offset={"type": "integer", "minimum": 0}),
    "Known": record(robot=one("Robot"), key_id=one("KeyId")) | {"description": "The robot's key counts."},
    "Enrolment": record(token={"type": "string", "description": "The one-time token."}, public_key=one("PublicKey")),
    "NewKey": record(
        public_key=one("PublicKey"),
        proof={"type": "string", "description": "A token over this method and target, signed by the new key."},
    ),
    "InvitationWish": _wish(lifetime_s=_whole(366 * 86_400, 86_400, "How long it is good; a day, if left out.")),
    "Invitation": record(robot=one("Robot"), token={"type": "string"}, expires_ns=one("TimeNs")),
    "Nothing": _wish(),
    "RobotRevoked": record(
        robot=one("Robot"),
        key_ids={"type": "array", "items": one("KeyId"), "description": "Those that counted until now."},
        invitations={"type": "integer", "minimum": 0, "description": "How many were unused until now."},
    ),
    "TokenWish": _wish(
        name={"type": "string", "minLength": 1, "maxLength": 100},
        scopes=_SCOPES | {"minItems": 1},
        days={"type": "number", "exclusiveMinimum": 0, "maximum": 3650, "default": 90},
    )
    | {"required": ["name", "scopes"]},
    "Token": _TOKEN,
    "TokenMade": _TOKEN
    | {"required": [*_TOKEN["required"], "token"], "properties": _TOKEN["properties"] | {"token": {"type": "string"}}},
    "Tokens": _page(tokens=one("Token")),
    "Robots": _page(robots=record(robot=one("Robot"), key_ids={"type": "array", "items": one("KeyId")})),
    "Quarantine": _page(
        items=record(
            kind={"enum": ["conflict", "quarantined"]},
            key={"type": "string"},
            bytes={"type": "integer", "minimum": 0},
            sha256=one("Sha256"),
            received_ns=one("TimeNs"),
        )
    ),
    "AuditPage": _page(
        entries=record(
            t_ns=one("TimeNs"),
            actor=record(kind={"enum": ["person", "robot", "cli"]}, id={"type": "string"}, name={"type": "string"}),
            act={"type": "string", "examples": ["revoke_robot"]},
            subject={"type": "string", "examples": ["robots/h1-amber"]},
            details={"type": "object"},
        )
    ),
    "Health": record(status={"const": "ok"}),
    "Problem": record(
        type={"type": "string", "format": "uri-reference", "const": "about:blank"},
        title={"type": "string", "description": "The status in words."},
        status={"type": "integer", "minimum": 400, "maximum": 599},
        code={"type": "string", "description": "What a client may act on.\n\n" + _MEANINGS},
        detail={"type": "string", "description": "A sentence for people."},
    )
    | {
        "description": "RFC 9457. With some codes come further members: `parameter`, `max_bytes`, `expected_offset`, …",
        "examples": [
            {
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "code": "bad_parameter",
                "detail": "seq: must be a whole number in digits",
                "parameter": "seq",
            }
        ],
    },
}
