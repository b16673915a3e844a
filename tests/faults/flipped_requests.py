"""Requests of which one bit changes on the way, and what a lake may hold after them."""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ingest_serve.bucket import Bucket, Head
from tests.faults.campaign import is_soak
from tests.faults.storage_proxy import flipped
from tests.ingest_serve.conftest import Server, Upload

WAIT_S = 0.4  # for an answer; a server that was told of more bytes than come waits longer
ROOTS = ("raw", "conflicts", "uploads", "registry/robots")


@dataclass(frozen=True, slots=True)
class Bit:
    """Bit `bit` of byte `at`."""

    at: int
    bit: int


@dataclass
class Right:
    """Every object that right requests may leave, by key."""

    objects: dict[str, Callable[[Head, bytes], bool]] = field(default_factory=dict)

    def add(self, key: str, *bodies: bytes, facts: Mapping[str, str]) -> None:
        """One of these bodies, with just this metadata; S3 makes a `Content-Type` up where none was told."""
        made_up = () if "Content-Type" in facts else ("Content-Type",)
        self.objects[key] = lambda head, body: body in bodies and _facts(head, *made_up) == facts

    def add_json(self, key: str, facts: Mapping[str, object]) -> None:
        """A JSON object that has these members, perhaps beside others."""
        self.objects[key] = lambda _, body: json.loads(body) == {**json.loads(body), **facts}

    def check(self, bucket: Bucket, *, roots: Sequence[str] = ROOTS) -> set[str]:
        """All keys in the lake below these roots; fails where one is not right in all."""
        keys = {f"{root}/{name}" for root in roots for name in bucket.names(root)}
        assert keys <= self.objects.keys(), f"nobody sent {sorted(keys - self.objects.keys())[:5]}"
        for key in keys:
            found = bucket.read(key)
            assert found is not None
            assert self.objects[key](*found), f"{key} has changed on the way: {found}"
        return keys


def _facts(head: Head, *left_out: str) -> dict[str, str]:
    return {name: value for name, value in head.attributes.items() if name not in ("received-ns", *left_out)}


def bits(length: int, *, test: int, seed: int = 0) -> Iterator[Bit]:
    """Every bit of a request in a soak; else `test` of them, in every region."""
    if is_soak():
        yield from (Bit(at, bit) for at in range(length) for bit in range(8))
        return
    dice = random.Random(seed)
    for n in range(test):
        yield Bit(dice.randrange(n * length // test, (n + 1) * length // test), dice.randrange(8))


def as_bytes(upload: Upload, server: Server) -> bytes:
    """The whole request."""
    headers = {"Host": "x", "Content-Length": str(len(upload.body)), **upload.headers}
    head = [f"{upload.method} {upload.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + upload.body


def send_flipped(upload: Upload, server: Server, bit: Bit) -> int | None:
    """Send a request with this bit changed; the status of the answer, None where none came or it was no HTTP."""
    with socket.create_connection(server.address, timeout=WAIT_S) as connection:
        try:
            connection.sendall(flipped(as_bytes(upload, server), at=bit.at, bit=bit.bit))
            response = http.client.HTTPResponse(connection, method=upload.method)
            response.begin()
            response.read()
        except (OSError, http.client.HTTPException):
            return None
        return response.status
