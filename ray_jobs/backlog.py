"""What index_segments has yet to do: in every stream, the objects that follow its position without a hole.

Seqs that a gap record covers need not arrive, so they are no hole; what is stored inside a gap is taken as anything
else, in order, and published together with the gap's row. A position is the last seq that was taken. What arrives
inside a gap later is taken as long as nothing behind it was; after that it stays in the bucket and is not indexed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from edge.wire import SegmentId
from ingest_serve.raw_store import RawStore

Stream = tuple[str, str, str]
Found = Mapping[Stream, Sequence[int]]  # (robot, recording, stream) → ascending seqs after its position
Covers = Mapping[SegmentId, int]  # what is known of an object: the last seq that it stands for, its own or a gap's
Ask = Callable[[Sequence[SegmentId]], Covers]


@dataclass(frozen=True, slots=True)
class Reached:
    """How far streams ("robot/recording/stream") have come.

    `positions`: the last seq taken. `gaps`: the last seq that a gap record taken covers, where that is beyond it.
    """

    positions: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backlog:
    """`ready` in order of robot, recording, stream and seq; `asked`: objects that a hole follows, of which it must be
    known whether they are gap records; `waiting`: how many lie behind a hole; `reached` after `ready` is done; `more`:
    whether the limit cut `ready` short."""

    ready: tuple[SegmentId, ...]
    asked: tuple[SegmentId, ...]
    waiting: int
    reached: Reached
    more: bool


def find(
    store: RawStore, positions: Mapping[str, int], *, threads: int, only: Collection[Stream] | None = None
) -> Found:
    """List every stream, or those of `only`, from its position on."""
    streams = sorted(store.list_streams() if only is None else only)
    with ThreadPoolExecutor(threads) as pool:
        listed = pool.map(
            lambda name: store.list_after(name[0], name[1], name[2], positions.get("/".join(name), -1)), streams
        )
        return dict(zip(streams, listed, strict=True))


def work_off(found: Found, before: Reached, *, limit: int, look: Ask, take: Ask) -> Backlog:
    """`take` what is ready until nothing more is; the backlog of all that was taken.

    `look` tells of an object that a hole follows what it covers; `take` does the work and tells the same, so that a gap
    is also known where its hole comes later, behind segments that are stored inside it.
    """
    covers: dict[SegmentId, int] = {}
    taken: set[SegmentId] = set()
    while True:
        backlog = plan_backlog(found, before, covers, limit=limit)
        if backlog.asked:
            covers |= look(backlog.asked)
        elif new := [one for one in backlog.ready if one not in taken]:
            covers |= take(new)
            taken.update(new)
        else:
            return backlog


def plan_backlog(found: Found, before: Reached, covers: Covers, *, limit: int) -> Backlog:
    """About `limit` objects: a gap's row and the rows of what is stored inside it are not parted."""
    ready: list[SegmentId] = []
    asked: list[SegmentId] = []
    positions, gaps, waiting, more = dict(before.positions), dict(before.gaps), 0, False
    for name, seqs in found.items():
        stream = "/".join(name)
        after = max(positions.get(stream, -1), gaps.pop(stream, -1))
        follow, reach = following(name, seqs, after, covers, room=limit - len(ready))
        ready += follow
        if follow:
            positions[stream] = follow[-1].seq
        if reach > positions.get(stream, -1):
            gaps[stream] = reach
        rest = seqs[len(follow) :]
        if rest and rest[0] <= reach + 1:
            more = True
        elif rest:
            waiting += len(rest)
            asked += [one for one in follow[-1:] if one not in covers]
    return Backlog(tuple(ready), tuple(asked), waiting, Reached(positions, gaps), more)


def following(
    name: tuple[str, str, str], seqs: Sequence[int], reach: int, covers: Covers, *, room: int
) -> tuple[list[SegmentId], int]:
    """The first of the ascending `seqs` that follow `reach` without a hole, and the last seq that is covered then.

    At most `room`, and those beyond it that lie inside a gap.
    """
    follow: list[SegmentId] = []
    for seq in seqs:
        if seq > reach + 1 or (len(follow) >= room and seq > reach):
            break
        follow.append(SegmentId(*name, seq))
        reach = max(reach, covers.get(follow[-1], seq))
    return follow, reach
