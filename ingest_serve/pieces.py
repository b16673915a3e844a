"""The layout of unfinished uploads in the bucket, writer and reader together: every piece is one object, written once.

uploads/{robot}/{id}/creation          what was said of the whole when the upload was created, as JSON and its SHA-256
uploads/{robot}/{id}/{offset:012d}     the bytes from this offset on, stored only whole and verified

The upload's offset is where its pieces end that follow one another from 0 on, so any replica knows it from a listing.
An id names a target and the SHA-256 of the whole (`edge.wire.upload_id`): what is left of an earlier try is of the same
bytes, and may be built on. Without `creation` there is no upload, so that goes first when one is removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from dataset_catalog.storage import Storage
from edge.wire import Kind, SegmentId
from ingest_serve.bucket import Bucket, Entry
from ingest_serve.chunks import Body
from ingest_serve.errors import DamagedObject, StorageUnavailable
from ingest_serve.raw_store import RawObject

MAX_PIECES = 4096
FREE_PIECES = 64  # of any size; beyond these pieces must have `SMALL_PIECE_BYTES` on average
SMALL_PIECE_BYTES = 16 << 10
JOIN_READS = 8
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_OFFSET = re.compile(r"\d{12}")
_CREATION = "creation"


@dataclass(frozen=True, slots=True)
class Creation:
    """What a robot said of the whole: `length` in bytes, `sha256` in hex, `robot_clock` the field as it came."""

    segment: SegmentId
    kind: Kind
    content_type: str
    length: int
    sha256: str
    start_ns: int
    end_ns: int
    robot_clock: str | None

    def as_bytes(self) -> bytes:
        """A line of JSON, and a line with its SHA-256: what is read here names the object that is stored."""
        line = json.dumps(asdict(self), sort_keys=True).encode()
        return line + b"\n" + hashlib.sha256(line).hexdigest().encode()

    @classmethod
    def parse(cls, body: bytes) -> Creation:
        """`DamagedObject` unless it is one that we wrote."""
        line, _, sha256 = body.partition(b"\n")
        if hashlib.sha256(line).hexdigest().encode() != sha256:
            raise DamagedObject("what was said at an upload's creation has changed since")
        try:
            fields: dict[str, Any] = json.loads(line)
            return cls(**{**fields, "segment": SegmentId(**fields["segment"])})
        except (ValueError, LookupError, TypeError) as error:
            raise DamagedObject(f"what was said at an upload's creation cannot be read: {error!r}") from error

    def raw(self, *, key_id: str, robot_time_ns: int | None, robot_clock: str | None, received_ns: int) -> RawObject:
        """The raw object that the pieces become; the rest is of the request that brings the last one."""
        return RawObject(
            segment=self.segment,
            kind=self.kind,
            content_type=self.content_type,
            bytes=self.length,
            sha256=self.sha256,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            robot_time_ns=robot_time_ns,
            key_id=key_id,
            received_ns=received_ns,
            robot_clock=robot_clock or self.robot_clock,
        )


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload as it stands: `sizes` of its pieces, which follow one another from offset 0 on."""

    creation: Creation
    sizes: tuple[int, ...]

    @property
    def offset(self) -> int:
        return sum(self.sizes)

    @property
    def max_pieces(self) -> int:
        """How many pieces it may have by now: each is listed for every later one, and read when they are joined."""
        return min(MAX_PIECES, FREE_PIECES + self.offset // SMALL_PIECE_BYTES)

    def longer(self, size: int) -> Unfinished:
        """The same with one more piece; an empty one is never stored, and changes nothing."""
        return replace(self, sizes=(*self.sizes, size)) if size else self


class Pieces:
    """Keeps the pieces of unfinished uploads. What removes them blocks: an async caller takes it to a thread."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @classmethod
    def open(cls, storage: Storage) -> Pieces:
        return cls(Bucket.open(storage))

    async def create(self, robot: str, upload: str, creation: Creation) -> bool:
        """Begin an upload. False: it was begun before, and what was said then stands."""
        key, facts = f"{_prefix(robot, upload)}/{_CREATION}", {"Content-Type": "application/json"}
        return await self._bucket.create_async(key, creation.as_bytes(), facts)

    async def find(self, robot: str, upload: str) -> Unfinished | None:
        """The upload as it stands now; None if it was never created, is done, or was given up."""
        if not _UPLOAD_ID.fullmatch(upload):
            return None
        sizes = tuple(_chain(await self._bucket.entries_async(_prefix(robot, upload))))
        found = await self._bucket.read_async(f"{_prefix(robot, upload)}/{_CREATION}")  # last: it is removed first
        try:
            return None if found is None else Unfinished(Creation.parse(found), sizes)
        except DamagedObject as error:  # perhaps only on its way here
            raise StorageUnavailable(f"upload {upload} of robot {robot!r}: {error}") from error

    async def add(self, robot: str, upload: str, body: Body, *, offset: int, sha256: str) -> bool:
        """Store one piece; durable when it returns True. False: other bytes stand at this offset."""
        head = await self._bucket.create_or_head(_piece(robot, upload, offset), body, {"sha256": sha256})
        return head is None or head.attributes.get("sha256") == sha256

    async def join(self, robot: str, upload: str, sizes: Iterable[int]) -> bytearray | None:
        """The pieces' bytes one after another, read several at a time; None if one is gone meanwhile."""
        sizes = tuple(sizes)
        whole, spans = bytearray(sum(sizes)), iter(_spans(sizes))

        async def read_on() -> bool:
            for offset, end in spans:
                if not await self._bucket.read_into(_piece(robot, upload, offset), view[offset:end]):
                    return False
            return True

        with memoryview(whole) as view:
            readers = (read_on() for _ in range(min(JOIN_READS, len(sizes))))
            found = await asyncio.gather(*readers, return_exceptions=True)  # all must have ended before the view does
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return whole if all(found) else None

    def remove(self, robot: str, upload: str) -> None:
        """Everything of an upload; repeated, it finishes what was cut off."""
        self._clear(_prefix(robot, upload))

    def expire(self, *, before_ns: int) -> int:
        """Remove the uploads to which nothing was added since `before_ns`; how many they were.

        One that goes on just now may still lose its pieces: its robot is told 404, and begins it anew.
        """
        newest_ns: dict[str, int] = {}
        for entry in self._bucket.entries("uploads"):
            upload = entry.name.rpartition("/")[0]
            newest_ns[upload] = max(entry.modified_ns, newest_ns.get(upload, 0))
        old = [upload for upload, modified_ns in newest_ns.items() if modified_ns < before_ns]
        return sum(self._expire_one(f"uploads/{upload}", before_ns) for upload in old)

    def _expire_one(self, prefix: str, before_ns: int) -> bool:
        """Looks again right before: the listing of all uploads may have taken minutes."""
        if any(entry.modified_ns >= before_ns for entry in self._bucket.entries(prefix)):
            return False
        self._clear(prefix)
        return True

    def _clear(self, prefix: str) -> None:
        self._bucket.delete(f"{prefix}/{_CREATION}")
        pieces = self._bucket.names(prefix)
        if pieces:
            self._bucket.delete(*(f"{prefix}/{name}" for name in pieces))


def _chain(entries: Iterable[Entry]) -> Iterator[int]:
    """The sizes of the pieces that follow one another from 0 on."""
    by_offset = {int(entry.name): entry.size for entry in entries if _OFFSET.fullmatch(entry.name)}
    offset = 0
    while size := by_offset.get(offset, 0):
        yield size
        offset += size


def _spans(sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Where each piece begins and ends in the whole."""
    offset = 0
    for size in sizes:
        yield offset, offset + size
        offset += size


def _prefix(robot: str, upload: str) -> str:
    return f"uploads/{robot}/{upload}"


def _piece(robot: str, upload: str, offset: int) -> str:
    return f"{_prefix(robot, upload)}/{offset:012d}"
