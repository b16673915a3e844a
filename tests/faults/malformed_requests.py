"""Requests drawn from the interface's description, right and wrong, and signed over whatever they hold.

Schemathesis draws path, query, fields and body, within their schemas or against them; a `Drawn` request makes bytes of
them. What is drawn besides is how far it is put right: a robot's own name, the digest of what it carries, a signature.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import schemathesis
from hypothesis import strategies as st
from schemathesis.core import NotSet
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation

from edge import signing, wire
from edge.segment import MAGIC
from tests.ingest_serve.conftest import Robot
from tests.ingest_serve.malformed import request
from tests.ingest_serve.resuming import digest_of

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs/openapi.json").read_text())
_ANY = st.binary(max_size=300)
_BODIES = {
    wire.MCAP_TYPE: _ANY | _ANY.map(lambda data: MAGIC + data + MAGIC),
    wire.MP4_TYPE: _ANY | _ANY.map(lambda data: b"\x00\x00\x00\x18ftypisom" + data),
    wire.PIECE_TYPE: _ANY,
}


@schemathesis.serializer(*_BODIES)
def _as_it_is(_context: Any, value: bytes) -> bytes:
    return value


for _media, _bodies in _BODIES.items():
    schemathesis.openapi.media_type(_media, _bodies)

SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS: dict[str, APIOperation] = {
    found.ok().definition.raw["operationId"]: found.ok() for found in SCHEMA.get_all_operations()
}


@dataclass(frozen=True, slots=True)
class Mended:
    """What is put right in a drawn request, so that it gets past what comes first."""

    names: bool
    digest: bool
    signature: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """One request, not yet signed. `fields` may be no text that HTTP can carry: then `raw` is what it may look like."""

    method: str
    path: str
    query: str
    fields: dict[str, str]
    body: bytes
    is_robots: bool
    mended: Mended

    def raw(self, robot: Robot, *, person: str) -> bytes:
        """Its bytes, signed by the robot or with the person's token, unless it is left as it was drawn."""
        target = f"{self.path}?{self.query}" if self.query else self.path
        fields = dict(self.fields)
        if self.mended.digest and self.is_robots and self.body:
            fields["Content-Digest"] = digest_of(self.body)
        if self.mended.signature:
            token = self._token(robot, target, fields) if self.is_robots else person
            fields["Authorization"] = f"Bearer {token}"
        fields["Content-Length"] = str(len(self.body))
        return request(self.method, target, {_text(name): _text(value) for name, value in fields.items()}, self.body)

    def _token(self, robot: Robot, target: str, fields: dict[str, str]) -> str:
        sent = {name.lower(): value for name, value in fields.items()}
        claim = signing.upload_claim(sent.get("upload-offset", ""), sent.get("upload-complete", ""))
        return robot.token(target, sent.get("content-digest", ""), method=self.method, upload=claim)


def drawn(operation: APIOperation, names: dict[str, str]) -> st.SearchStrategy[Drawn]:
    """Requests for one operation, half of them within its description. `names`: of what there is, by path parameter."""
    flags = st.sampled_from([True, True, True, False])
    mended = st.builds(Mended, names=flags, digest=flags, signature=flags)
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    cases = st.one_of(operation.as_strategy(generation_mode=mode) for mode in modes)
    return st.builds(lambda case, how: _drawn(operation, case, how, names), cases, mended)


def _drawn(operation: APIOperation, case: Any, mended: Mended, names: dict[str, str]) -> Drawn:
    raw: dict[str, Any] = operation.definition.raw
    named = {name: str(value) for name, value in (case.path_parameters or {}).items()}
    asked = dict(case.query or {})
    if mended.names:
        named |= {name: value for name, value in names.items() if name in named}
        asked = _in_order(asked)
    path = operation.path
    for name, value in named.items():
        path = path.replace(f"{{{name}}}", quote(value, safe="%", errors="surrogatepass"))
    fields = {str(name): _spelt(value) for name, value in (case.headers or {}).items()}
    if case.media_type:
        fields["Content-Type"] = case.media_type
    is_robots = any("robot" in one for one in raw.get("security", []))
    query = urlencode(list(_pairs(asked)), errors="surrogatepass")
    return Drawn(operation.method.upper(), path, query, fields, _body(case.body), is_robots, mended)


def _in_order(query: dict[str, Any]) -> dict[str, Any]:
    """With a range of times that is not backwards, which a schema cannot say."""
    start, end = query.get("start_ns"), query.get("end_ns")
    if isinstance(start, int) and isinstance(end, int):
        return query | {"start_ns": min(start, end), "end_ns": max(start, end)}
    return query


def _pairs(query: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in query.items():
        for one in value if isinstance(value, list) else [value]:
            yield str(name), _spelt(one)


def _spelt(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _body(body: Any) -> bytes:
    if isinstance(body, NotSet):
        return b""
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode(errors="surrogatepass")


def _text(value: str) -> str:
    """As the bytes that a careless client would send, in Latin-1; no line ends, or it would be another request."""
    return value.encode(errors="surrogatepass").decode("latin-1").replace("\r", "?").replace("\n", "?")


def spoiled(raw: bytes) -> st.SearchStrategy[bytes]:
    """A request of which bytes are changed, left out, added, or said twice; or that is cut off."""
    at = st.integers(0, len(raw) - 1)
    some = st.binary(min_size=1, max_size=8) | st.sampled_from(
        [b"\r\n", b"\x00", b"%00", b"..", b"//", b" ", b"\xff", b":"]
    )
    return st.one_of(
        st.builds(lambda i, new: raw[:i] + new + raw[i + len(new) :], at, some),
        st.builds(lambda i, new: raw[:i] + new + raw[i:], at, some),
        st.builds(lambda i, j: raw[: min(i, j)] + raw[max(i, j) :], at, at),
        st.builds(lambda i, j: raw[: max(i, j)] + raw[min(i, j) :], at, at),
        st.builds(lambda i: raw[:i], at),
    )
