"""The ingest service's contract in memory, behind `requests`: objects made once, uploads in pieces; and faults.

It checks what the real one checks: signatures, digests, offsets, gap records. `script` holds faults for the next
requests, first come first served.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import requests
import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from edge import signing, wire
from edge.errors import GapError, SignatureError
from edge.segment import looks_like_mcap

URL = "http://ingest.test"
ROBOT = "g1-007"


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def name(self) -> tuple[str, str, int]:
        """Recording, stream and seq of a POST."""
        query = parse_qs(urlsplit(self.target).query)
        return query["recording"][0], query["stream"][0], int(query["seq"][0])


@dataclass(frozen=True)
class Said:
    """One answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def code(self) -> str:
        return wire.problem(self.body).code


@dataclass(frozen=True)
class Stored:
    content_type: str
    body: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass
class Unfinished:
    """An upload in pieces."""

    key: str
    content_type: str
    length: int
    sha256: str
    pieces: list[bytes] = field(default_factory=list)

    @property
    def offset(self) -> int:
        return sum(map(len, self.pieces))


Fault = Callable[[Asked], Said]


class IngestDouble(BaseAdapter):
    """Mount `session` into an uploader. Any thread may use it."""

    def __init__(self, key: Ed25519PublicKey, *, clock: Callable[[], int] = time.time_ns) -> None:
        super().__init__()
        self.keys, self.clock = [key], clock
        self.asked: list[Asked] = []
        self.said: list[Said | None] = []  # None: nobody heard it
        self.script: list[Fault] = []
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Unfinished] = {}
        self.blocks: list[tuple[float, int]] = []  # of paced bodies: when each came, and its size
        self.gate = threading.Event()
        self.gate.set()
        self.inside = 0
        self._lock = threading.RLock()

    def session(self) -> requests.Session:
        session = requests.Session()
        session.mount(URL, self)
        return session

    def stored(self, recording: str, stream: str) -> dict[int, Stored]:
        """What is stored of a stream, by seq."""
        prefix = f"raw/{ROBOT}/{recording}/{stream}/"
        return {int(key.removeprefix(prefix)): one for key, one in sorted(self.objects.items()) if prefix in key}

    def asked_for(self, method: str) -> list[Asked]:
        return [one for one in self.asked if one.method == method]

    # -- faults ------------------------------------------------------------------------------------------------

    def problem(self, status: int, code: str, detail: str = "as told", **extra: Any) -> Said:
        return Said(status, json.dumps({"code": code, "detail": detail, **extra}).encode())

    def refuse(self, status: int, code: str, **headers: str) -> Fault:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return lambda _: Said(status, self.problem(status, code).body, named)

    def do(self, asked: Asked) -> Said:
        """No fault."""
        return self._serve(asked)

    def cut(self, asked: Asked) -> Said:
        """The link breaks before the body is whole."""
        raise requests.ConnectionError("cut on the way there")

    def lose_reply(self, asked: Asked) -> Said:
        self._serve(asked)
        raise requests.ConnectionError("cut on the way back")

    def change(self, asked: Asked) -> Said:
        """One bit of the body, where it has one, flips on the way."""
        at = len(asked.body) // 2
        body = asked.body[:at] + bytes([one ^ 1 for one in asked.body[at : at + 1]]) + asked.body[at + 1 :]
        return self._serve(Asked(asked.method, asked.target, asked.headers, body))

    # -- requests' side ----------------------------------------------------------------------------------------

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Called by `requests` for everything under `URL`."""
        body: Any = request.body or b""
        data = body if isinstance(body, bytes) else b"".join(self._blocks(body))
        asked = Asked(str(request.method), str(request.path_url), dict(request.headers), data)
        assert request.headers.get("Content-Length", "0") == str(len(data))
        return _response(request, self.answer(asked))

    def _blocks(self, body: IO[bytes]) -> Iterator[bytes]:
        """What a connection reads of a body, as it is given."""
        try:
            while block := body.read(1 << 14):
                self.blocks.append((time.monotonic(), len(block)))
                yield block
        except OSError as error:
            raise requests.ConnectionError(error) from error  # so does a connection

    def close(self) -> None:
        """Nothing is open."""

    def answer(self, asked: Asked) -> Said:
        """`requests.ConnectionError` where nobody hears it."""
        with self._lock:
            self.asked.append(asked)
            self.inside += 1
            fault = self.script.pop(0) if self.script else self._serve
        assert self.gate.wait(20)
        said = None
        try:
            said = fault(asked)
            return said
        finally:
            with self._lock:
                self.inside -= 1
                self.said.append(said)

    # -- the service -------------------------------------------------------------------------------------------

    def _serve(self, asked: Asked) -> Said:
        with self._lock:
            said = self._refusal(asked) or self._route(asked)
        return Said(said.status, said.body, {wire.SERVER_TIME_HEADER: str(self.clock()), **said.headers})

    def _refusal(self, asked: Asked) -> Said | None:
        """What is wrong with a request, whatever it asks for."""
        digest = asked.headers.get("Content-Digest", "")
        token = asked.headers["Authorization"].removeprefix("Bearer ")
        fields = (wire.UPLOAD_OFFSET_HEADER, wire.UPLOAD_COMPLETE_HEADER)
        upload = signing.upload_claim(*(asked.headers.get(name, "") for name in fields))
        known = {signing.key_id(signing.public_bytes(key)): key for key in self.keys}
        key = known.get(signing.token_key_id(token))
        if key is None:
            return self.problem(401, "unknown_key")
        try:
            signing.verify_request(
                token, lambda: key, robot=ROBOT, method=asked.method, target=asked.target, digest=digest,
                now_ns=self.clock(), upload=upload, fields=signing.fields_claim(asked.headers),
            )  # fmt: skip
        except SignatureError as error:
            return self.problem(401, error.code, str(error))
        if asked.method in ("POST", "PATCH") and wire.parse_content_digest(digest) != _sha256(asked.body).digest():
            return self.problem(400, "digest_mismatch")
        return None

    def _route(self, asked: Asked) -> Said:
        if found := re.fullmatch(rf"/v1/robots/{ROBOT}/uploads/(\w+)", asked.target):
            upload = self.uploads.get(found[1])
            if upload is None:
                return self.problem(404, "upload_unknown")
            return self._append(found[1], upload, asked) if asked.method == "PATCH" else self._state(204, upload)
        if found := re.fullmatch(rf"/v1/robots/{ROBOT}/keys(/\w+)?", asked.target):
            return self._retire(found[1][1:], asked) if asked.method == "DELETE" else self._take_key(asked)
        assert asked.method == "POST"
        assert re.match(rf"/v1/robots/{ROBOT}/(telemetry|video)\?", asked.target)
        key = wire.SegmentId(ROBOT, *asked.name).key
        if asked.headers.get(wire.UPLOAD_COMPLETE_HEADER) == "?0":
            return self._create(key, asked)
        return self._store(key, Stored(asked.headers["Content-Type"], asked.body), target=asked.target)

    def _take_key(self, asked: Asked) -> Said:
        body = json.loads(asked.body)
        new = Ed25519PublicKey.from_public_bytes(base64.b64decode(body["public_key"]))
        signing.verify_request(
            body["proof"], lambda: new, robot=ROBOT, method="POST", target=asked.target, digest="", now_ns=self.clock()
        )
        self.keys.append(new)
        kid = signing.key_id(signing.public_bytes(new))
        return Said(201, json.dumps({"robot": ROBOT, "key_id": kid}).encode())

    def _retire(self, kid: str, asked: Asked) -> Said:
        if signing.token_key_id(asked.headers["Authorization"].removeprefix("Bearer ")) == kid:
            return self.problem(409, "key_in_use")
        self.keys = [key for key in self.keys if signing.key_id(signing.public_bytes(key)) != kid]
        return Said(204)

    def _create(self, key: str, asked: Asked) -> Said:
        sha256 = wire.parse_content_digest(asked.headers[wire.REPR_DIGEST_HEADER]).hex()
        if key in self.objects:
            return self._stored_already(key, sha256)
        name, length = wire.upload_id(asked.target, sha256), int(asked.headers[wire.UPLOAD_LENGTH_HEADER])
        upload = self.uploads.setdefault(name, Unfinished(key, asked.headers["Content-Type"], length, sha256))
        if asked.body and not upload.pieces:
            upload.pieces.append(asked.body)
        return self._state(201, upload, Location=wire.resume_target(ROBOT, name))

    def _append(self, name: str, upload: Unfinished, asked: Asked) -> Said:
        assert asked.headers["Content-Type"] == wire.PIECE_TYPE
        offset, is_last = int(asked.headers[wire.UPLOAD_OFFSET_HEADER]), asked.headers[wire.UPLOAD_COMPLETE_HEADER]
        if offset != upload.offset:
            told = self._state(409, upload)
            return Said(409, self.problem(409, "offset_mismatch", expected_offset=upload.offset).body, told.headers)
        end = offset + len(asked.body)
        if end > upload.length or (is_last == "?1" and end < upload.length):
            return self.problem(400, "upload_length")
        if asked.body:
            upload.pieces.append(asked.body)
        if is_last == "?0":
            return self._state(204, upload)
        del self.uploads[name]
        whole = Stored(upload.content_type, b"".join(upload.pieces))
        if whole.sha256 != upload.sha256:
            return self.problem(400, "digest_mismatch")
        return self._store(upload.key, whole, target=asked.target)

    def _state(self, status: int, upload: Unfinished, **headers: str) -> Said:
        told = {wire.UPLOAD_OFFSET_HEADER: str(upload.offset), wire.UPLOAD_COMPLETE_HEADER: "?0"}
        return Said(status, b"", {**told, **headers})

    def _store(self, key: str, new: Stored, *, target: str) -> Said:
        if key in self.objects:
            return self._stored_already(key, new.sha256)
        if new.content_type == wire.GAP_TYPE:
            try:
                gap = wire.Gap.parse(new.body)
            except GapError as error:
                return self.problem(400, "bad_gap", str(error))
            query = parse_qs(urlsplit(target).query)
            told = [int(query[name][0]) for name in ("seq", "start_ns", "end_ns")]
            if told != [gap.first_seq, gap.start_ns, gap.end_ns] or len(new.body) > wire.MAX_GAP_BYTES:
                return self.problem(400, "bad_gap")
        elif new.content_type == wire.MCAP_TYPE and not looks_like_mcap(new.body):
            return self.problem(400, "not_a_segment")
        self.objects[key] = new
        return self._receipt(201, key)

    def _stored_already(self, key: str, sha256: str) -> Said:
        stored = self.objects[key]
        if stored.sha256 != sha256:
            return self.problem(409, "conflict", stored_sha256=stored.sha256)
        return self._receipt(200, key)

    def _receipt(self, status: int, key: str) -> Said:
        one = self.objects[key]
        receipt = wire.Receipt(key, one.sha256, len(one.body), self.clock(), already_stored=status == 200)
        return Said(status, json.dumps(receipt.as_json()).encode())


@contextmanager
def on_a_socket(double: IngestDouble) -> Iterator[str]:
    """The same service behind a real connection on loopback; yields its URL. What nobody hears is cut off."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                said = double.answer(Asked(self.command, self.path, self.headers, body))  # type: ignore[arg-type]
            except requests.ConnectionError:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(said.status)
            length = {"Content-Length": str(len(said.body))} if said.status != 204 else {}
            for name, value in {**said.headers, **length}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.body)

        do_POST = do_PATCH = do_HEAD = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()


def _response(request: requests.PreparedRequest, said: Said) -> requests.Response:
    response = requests.Response()
    response.status_code, response.headers = said.status, CaseInsensitiveDict(said.headers)
    response.raw = urllib3.HTTPResponse(io.BytesIO(said.body), said.headers, said.status, preload_content=False)
    response.request, response.url = request, str(request.url)
    return response


def _sha256(body: bytes) -> Any:
    return hashlib.sha256(body)
