"""What did not get through: segments that the index has set aside, and other bytes that came for a stored segment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dataset_catalog import versions
from dataset_catalog.errors import CatalogError
from dataset_catalog.sql import View, query
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from ingest_serve.bucket import Bucket, Entry
from ingest_serve.errors import StorageUnavailable

CONFLICTS = "conflicts"
_QUARANTINED = """
SELECT key, bytes, sha256, received_ns, reason FROM segments
WHERE state = 'quarantined' AND key > ? ORDER BY key LIMIT ?
"""
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_PLACE = re.compile(
    rf"(raw/{_PART}/{_PART}/{_PART}/\d{{10}}|conflicts/{_PART}/{_PART}/{_PART}/\d{{10}}/[0-9a-f]{{64}})"
)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Other bytes that came for a stored segment: both keys, and what came when."""

    key: str
    segment: str
    bytes: int
    sha256: str
    stored_ns: int

    def as_json(self) -> dict[str, Any]:
        facts = {"key": self.key, "segment": self.segment, "bytes": self.bytes, "sha256": self.sha256}
        return {"kind": "conflict", **facts, "received_ns": self.stored_ns}


def list_conflicts(bucket: Bucket, *, after: str = "", limit: int | None = None) -> list[Conflict]:
    """The first `limit` kept bodies after a key, in the order of their keys."""
    begin = after.removeprefix(f"{CONFLICTS}/") or None
    return [_conflict(entry) for entry in bucket.entries(CONFLICTS, after=begin, limit=limit)]


def list_quarantined(storage: Storage, *, after: str = "", limit: int) -> list[dict[str, Any]]:
    """The first `limit` quarantined segments after a key, as the newest index has them."""
    try:
        with storage.reaching():
            manifest = versions.newest(storage, versions.SEGMENTS)
        if manifest is None:
            return []
        table = open_table(storage, versions.SEGMENTS, manifest, "segments")
        rows: list[dict[str, Any]] = query(_QUARANTINED, [View("segments", table)], [after, limit]).to_pylist()
    except CatalogError as error:
        raise StorageUnavailable(f"the index cannot be read: {error}") from error
    return [{"kind": "quarantined", **row} for row in rows]


def list_all(storage: Storage, bucket: Bucket, *, after: str = "", limit: int) -> list[dict[str, Any]]:
    """Both, in the order of their keys: `conflicts/…` are before `raw/…`."""
    found = [] if after.startswith("raw/") else list_conflicts(bucket, after=after, limit=limit)
    items = [one.as_json() for one in found]
    if len(items) < limit:
        items += list_quarantined(storage, after=after if after.startswith("raw/") else "", limit=limit - len(items))
    return items


def is_place(text: str) -> bool:
    """Whether this may be the key of such an item."""
    return _PLACE.fullmatch(text) is not None


def _conflict(entry: Entry) -> Conflict:
    segment, _, sha256 = entry.name.rpartition("/")
    return Conflict(f"{CONFLICTS}/{entry.name}", f"raw/{segment}", entry.size, sha256, entry.modified_ns)
