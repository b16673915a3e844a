"""Gap records: the robot's word that seqs of a stream will never arrive, stored at the key of the first of them."""

from __future__ import annotations

from edge.errors import GapError
from edge.wire import GAP_TYPE, Gap, SegmentId
from ingest_serve.errors import DamagedObject
from ingest_serve.raw_store import RawStore

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
