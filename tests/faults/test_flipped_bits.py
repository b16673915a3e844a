"""One bit of a request changes on the way to the server: it is refused, or what is stored is what was sent.

Nothing between robot and server but TCP, whose own checksum lets such changes pass now and then.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import signing, wire
from edge.segment import MAGIC
from ingest_serve.pieces import Creation
from ingest_serve.registry import Registry, invite
from tests.faults.flipped_requests import Right, as_bytes, bits, send_flipped
from tests.ingest_serve.conftest import RECORDING, START_NS, Robot, Upload, serve
from tests.ingest_serve.conftest import storage as storage
from tests.ingest_serve.resuming import Resuming

END_NS = START_NS + 10_000_000_000
FIRST_SEQ = 100_000  # of as many digits as all that follow
MP4 = b"\x00\x00\x00\x18ftypisom" + b"what a camera saw" * 3
CLOCK = 'offset-ns=-81250, uncertainty-ns=900000, drift-ppb=140, drift-uncertainty-ppb=20, boot="4b1e"'
ROBOT_FIELDS = {wire.ROBOT_TIME_HEADER: "1760000000000000007", wire.ROBOT_CLOCK_HEADER: CLOCK}
TAKEN = (200, 201, 204)


@dataclass
class Sender:
    """Makes right requests, each with a seq of its own, and notes what each may leave."""

    robot: Robot
    right: Right = field(default_factory=Right)
    seq: int = FIRST_SEQ

    def whole(self, body: bytes, kind: wire.Kind, content_type: str) -> tuple[Upload, str]:
        self.seq += 1
        upload = self.robot.upload(body, seq=self.seq, kind=kind, content_type=content_type)
        return self._signed(upload.changed(**ROBOT_FIELDS)), self._may_store(body, kind, content_type)

    def telemetry(self) -> tuple[Upload, str]:
        return self.whole(MAGIC + b"%d" % self.seq + MAGIC, "telemetry", wire.MCAP_TYPE)

    def video(self) -> tuple[Upload, str]:
        return self.whole(MP4 + b"%d" % self.seq, "video", wire.MP4_TYPE)

    def gap(self) -> tuple[Upload, str]:
        first = self.seq + 1
        gap = wire.Gap(first, first + 2, START_NS, END_NS, "evicted", "the disk was full", 5, {"/t": 3})
        return self.whole(gap.as_bytes(), "telemetry", wire.GAP_TYPE)

    def creation(self) -> tuple[Upload, str]:
        upload = self._resuming()
        creation = upload.creation(upload.body[:20], **ROBOT_FIELDS)
        return self._signed(creation), f"uploads/{self.robot.name}/{upload.id}/creation"

    def piece(self) -> tuple[Upload, str]:
        upload = self._resuming()
        assert upload.create(upload.body[:20], **ROBOT_FIELDS).status_code == 201
        piece = upload.piece(20, 40, **ROBOT_FIELDS)
        return self._signed(piece), f"uploads/{self.robot.name}/{upload.id}/{20:012d}"

    def last_piece(self) -> tuple[Upload, str]:
        upload = self._resuming(last=True)
        assert upload.create(upload.body[:20], **ROBOT_FIELDS).status_code == 201
        return self._signed(upload.piece(20, len(upload.body), complete=True, **ROBOT_FIELDS)), self._key()

    def enrolment(self) -> tuple[Upload, str]:
        self.seq += 1
        one = Robot(self.robot.server, f"robot-{self.seq}", Ed25519PrivateKey.generate())
        token = invite(Registry(self.robot.server.bucket), one.name, now_ns=self.robot.server.clock())
        body = json.dumps({"token": token, "public_key": _public(one.key)}).encode()
        return one.upload(body, target=wire.enrol_target(one.name)), self.may_enrol(one.name, one.key)

    def new_key(self) -> tuple[Upload, str]:
        key, target = Ed25519PrivateKey.generate(), wire.keys_target(self.robot.name)
        proof = Robot(self.robot.server, self.robot.name, key).token(target, "")
        body = json.dumps({"public_key": _public(key), "proof": proof}).encode()
        return self.robot.upload(body, target=target), self.may_enrol(self.robot.name, key)

    def _signed(self, upload: Upload) -> Upload:
        """As an agent signs: every field that says something of the upload."""
        headers = upload.headers
        token = self.robot.token(
            upload.target,
            headers["Content-Digest"],
            method=upload.method,
            upload=signing.upload_claim(headers.get("Upload-Offset", ""), headers.get("Upload-Complete", "")),
            fields=signing.fields_claim(headers),
        )
        return upload.changed(Authorization=f"Bearer {token}")

    def _key(self) -> str:
        return wire.SegmentId(self.robot.name, RECORDING, "telemetry", self.seq).key

    def _may_store(self, body: bytes, kind: wire.Kind, content_type: str) -> str:
        facts = {
            "Content-Type": content_type,
            "kind": kind,
            "sha256": hashlib.sha256(body).hexdigest(),
            "start-ns": str(START_NS),
            "end-ns": str(END_NS),
            "key-id": self.robot.kid,
            "robot-time-ns": ROBOT_FIELDS[wire.ROBOT_TIME_HEADER],
            "robot-clock": CLOCK,
        }
        self.right.add(self._key(), body, facts=facts)
        return self._key()

    def _resuming(self, *, last: bool = False) -> Resuming:
        """An upload that nobody has begun; it may leave its creation, its pieces, or the whole."""
        self.seq += 1
        upload = Resuming(self.robot, MAGIC + b"%d" % self.seq * 6 + MAGIC, seq=self.seq)
        body, sha256 = upload.body, hashlib.sha256(upload.body).hexdigest()
        segment = wire.SegmentId(self.robot.name, RECORDING, "telemetry", self.seq)
        creation = Creation(segment, "video", wire.MCAP_TYPE, len(body), sha256, START_NS, END_NS, CLOCK)
        prefix = f"uploads/{self.robot.name}/{upload.id}"
        self.right.add(f"{prefix}/creation", creation.as_bytes(), facts={"Content-Type": "application/json"})
        self._may_add(f"{prefix}/{0:012d}", body[:20])
        self._may_add(f"{prefix}/{20:012d}", body[20:] if last else body[20:40])
        self._may_store(body, "video", wire.MCAP_TYPE)
        return upload

    def _may_add(self, key: str, piece: bytes) -> None:
        self.right.add(key, piece, facts={"sha256": hashlib.sha256(piece).hexdigest()})

    def may_enrol(self, robot: str, key: Ed25519PrivateKey) -> str:
        kid = signing.key_id(signing.public_bytes(key.public_key()))
        name = f"registry/robots/{robot}/keys/{kid}.json"
        self.right.add_json(name, {"robot": robot, "key_id": kid, "public_key": _public(key)})
        return name


def _public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(signing.public_bytes(key.public_key())).decode()


REQUESTS: dict[str, tuple[Callable[[Sender], tuple[Upload, str]], int]] = {
    "telemetry": (Sender.telemetry, 50),
    "video": (Sender.video, 20),
    "gap": (Sender.gap, 20),
    "creation": (Sender.creation, 25),
    "piece": (Sender.piece, 20),
    "last piece": (Sender.last_piece, 25),
    "enrolment": (Sender.enrolment, 20),
    "new key": (Sender.new_key, 20),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_of_which_a_bit_has_changed_stores_nothing_wrong(storage: Any, name: str) -> None:
    make, test = REQUESTS[name]
    with serve(storage) as server:
        sender = Sender(server.new_robot())
        sender.may_enrol(sender.robot.name, sender.robot.key)
        length = len(as_bytes(make(sender)[0], server))
        stored = set[str]()
        for bit in bits(length, test=test, seed=len(name)):
            upload, key = make(sender)
            if send_flipped(upload, server, bit) in TAKEN:
                stored.add(key)
        assert stored <= sender.right.check(server.bucket), "acknowledged, and not there"
