"""Raw objects that are no more what was indexed: gone from the bucket, or damaged in it. Neither may stop a job."""

from __future__ import annotations

from edge.wire import SegmentId
from ingest_serve.errors import DamagedObject, NotStored
from ingest_serve.raw_store import RawObject, RawStore
from ray_jobs.errors import SegmentLost


def read_indexed(store: RawStore, segment: SegmentId, *, sha256: str | None = None) -> tuple[RawObject, bytes]:
    """A segment as it was indexed, with this SHA-256. `SegmentLost` where it is that no more, also at a second look."""
    try:
        raw, body = _read(store, segment)
    except (NotStored, DamagedObject) as error:
        raise SegmentLost(segment.key, str(error)) from error
    if sha256 is not None and raw.sha256 != sha256:
        raise SegmentLost(segment.key, f"its sha-256 is {raw.sha256} now, it was indexed with {sha256}")
    return raw, body


def _read(store: RawStore, segment: SegmentId) -> tuple[RawObject, bytes]:
    try:
        return store.read(segment)
    except DamagedObject:  # or the damage was done on the way
        return store.read(segment)
