"""What the other jobs read of lake/segments: the rows that they have not consumed yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table
from dataset_catalog.versions import Manifest
from edge.wire import SegmentId

Row = dict[str, Any]

EXPIRING, EXPIRED = "expiring", "expired"
GONE = (EXPIRING, EXPIRED)  # states of segments whose bytes are to be removed, or are: `retention.py`
ORDER = [(name, "ascending") for name in ("robot_id", "recording_id", "stream", "seq")]
_COLUMNS = [
    *("robot_id", "recording_id", "stream", "seq", "last_seq", "kind", "content_type", "start_ns", "end_ns"),
    *("key", "sha256", "state", "reason", "topics", "width", "height", "index_version"),
]


def rows_after(storage: Storage, manifest: Manifest, position: int, *, where: str = "true") -> list[Row]:
    """Rows that versions later than `position` published, in order of robot, recording, stream and seq."""
    table = open_table(storage, versions.SEGMENTS, manifest, "segments")
    known = set(table.schema.names)  # a table of an older release lacks a column until something is indexed
    columns = [name for name in _COLUMNS if name in known]
    found = table.to_table(columns=columns, filter=f"index_version > {position} AND ({where})").sort_by(ORDER)
    return [dict.fromkeys(_COLUMNS) | row for row in found.to_pylist()]


def rows_of(storage: Storage, manifest: Manifest, recordings: Sequence[str]) -> list[Row]:
    """All rows of these recordings, in the same order."""
    return rows_after(storage, manifest, 0, where=contains("recording_id", recordings))


def first_versions(rows: Sequence[Row], limit: int) -> tuple[list[Row], int]:
    """The rows of the first index versions that together have about `limit` rows, and the last of these versions."""
    numbers = sorted(row["index_version"] for row in rows)
    last = numbers[min(limit, len(numbers)) - 1]
    return [row for row in rows if row["index_version"] <= last], last


def segment_of(row: Row) -> SegmentId:
    return SegmentId(row["robot_id"], row["recording_id"], row["stream"], row["seq"])
