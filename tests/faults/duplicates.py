"""What a robot may send of a few segments, again and again, and what must be answered and stored: the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

from edge import wire
from edge.segment import MAGIC
from edge.wire import GAP_TYPE, MCAP_TYPE, Gap, Kind
from tests.ingest_serve.conftest import RECORDING, START_NS, Robot, Upload
from tests.ingest_serve.resuming import Resuming

Content = Literal["a", "b", "gap"]
Act = Literal["whole", "create", "piece", "ask", "cancel"]
SIZE = 300
THIRDS = (0, 100, 200, SIZE)


@dataclass(frozen=True, slots=True)
class Item:
    """Bytes that want the name of `seq`; those of "gap" are a record of three seqs that are missing."""

    seq: int
    kind: Kind
    content: Content

    @property
    def body(self) -> bytes:
        if self.content == "gap":
            end_ns = START_NS + 10_000_000_000
            return Gap(self.seq, self.seq + 2, START_NS, end_ns, "lost", "the disk broke", 9, {}).as_bytes()
        return MAGIC + f"{self.content}{self.seq}".encode().ljust(SIZE - 2 * len(MAGIC), b".") + MAGIC

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def content_type(self) -> str:
        return GAP_TYPE if self.content == "gap" else MCAP_TYPE

    def key(self, robot: str) -> str:
        return f"raw/{robot}/{RECORDING}/telemetry/{self.seq:010d}"


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as it was signed and sent, which may be sent again; `begin`..`end` are the bytes of its piece."""

    act: Act
    item: Item
    upload: Upload
    id: str
    key_id: str
    begin: int = 0
    end: int = 0

    @property
    def completes(self) -> bool:
        """Whether it may make a raw object."""
        return self.act == "whole" or (self.act == "piece" and self.end == len(self.item.body))

    @property
    def facts(self) -> dict[str, str]:
        """What an object that it makes says of itself, but for the moment at which it was received."""
        return {
            "Content-Type": self.item.content_type,
            "kind": self.item.kind,
            "sha256": self.item.sha256,
            "start-ns": str(START_NS),
            "end-ns": str(START_NS + 10_000_000_000),
            "key-id": self.key_id,
        }


def make(robot: Robot, act: Act, item: Item, *, begin: int = 0, end: int = 0) -> Sent:
    """A right request, signed with the robot's present key."""
    resuming = Resuming(robot, item.body, kind=item.kind, seq=item.seq, content_type=item.content_type)
    match act:
        case "whole":
            upload = robot.upload(item.body, seq=item.seq, kind=item.kind, content_type=item.content_type)
        case "create":
            upload = resuming.creation(item.body[:end])
        case "piece":
            upload = resuming.piece(begin, end, complete=end == len(item.body))
        case "ask":
            upload = resuming.question()
        case "cancel":
            upload = resuming.cancellation()
    return Sent(act, item, upload, wire.upload_id(resuming.target, item.sha256), robot.kid, begin, end)


@dataclass
class Model:
    """What the bucket holds: the first bytes of each seq, others that came for it, and the unfinished uploads."""

    stored: dict[int, str] = field(default_factory=dict)  # seq -> sha256
    conflicts: set[tuple[int, str]] = field(default_factory=set)  # of bytes that came whole
    created: set[str] = field(default_factory=set)
    pieces: dict[str, dict[int, int]] = field(default_factory=dict)  # upload -> offset -> size

    def offset(self, upload: str) -> int:
        return chain(self.pieces.get(upload, {}))

    def take(self, sent: Sent) -> tuple[int, str]:
        """What one request alone comes to: the status of its answer, and the code where it is a problem."""
        match sent.act:
            case "whole":
                return self._store(sent)
            case "create":
                return self._create(sent)
            case "piece":
                return self._append(sent)
            case "ask":
                return (204 if sent.id in self.created else 404), ""  # an answer to HEAD has no body
            case "cancel":
                return self._cancel(sent)

    def _store(self, sent: Sent) -> tuple[int, str]:
        first = self.stored.get(sent.item.seq)
        if first is None:
            self.stored[sent.item.seq] = sent.item.sha256
            return 201, ""
        if first != sent.item.sha256:
            self.conflicts.add((sent.item.seq, sent.item.sha256))
        return _again(sent, first)

    def _create(self, sent: Sent) -> tuple[int, str]:
        first = self.stored.get(sent.item.seq)
        if first is not None:
            if first == sent.item.sha256:
                self._forget(sent.id)
            return _again(sent, first)
        self.created.add(sent.id)
        if sent.end and not self.offset(sent.id):
            self.pieces.setdefault(sent.id, {}).setdefault(0, sent.end)
        return 201, ""

    def _append(self, sent: Sent) -> tuple[int, str]:
        if sent.id not in self.created:
            return 404, "upload_unknown"
        if self.offset(sent.id) != sent.begin:
            return 409, "offset_mismatch"
        if sent.end > sent.begin:
            self.pieces.setdefault(sent.id, {})[sent.begin] = sent.end - sent.begin
        if not sent.completes:
            return 204, ""
        answer = self._store(sent)
        self._forget(sent.id)
        return answer

    def _cancel(self, sent: Sent) -> tuple[int, str]:
        if sent.id not in self.created:
            return 404, "upload_unknown"
        self._forget(sent.id)
        return 204, ""

    def _forget(self, upload: str) -> None:
        self.created.discard(upload)
        self.pieces.pop(upload, None)

    def copy(self) -> Model:
        return deepcopy(self)


def _again(sent: Sent, first: str) -> tuple[int, str]:
    """The answer to bytes whose name is taken."""
    return (200, "") if first == sent.item.sha256 else (409, "conflict")


def chain(pieces: dict[int, int]) -> int:
    """Where the pieces end that follow one another from 0 on."""
    offset = 0
    while size := pieces.get(offset, 0):
        offset += size
    return offset


def as_pieces(names: Iterable[tuple[str, int]]) -> tuple[set[str], dict[str, dict[int, int]]]:
    """What was created, and the pieces, by what a listing of a robot's uploads names: `{id}/{offset}` and sizes."""
    created, pieces = set[str](), dict[str, dict[int, int]]()
    for name, size in names:
        upload, _, part = name.partition("/")
        if part == "creation":
            created.add(upload)
        else:
            pieces.setdefault(upload, {})[int(part)] = size
    return created, pieces
