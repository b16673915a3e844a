"""Gaps of a stream: seqs that will never arrive by the robot's word, or that have not arrived for too long.

The robot's word is a record, stored at the key of the first of them.
"""

from __future__ import annotations

from typing import Any

from edge.errors import GapError
from edge.wire import GAP_TYPE, Gap, SegmentId
from ingest_serve.errors import DamagedObject, NotStored
from ingest_serve.raw_store import RawObject, RawStore
from ray_jobs.backlog import Missing

Row = dict[str, Any]  # a row of schema.SEGMENTS; columns that are not named are null

MISSING = "missing"  # in place of a record's cause
MAX_MESSAGES = 2**63 - 1


def parse_gap(segment: SegmentId, body: bytes) -> Gap:
    """The gap record that is stored as `segment`; `GapError` where the index could not keep it, or it is misplaced."""
    gap = Gap.parse(body)
    if gap.first_seq != segment.seq:
        raise GapError(f"the gap record begins at seq {gap.first_seq}, but is stored as {segment.seq}")
    if any(count < 0 for count in gap.counts.values()) or sum(gap.counts.values()) > MAX_MESSAGES:
        raise GapError(f"the gap record's counts must be within 0..{MAX_MESSAGES} together")
    return gap


def last_seq_at(store: RawStore, segment: SegmentId) -> int:
    """The last seq that the object of a seq stands for: its own, but for a gap record. Only gap records are read."""
    try:
        if store.head(segment).content_type != GAP_TYPE:
            return segment.seq
        return parse_gap(segment, store.get(segment)).last_seq
    except (DamagedObject, GapError):  # examining it gives the same answer, with the reason
        return segment.seq


def missing_row(store: RawStore, missing: Missing, *, index_version: int, now_ns: int) -> Row:
    """The row that says of a hole that it never arrived; its time is what lies between its neighbours."""
    before, behind = (_stored(store, one) for one in (missing.before, missing.behind))
    edges = [before.end_ns] if before else []
    edges += [behind.start_ns] if behind else []
    waited_h = (now_ns - missing.since_ns) / 3.6e12
    first = SegmentId(*missing.stream, missing.first)
    return {
        "robot_id": first.robot,
        "recording_id": first.recording,
        "stream": first.stream,
        "seq": first.seq,
        "last_seq": missing.last,
        "kind": behind.kind if behind else "telemetry",
        "start_ns": min(edges, default=0),
        "end_ns": max(edges, default=0),
        "key": first.key,
        "received_ns": now_ns,
        "state": "gap",
        "reason": f"{MISSING}: never arrived, {waited_h:.1f} h after what follows it had",
        "index_version": index_version,
    }


def _stored(store: RawStore, segment: SegmentId | None) -> RawObject | None:
    try:
        return None if segment is None else store.head(segment)
    except (DamagedObject, NotStored):
        return None
