"""Hints of what has arrived, so that the frequent job need not list every stream: writer and reader together.

    arrivals/{minute: yyyymmddHHMM, UTC}/{time_ns:020d}-{random}.json      the streams that a replica stored into

They are best-effort: a replica that dies takes the hints of its last seconds with it, and nothing relies on them for
correctness. Every hour a job looks at everything, whatever is hinted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from dataset_catalog.storage import Storage
from edge.wire import SegmentId
from ingest_serve.bucket import Bucket
from ingest_serve.errors import StorageUnavailable

EVERY_S = 5.0
MINUTE_NS = 60_000_000_000
SKEW_NS = 10 * MINUTE_NS  # between the clocks of replicas and of the job, and how late a hint may be written
READ_THREADS = 16
_STREAM = re.compile(r"[^/]+/[^/]+/[^/]+")

Stream = tuple[str, str, str]  # robot, recording, stream
log = logging.getLogger(__name__)


class Arrivals:
    """What one replica has stored and not hinted at yet. For one event loop."""

    def __init__(self, bucket: Bucket, *, clock: Callable[[], int], every_s: float | None = None) -> None:
        self._bucket, self._clock = bucket, clock
        self._every_s = EVERY_S if every_s is None else every_s
        self._streams: set[str] = set()
        self._writing: asyncio.Task[None] | None = None

    def note(self, segment: SegmentId) -> None:
        """Hint at this segment's stream in the next seconds; costs no request of its own."""
        self._streams.add(f"{segment.robot}/{segment.recording}/{segment.stream}")
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_later())

    async def _write_later(self) -> None:
        await asyncio.sleep(self._every_s)
        streams, self._streams, self._writing = self._streams, set(), None
        body = json.dumps(sorted(streams)).encode()
        try:
            await self._bucket.create_async(_key(self._clock()), body, {"sha256": hashlib.sha256(body).hexdigest()})
        except StorageUnavailable as error:
            log.warning("%d streams are hinted at by the hourly look alone: %s", len(streams), error)


class ArrivalLog:
    """Reads and clears hints. Blocking."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @classmethod
    def open(cls, storage: Storage) -> ArrivalLog:
        return cls(Bucket.open(storage))

    def since(self, time_ns: int) -> set[Stream]:
        """The streams that were hinted at since then, and some from before; what cannot be read hints at nothing."""
        names = self._bucket.names("arrivals", after=_minute(time_ns - SKEW_NS))
        with ThreadPoolExecutor(READ_THREADS) as pool:
            found = pool.map(self._streams, names)
            return {stream for streams in found for stream in streams}

    def clear(self, *, before_ns: int) -> int:
        """Remove the hints of older minutes; how many."""
        last = _minute(before_ns)
        old = [name for name in self._bucket.names("arrivals") if name < last]
        if old:
            self._bucket.delete(*(f"arrivals/{name}" for name in old))
        return len(old)

    def _streams(self, name: str) -> list[Stream]:
        found = self._bucket.read(f"arrivals/{name}")
        return [] if found is None else list(_parse(found[1]))


def _parse(body: bytes) -> Iterator[Stream]:
    try:
        told = json.loads(body)
    except ValueError:
        return
    for text in told if isinstance(told, list) else []:
        if isinstance(text, str) and _STREAM.fullmatch(text):
            robot, recording, stream = text.split("/")
            yield robot, recording, stream


def _key(time_ns: int) -> str:
    return f"arrivals/{_minute(time_ns)}/{time_ns:020d}-{secrets.token_hex(4)}.json"


def _minute(time_ns: int) -> str:
    return datetime.fromtimestamp(max(0, time_ns) / 1e9, UTC).strftime("%Y%m%d%H%M")
