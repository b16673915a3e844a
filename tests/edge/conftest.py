"""What the tests of the robot side share: a spool to look into, pictures, and a scripted ingest server on loopback."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import av
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from numpy.typing import NDArray

from edge import segment, wire
from edge.identity import Identity
from edge.records import Topic
from edge.segment import Message
from edge.spool import Spool, Spooled

RECORDING = "01J00000000000000000000000"
START_NS = 1_760_000_000_000_000_000
LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine the tests run on."""
    for name in list(os.environ):
        if name.startswith("FLEETFEED_EDGE_") or name == "FLEETFEED_CONFIG":
            monkeypatch.delenv(name)


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("FLEETFEED_REAL_DATA")
    if not folder:
        pytest.skip("FLEETFEED_REAL_DATA names no folder of real recordings")
    return Path(folder)


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition, with a limit."""

    def wait(condition: Callable[[], object], *, limit_s: float = LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.005)

    return wait


@pytest.fixture
def picture() -> Callable[..., NDArray[np.uint8]]:
    """A picture in which something moves with its number."""

    def make(number: int, *, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
        image = np.zeros((height, width, 3), np.uint8)
        image[:, :, 1] = np.linspace(0, 255, width, dtype=np.uint8)
        image[:, (number * 3) % width, :] = 255
        return image

    return make


@dataclass
class SpoolView:
    """A spool folder as a reader sees it."""

    spool: Spool

    def segments(self, stream: str, *, recording: str | None = None) -> list[Spooled]:
        found = [one for one in self.spool.waiting() if one.stream == stream and recording in (None, one.recording)]
        return sorted(found, key=lambda one: (one.recording, one.seq))

    def body(self, spooled: Spooled) -> bytes:
        return self.spool.data_path(spooled).read_bytes()

    def messages(self, stream: str, *, recording: str | None = None) -> list[Message]:
        """All messages of a stream in the order of its segments, each of which must be whole."""
        found: list[Message] = []
        for one in self.segments(stream, recording=recording):
            body = self.body(one)
            assert (hashlib.sha256(body).hexdigest(), len(body)) == (one.sha256, one.bytes)
            found += segment.read_messages(io.BytesIO(body))
        return found

    def closing(self, *, recording: str | None = None) -> list[dict[str, Any]]:
        """The closing records that wait here."""
        agent = self.messages("_agent", recording=recording)
        return [json.loads(one.data) for one in agent if one.topic.name == "/recording/closed"]

    def files(self) -> dict[str, bytes]:
        """Every file under the folder."""
        paths = (path for path in self.spool.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.spool.folder)): path.read_bytes() for path in paths}

    def add(self, seq: int, *, recording: str = RECORDING, stream: str = "telemetry", messages: int = 3) -> Spooled:
        """Seal a small segment."""
        kind = "telemetry" if stream in ("telemetry", "_agent", "_events") else "video"
        at_ns = START_NS + seq * 1_000_000_000
        data = [Message(Topic("/t", "json"), at_ns + n, n, b'{"n":%d}' % (seq * 1000 + n)) for n in range(messages)]
        built = segment.build(data)
        assert built is not None
        return self.spool.add((recording, stream, seq), *built, kind=kind, content_type=wire.MCAP_TYPE)


@pytest.fixture(scope="session")
def view() -> Callable[[Path], SpoolView]:
    return lambda folder: SpoolView(Spool(folder))


@pytest.fixture
def frames_of() -> Callable[[list[Message]], list[NDArray[np.uint8]]]:
    """Decode video messages alone, from nothing but themselves."""

    def decode(messages: list[Message]) -> list[NDArray[np.uint8]]:
        codec: Any = av.CodecContext.create("h264", "r")
        packets = [av.Packet(CompressedVideo.FromString(one.data).data) for one in messages]
        frames = [frame for packet in [*packets, None] for frame in codec.decode(packet)]
        return [frame.to_ndarray(format="rgb24") for frame in frames]

    return decode


@pytest.fixture
def units_of() -> Callable[[bytes], list[int]]:
    """The NAL unit types of an Annex B access unit, in order (5: IDR slice, 7: SPS, 8: PPS)."""

    def types(data: bytes) -> list[int]:
        starts = [at + 3 for at in range(len(data) - 3) if data[at : at + 3] == b"\0\0\1"]
        return [data[at] & 31 for at in starts]

    return types


# -- the scripted server ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    target: str
    headers: dict[str, str]
    body: bytes
    at_s: float


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False


class ScriptedServer:
    """Answers as its `script` says, first come first served, and after that as the ingest service does."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.script: list[Callable[[Request], Answer]] = []
        self.stored: dict[str, bytes] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.inside = self.most_inside = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = server.answer(Request(self.path, dict(self.headers.items()), body, time.monotonic()))
                if answer.reset:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()
                    self.rfile = self.wfile = io.BytesIO()
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            scripted = self.script.pop(0) if self.script else self.store
        self.gate.wait(LIMIT_S)
        try:
            return scripted(request)
        finally:
            with self._lock:
                self.inside -= 1

    def store(self, request: Request) -> Answer:
        """A receipt: 201 for new bytes, 200 for the same again."""
        sha256 = hashlib.sha256(request.body)
        if base64.b64encode(sha256.digest()).decode() not in request.headers["Content-Digest"]:
            return self.problem(400, "digest_mismatch", "the body is not what its digest says")
        key = request.target.split("?")[1].split("&start_ns")[0]
        status = 200 if key in self.stored else 201
        self.stored[key] = request.body
        return self.json(status, self.receipt(request, already_stored=status == 200))

    def receipt(self, request: Request, **changed: Any) -> dict[str, Any]:
        sha256 = hashlib.sha256(request.body).hexdigest()
        parts = urlsplit(request.target)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        key = wire.SegmentId(parts.path.split("/")[3], asked["recording"], asked["stream"], int(asked["seq"])).key
        whole = wire.Receipt(key, sha256, len(request.body), time.time_ns(), already_stored=False)
        return {**whole.as_json(), **changed}

    def json(self, status: int, value: Any, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})

    def problem(self, status: int, code: str, detail: str, **headers: str) -> Answer:
        return self.json(status, {"code": code, "detail": detail}, **headers)

    def page(self, status: int) -> Answer:
        """What a proxy or a captive portal says."""
        return Answer(status, b"<html>please log in</html>", {"Content-Type": "text/html"})

    def reset(self, _request: Request) -> Answer:
        return Answer(0, reset=True)

    def close(self) -> None:
        self.gate.set()
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    one = ScriptedServer()
    yield one
    one.close()


@pytest.fixture(scope="session")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def robot(key: Ed25519PrivateKey) -> Identity:
    return Identity("g1-007", key)
