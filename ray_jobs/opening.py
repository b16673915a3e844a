"""A recording's opening record, segment 0 of `_agent`: what the robot ran when it recorded (`edge/recording.py`)."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from weakref import WeakKeyDictionary

from edge.segment import read_messages
from edge.wire import SegmentId
from ingest_serve.errors import DamagedObject, NotStored
from ingest_serve.raw_store import RawStore
from ray_jobs.texts import storable
from ray_jobs.unpacked import check_unpacked_size

STREAM, TOPIC = "_agent", "/recording/opened"
MAX_BYTES = 1 << 20
MAX_TEXT = 200  # characters of a version that are kept

_read: WeakKeyDictionary[RawStore, dict[tuple[str, str], bytes | None]] = WeakKeyDictionary()


def opening_of(store: RawStore, segment: SegmentId) -> bytes | None:
    """The bytes of the opening record of a segment's recording, read once a store; None where it has not come."""
    known = _read.setdefault(store, {})
    recording = (segment.robot, segment.recording)
    if recording not in known:
        known[recording] = _bytes_of(store, SegmentId(*recording, STREAM, 0))
    return known[recording]


def _bytes_of(store: RawStore, segment: SegmentId) -> bytes | None:
    try:
        raw, body = store.read(segment)
    except (DamagedObject, NotStored):
        return None
    return body if raw.bytes <= MAX_BYTES else None


@lru_cache(maxsize=1024)
def software_version(opening: bytes | None) -> str | None:
    """What an opening record states; None where it states none, or cannot be read: then it is quarantined itself."""
    try:
        check_unpacked_size(opening or b"", most=MAX_BYTES)  # it must not spoil the segments that it is about
        for message in read_messages(io.BytesIO(opening or b"")):
            if message.topic.name == TOPIC:
                found = json.loads(message.data).get("software_version")
                return storable(found[:MAX_TEXT]) if isinstance(found, str) and found else None
    except Exception:  # noqa: BLE001 - bytes from outside make libraries raise anything
        return None
    return None
