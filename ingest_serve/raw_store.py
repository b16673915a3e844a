"""The raw layout of the bucket, writer and reader together: every segment is one object, written once.

raw/{robot}/{recording}/{stream}/{seq:010d}                   the segment; what is known of it is its S3 metadata
conflicts/{robot}/{recording}/{stream}/{seq:010d}/{sha256}    other bytes that came for a stored segment
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast

from dataset_catalog.storage import Storage
from edge.errors import BadName
from edge.wire import Kind, SegmentId, check_recording, check_robot, check_stream
from ingest_serve.bucket import Bucket, Head
from ingest_serve.chunks import Body
from ingest_serve.errors import DamagedObject, NotStored, StorageUnavailable

LIST_THREADS = 16


@dataclass(frozen=True, slots=True)
class RawObject:
    """What is known of a stored segment. Times are half-open `[start_ns, end_ns)`; `sha256` is in hex."""

    segment: SegmentId
    kind: Kind
    content_type: str
    bytes: int
    sha256: str
    start_ns: int
    end_ns: int
    robot_time_ns: int | None
    key_id: str
    received_ns: int
    robot_clock: str | None = None  # the field as it came, `edge.wire.RobotClock` reads it

    @property
    def key(self) -> str:
        return self.segment.key

    def attributes(self) -> dict[str, str]:
        """The S3 metadata that carries these facts."""
        facts = {
            "Content-Type": self.content_type,
            "kind": self.kind,
            "sha256": self.sha256,
            "start-ns": str(self.start_ns),
            "end-ns": str(self.end_ns),
            "key-id": self.key_id,
            "received-ns": str(self.received_ns),
        }
        if self.robot_time_ns is not None:
            facts["robot-time-ns"] = str(self.robot_time_ns)
        return facts if self.robot_clock is None else {**facts, "robot-clock": self.robot_clock}

    @classmethod
    def from_head(cls, segment: SegmentId, head: Head) -> RawObject:
        """`DamagedObject` if the object does not carry our metadata."""
        found = head.attributes
        robot_time = found.get("robot-time-ns")
        try:
            return cls(
                segment=segment,
                kind=cast(Kind, found["kind"]),
                content_type=found["Content-Type"],
                bytes=head.size,
                sha256=found["sha256"],
                start_ns=int(found["start-ns"]),
                end_ns=int(found["end-ns"]),
                robot_time_ns=None if robot_time is None else int(robot_time),
                key_id=found["key-id"],
                received_ns=int(found["received-ns"]),
                robot_clock=found.get("robot-clock"),
            )
        except (KeyError, ValueError) as error:
            raise DamagedObject(f"{segment.key} does not carry a segment's metadata: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Stored:
    """The segment is new and durable."""

    raw: RawObject


@dataclass(frozen=True, slots=True)
class AlreadyStored:
    """The same bytes were stored before; `raw` tells of then."""

    raw: RawObject


@dataclass(frozen=True, slots=True)
class Conflict:
    """Other bytes are stored under this name; the ones that came, if they came, are kept at `kept_at`."""

    stored_sha256: str
    kept_at: str | None


class RawStore:
    """Writes segments once and reads them back. Pickles, so that workers get it as an argument."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @classmethod
    def open(cls, storage: Storage) -> RawStore:
        return cls(Bucket.open(storage))

    async def put_once(self, raw: RawObject, body: Body) -> Stored | AlreadyStored | Conflict:
        """Durable when it returns. `StorageUnavailable`: nothing is promised, the same call may be made again."""
        head = await self._bucket.create_or_head(raw.key, body, raw.attributes())
        if head is None:
            return Stored(raw)
        outcome = _compare(raw.segment, raw.sha256, head)
        if isinstance(outcome, Conflict):
            kept_at = f"{raw.key.replace('raw/', 'conflicts/', 1)}/{raw.sha256}"
            await self._bucket.create_or_head(kept_at, body, raw.attributes())  # another writer of it may still fail
            return replace(outcome, kept_at=kept_at)
        return outcome

    async def foresee(self, segment: SegmentId, *, sha256: str) -> AlreadyStored | Conflict | None:
        """What an upload of these bytes would find stored; None if nothing is."""
        head = await self._bucket.head_async(segment.key)
        return None if head is None else _compare(segment, sha256, head)

    def head(self, segment: SegmentId) -> RawObject:
        """`NotStored` if there is none."""
        head = self._bucket.head(segment.key)
        if head is None:
            raise NotStored(f"{segment.key} is not stored")
        return RawObject.from_head(segment, head)

    def read(self, segment: SegmentId) -> tuple[RawObject, bytes]:
        """Facts and bytes in one request. `NotStored`; `DamagedObject` if the bytes are not those that were stored."""
        found = self._bucket.read(segment.key)
        if found is None:
            raise NotStored(f"{segment.key} is not stored")
        head, body = found
        raw = RawObject.from_head(segment, head)
        if hashlib.sha256(body).hexdigest() != raw.sha256:
            raise DamagedObject(f"{segment.key} was stored with sha-256 {raw.sha256}, its bytes now have another")
        return raw, body

    def get(self, segment: SegmentId) -> bytes:
        """The bytes alone, verified as in `read`."""
        return self.read(segment)[1]

    def remove(self, segments: Sequence[SegmentId]) -> None:
        """For good: only what has been kept as long as the settings say. What is gone already is no error."""
        if segments:
            self._bucket.delete(*(segment.key for segment in segments))

    def list_streams(self) -> list[tuple[str, str, str]]:
        """Every (robot, recording, stream) that has an object, in order. Names outside the layout are left out."""
        paths: list[tuple[str, ...]] = [()]
        with ThreadPoolExecutor(LIST_THREADS) as pool:
            for check in (check_robot, check_recording, check_stream):
                below = list(pool.map(self._below, paths))
                paths = [(*path, name) for path, names in zip(paths, below, strict=True) for name in names]
                paths = [path for path in paths if _is_valid(check, path[-1])]
        return [cast(tuple[str, str, str], path) for path in paths]

    def _below(self, path: tuple[str, ...]) -> list[str]:
        return self._bucket.folders("/".join(("raw", *path)))

    def list_after(self, robot: str, recording: str, stream: str, after_seq: int) -> list[int]:
        """Stored seqs greater than `after_seq` (-1: all), in order."""
        return list(self.times_after(robot, recording, stream, after_seq))

    def times_after(
        self, robot: str, recording: str, stream: str, after_seq: int, *, limit: int | None = None
    ) -> dict[int, int]:
        """The same, and since when the bucket has had each (ns, to the second); only the first `limit`."""
        after = f"{after_seq:010d}" if after_seq >= 0 else None
        entries = self._bucket.entries(f"raw/{robot}/{recording}/{stream}", after=after, limit=limit)
        return {int(entry.name): entry.modified_ns for entry in entries if re.fullmatch(r"\d{10}", entry.name)}


def _compare(segment: SegmentId, sha256: str, head: Head) -> AlreadyStored | Conflict:
    stored_sha256 = head.attributes.get("sha256", "")
    if stored_sha256 == sha256:
        try:
            return AlreadyStored(RawObject.from_head(segment, head))
        except DamagedObject as error:  # perhaps only on its way here
            raise StorageUnavailable(str(error)) from error
    return Conflict(stored_sha256, None)


def _is_valid(check: Callable[[str], str], name: str) -> bool:
    try:
        check(name)
    except BadName:
        return False
    return True
