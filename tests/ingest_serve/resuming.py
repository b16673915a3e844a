"""A robot's resumable upload by hand: each step as one request, right unless it is spoiled before it is sent."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass, replace

import requests

from edge import wire
from edge.segment import MAGIC
from tests.ingest_serve.conftest import Robot, Server, Upload

BODY = MAGIC + bytes(range(256)) * 4 + MAGIC
SIZE = len(BODY)


def digest_of(body: bytes) -> str:
    return wire.content_digest(hashlib.sha256(body).digest())


@dataclass(frozen=True)
class Resuming:
    """One robot's upload of `body`."""

    robot: Robot
    body: bytes
    kind: wire.Kind = "video"
    seq: int = 0
    content_type: str = wire.MCAP_TYPE

    @property
    def target(self) -> str:
        return self.robot.target(kind=self.kind, seq=self.seq)

    @property
    def id(self) -> str:
        return wire.upload_id(self.target, hashlib.sha256(self.body).hexdigest())

    @property
    def address(self) -> str:
        return wire.resume_target(self.robot.name, self.id)

    def at(self, server: Server) -> Resuming:
        """The same upload by way of another replica."""
        return replace(self, robot=replace(self.robot, server=server))

    def create(self, piece: bytes = b"", **headers: str | None) -> requests.Response:
        return self.robot.send(self.creation(piece, **headers))

    def creation(self, piece: bytes = b"", **headers: str | None) -> Upload:
        """The request that begins the upload, with some header values replaced, and signed as it is then."""
        right = {
            "Content-Type": self.content_type,
            "Content-Digest": digest_of(piece),
            "Repr-Digest": digest_of(self.body),
            "Upload-Complete": "?0",
            "Upload-Length": str(len(self.body)),
        }
        return self.robot.signed(Upload(self.target, right, piece).changed(**headers))

    def append(self, offset: int, end: int, *, complete: bool = False, **headers: str | None) -> requests.Response:
        return self.robot.send(self.piece(offset, end, complete=complete, **headers))

    def piece(self, offset: int, end: int, *, complete: bool = False, **headers: str | None) -> Upload:
        """The request that carries `body[offset:end]`, with some header values replaced, and signed as it is then."""
        piece = self.body[offset:end]
        right = {
            "Content-Type": wire.PIECE_TYPE,
            "Content-Digest": digest_of(piece),
            "Upload-Offset": str(offset),
            "Upload-Complete": "?1" if complete else "?0",
        }
        return self.robot.signed(Upload(self.address, right, piece, "PATCH").changed(**headers))

    def ask(self) -> requests.Response:
        return self.robot.send(self.question())

    def question(self) -> Upload:
        return self.robot.signed(Upload(self.address, {}, b"", "HEAD"))

    def cancel(self) -> requests.Response:
        return self.robot.send(self.cancellation())

    def cancellation(self) -> Upload:
        return self.robot.signed(Upload(self.address, {}, b"", "DELETE"))

    def offset(self) -> int | None:
        """Where the server says the upload stands; None where it knows of none."""
        response = self.ask()
        assert response.status_code in (204, 404), response.status_code
        return int(response.headers["Upload-Offset"]) if response.status_code == 204 else None


def half_sent(upload: Upload, server: Server, *, sent: int) -> socket.socket:
    """A connection over which a request's head and the first bytes of its body were sent."""
    connection = socket.create_connection(server.address, timeout=20)
    headers = {"Host": "x", "Content-Length": str(len(upload.body)), **upload.headers}
    head = [f"{upload.method} {upload.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + upload.body[:sent])
    return connection
