"""What index_segments has yet to do: in every stream, the segments that follow its position without a hole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from edge.wire import SegmentId
from ingest_serve.raw_store import RawStore


@dataclass(frozen=True, slots=True)
class Backlog:
    """`ready` in order of robot, recording, stream and seq; `waiting`: how many lie behind a hole; `positions` after
    `ready` is done; `more`: whether the limit cut `ready` short."""

    ready: tuple[SegmentId, ...]
    waiting: int
    positions: dict[str, int]
    more: bool


def contiguous(seqs: Sequence[int], after: int) -> int:
    """How many of the ascending `seqs` follow `after` one by one: [5, 6, 8] after 4 are 2."""
    return next((n for n, seq in enumerate(seqs) if seq != after + 1 + n), len(seqs))


def find_backlog(store: RawStore, positions: Mapping[str, int], *, limit: int, threads: int) -> Backlog:
    """`positions`: "robot/recording/stream" → last seq that is done."""
    streams = sorted(store.list_streams())
    with ThreadPoolExecutor(threads) as pool:
        listed = pool.map(
            lambda name: store.list_after(name[0], name[1], name[2], positions.get("/".join(name), -1)), streams
        )
        found = dict(zip(streams, listed, strict=True))
    return plan_backlog(found, positions, limit=limit)


def plan_backlog(
    found: Mapping[tuple[str, str, str], Sequence[int]], positions: Mapping[str, int], *, limit: int
) -> Backlog:
    """`found`: stream → ascending seqs after its position."""
    ready: list[SegmentId] = []
    reached, waiting, more = dict(positions), 0, False
    for name, seqs in found.items():
        key = "/".join(name)
        count = contiguous(seqs, positions.get(key, -1))
        waiting += len(seqs) - count
        taken = min(count, limit - len(ready))
        more = more or taken < count
        ready += [SegmentId(*name, seq) for seq in seqs[:taken]]
        if taken:
            reached[key] = seqs[taken - 1]
    return Backlog(tuple(ready), waiting, reached, more)
