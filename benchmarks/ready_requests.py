"""Requests that are ready to be sent: signed uploads of robots, and plain create-once PUTs of the same bodies to S3."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import signing, wire
from edge.segment import MAGIC
from fleetfeed.plan import REGION, StackInfo
from ingest_serve.audit import Actor
from ingest_serve.registry import Registry, invite

RECORDING = "01J00000000000000000000000"
SEGMENT_S = 10
START_NS = 1_760_000_000_000_000_000


@dataclass(frozen=True)
class Bodies:
    """Different bodies of one size, as files for the client: MCAP at both ends, random between."""

    paths: tuple[Path, ...]
    sha256: tuple[bytes, ...]
    size_bytes: int

    @classmethod
    def make(cls, folder: Path, *, count: int, size_bytes: int) -> Bodies:
        folder.mkdir(parents=True)
        paths, digests = [], []
        for number in range(count):
            body = MAGIC + os.urandom(size_bytes - 2 * len(MAGIC)) + MAGIC
            path = folder / f"{number}"
            path.write_bytes(body)
            paths.append(path)
            digests.append(hashlib.sha256(body).digest())
        return cls(tuple(paths), tuple(digests), size_bytes)

    def index(self, number: int) -> int:
        """Which body the request of this number carries."""
        return number % len(self.paths)


@dataclass(frozen=True)
class Robot:
    """A robot that is let in."""

    name: str
    key: Ed25519PrivateKey

    @classmethod
    def let_in(cls, registry: Registry, name: str) -> Robot:
        key, now_ns = Ed25519PrivateKey.generate(), time.time_ns()
        token = invite(registry, name, now_ns=now_ns, actor=Actor("benchmark", name, ""))
        registry.enrol(token, robot=name, public_key=signing.public_bytes(key.public_key()), now_ns=now_ns)
        return cls(name, key)


def uploads(
    bodies: Bodies, robots: Sequence[Robot], *, kind: wire.Kind, stream: str, count: int, host: str
) -> Iterator[tuple[str, int]]:
    """`count` signed POSTs: each the next segment of the next robot's stream. Good for two minutes."""
    for number in range(count):
        robot, seq, body = robots[number % len(robots)], number // len(robots), bodies.index(number)
        start_ns = START_NS + seq * SEGMENT_S * 10**9
        segment = wire.SegmentId(robot.name, RECORDING, stream, seq)
        target = wire.upload_target(segment, kind=kind, start_ns=start_ns, end_ns=start_ns + SEGMENT_S * 10**9)
        digest = wire.content_digest(bodies.sha256[body])
        fields = {"Content-Type": wire.MCAP_TYPE, wire.ROBOT_TIME_HEADER: str(time.time_ns())}
        token = signing.sign_request(
            robot.key,
            robot=robot.name,
            method="POST",
            target=target,
            digest=digest,
            now_ns=time.time_ns(),
            fields=signing.fields_claim(fields),
        )
        fields |= {"Host": host, "Authorization": f"Bearer {token}", "Content-Digest": digest}
        yield _head("POST", target, fields, bodies.size_bytes), body


def puts(bodies: Bodies, info: StackInfo, *, prefix: str, count: int, host: str) -> Iterator[tuple[str, int]]:
    """`count` create-once PUTs as S3's own clients make them: signed with the body's SHA-256."""
    credentials = Credentials(info.credentials.access_key_id, info.credentials.secret_access_key)
    signer = S3SigV4Auth(credentials, "s3", REGION)
    for number in range(count):
        body = bodies.index(number)
        target = f"/{info.bucket}/{prefix}/{number:010d}"
        request: Any = AWSRequest("PUT", f"http://{host}{target}", headers={"If-None-Match": "*"})
        request.headers["x-amz-checksum-sha256"] = wire.content_digest(bodies.sha256[body])[9:-1]
        request.data = bodies.paths[body].read_bytes()
        signer.add_auth(request)
        yield _head("PUT", target, {"Host": host, **request.headers}, bodies.size_bytes), body


def as_batch(bodies: Bodies, requests: Iterator[tuple[str, int]]) -> str:
    """What `benchmarks.ready_client` reads."""
    return json.dumps({"bodies": [str(path) for path in bodies.paths], "requests": list(requests)})


def _head(method: str, target: str, fields: dict[str, str], size_bytes: int) -> str:
    lines = (f"{name}: {value}\r\n" for name, value in (*fields.items(), ("Content-Length", str(size_bytes))))
    return f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n"
