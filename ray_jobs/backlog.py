"""What index_segments has yet to do: in every stream, the objects that follow its position without a hole.

Seqs that a gap record covers need not arrive, so they are no hole. Where a hole is not closed within a grace period the
stream goes on behind it: it is `Missing`, and a row of the index will say so. A position is the last seq that was taken
or given up; up to there a seq is indexed, or lies in one of the stream's `holes`. What arrives in one of these is late,
and taken then. What is stored inside a gap is taken as anything else and published together with the gap's row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from edge.wire import SegmentId
from ingest_serve.raw_store import RawStore
from ray_jobs.holes import PAGE, Hole, Times, arrived_in, without

Stream = tuple[str, str, str]
Found = Mapping[Stream, Times]  # (robot, recording, stream) → what is new: behind its position, or in its holes
Covers = Mapping[SegmentId, int]  # what is known of an object: the last seq that it stands for, its own or a gap's
Ask = Callable[[Sequence[SegmentId]], Covers]

HOLES = "holes"  # the fact of a manifest
NOT_YET = -1  # no segment is so old


@dataclass(frozen=True, slots=True)
class Reached:
    """How far streams ("robot/recording/stream") have come.

    `positions`: the last seq that was taken, or given up. `holes`: the ascending ranges up to it that are not indexed.
    """

    positions: Mapping[str, int] = field(default_factory=dict)
    holes: Mapping[str, tuple[Hole, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, positions: Mapping[str, int], facts: Mapping[str, Any]) -> Reached:
        """From a manifest. Older releases had no holes, but `gaps`: how far a gap reaches beyond the position."""
        gaps = facts.get("gaps", {})
        holes = {
            stream: tuple((first, last) for first, last in found) for stream, found in facts.get(HOLES, {}).items()
        }
        of_gaps = {stream: ((positions.get(stream, -1) + 1, last),) for stream, last in gaps.items()}
        return cls({**positions, **gaps}, holes | of_gaps)

    def facts(self) -> dict[str, Any]:
        """What a manifest says beside the positions."""
        return {HOLES: {stream: [list(hole) for hole in found] for stream, found in self.holes.items()}}


@dataclass(frozen=True, slots=True)
class Missing:
    """Seqs that have not arrived within the grace period. `before`: the last object before them, None if they are the
    first; `behind`: the one that follows; `since_ns`: since when the first of what waits has been there."""

    stream: Stream
    first: int
    last: int
    before: SegmentId | None
    behind: SegmentId
    since_ns: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """`ready` in order of robot, recording, stream and seq; `missing`: what to give up with them; `asked`: objects that
    a hole follows, of which it must be known whether they are gap records; `waiting`: how many lie behind a hole;
    `reached` after `ready` is done; `more`: whether the limit cut `ready` short."""

    ready: tuple[SegmentId, ...]
    missing: tuple[Missing, ...]
    asked: tuple[SegmentId, ...]
    waiting: int
    reached: Reached
    more: bool


def find(store: RawStore, before: Reached, *, threads: int, only: Collection[Stream] | None = None) -> Found:
    """List every stream, or those of `only`, from its position on, and where it has holes."""
    streams = sorted(store.list_streams() if only is None else only)

    def listed(name: Stream) -> Times:
        stream = "/".join(name)
        late = arrived_in(before.holes.get(stream, ()), lambda seq: store.times_after(*name, seq, limit=PAGE))
        return late | store.times_after(*name, before.positions.get(stream, -1))

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(streams, pool.map(listed, streams), strict=True))


def work_off(found: Found, before: Reached, *, limit: int, look: Ask, take: Ask, give_up_ns: int = NOT_YET) -> Backlog:
    """`take` what is ready until nothing more is; the backlog of all that was taken.

    `look` tells of an object that a hole follows what it covers; `take` does the work and tells the same, so that a gap
    is also known where its hole comes later, behind segments that are stored inside it.
    """
    covers: dict[SegmentId, int] = {}
    taken: set[SegmentId] = set()
    while True:
        backlog = plan_backlog(found, before, covers, limit=limit, give_up_ns=give_up_ns, taken=taken)
        if backlog.asked:
            covers |= look(backlog.asked)
        elif new := [one for one in backlog.ready if one not in taken]:
            covers |= take(new)
            taken.update(new)
        else:
            return backlog


def plan_backlog(
    found: Found,
    before: Reached,
    covers: Covers,
    *,
    limit: int,
    give_up_ns: int = NOT_YET,
    taken: Collection[SegmentId] = (),
) -> Backlog:
    """About `limit` objects: a gap's row and the rows of what is stored inside it are not parted, and those already
    `taken` stay, also where a gap that was found meanwhile lets a stream before them take more.

    A hole behind which something has waited since `give_up_ns` is missing.
    """
    least = Counter((one.robot, one.recording, one.stream) for one in taken)
    ready: list[SegmentId] = []
    missing: list[Missing] = []
    asked: list[SegmentId] = []
    positions, holes, waiting, more = dict(before.positions), dict(before.holes), 0, False
    for name, times in found.items():
        stream = "/".join(name)
        room = max(limit - len(ready), least[name])
        walk = _Walk(name, times, before, covers, room=room, give_up_ns=give_up_ns)
        ready += walk.taken
        missing += walk.missing
        if walk.reach > positions.get(stream, -1):
            positions[stream] = walk.reach
        holes[stream] = walk.holes
        more = more or walk.is_cut
        if walk.rest and not walk.is_cut:
            waiting += len(walk.rest)
            asked += walk.unknown_before_hole
    reached = Reached(positions, {stream: ranges for stream, ranges in holes.items() if ranges})
    return Backlog(tuple(ready), tuple(missing), tuple(asked), waiting, reached, more)


class _Walk:
    """One stream, from its position on as far as one can go.

    `taken`: late ones first; `reach`: the last seq that is taken, covered or given up; `rest`: what lies behind a hole,
    or what the limit has cut off (`is_cut`).
    """

    def __init__(
        self, name: Stream, times: Times, before: Reached, covers: Covers, *, room: int, give_up_ns: int
    ) -> None:
        stream = "/".join(name)
        self._name, self._covers, self._room, self._give_up_ns = name, covers, room, give_up_ns
        self._position, self._old = before.positions.get(stream, -1), before.holes.get(stream, ())
        late = [seq for seq in times if seq <= self._position]
        self.reach = self._position
        self.taken: list[SegmentId] = []
        self.missing: list[Missing] = []
        self.is_cut = len(late) > room
        for seq in late[:room]:
            self._take(seq)
        ahead = [seq for seq in times if seq > self._position]
        self.rest = self._follow(ahead, _oldest_behind([times[seq] for seq in ahead]))

    @property
    def holes(self) -> tuple[Hole, ...]:
        seqs = {one.seq for one in self.taken}
        return without([*self._old, (self._position + 1, self.reach)], seqs)

    @property
    def unknown_before_hole(self) -> list[SegmentId]:
        """The object that the hole follows, where it is new; of late ones it is known when they were taken."""
        return [one for one in self.taken[-1:] if one.seq > self._position and one not in self._covers]

    def _take(self, seq: int) -> None:
        self.taken.append(SegmentId(*self._name, seq))
        self.reach = max(self.reach, self._covers.get(self.taken[-1], seq))

    def _follow(self, seqs: Sequence[int], since_ns: Sequence[int]) -> Sequence[int]:
        """What is left of the ascending `seqs`; at most `room` are taken, and those beyond it that lie in a gap."""
        for at, seq in enumerate(seqs):
            given_up = since_ns[at] <= self._give_up_ns
            if seq > self.reach and len(self.taken) >= self._room:
                self.is_cut |= seq == self.reach + 1 or given_up
                return seqs[at:]
            if seq > self.reach + 1:
                if not given_up:
                    return seqs[at:]
                self._give_up(seq, since_ns[at])
            self._take(seq)
        return ()

    def _give_up(self, behind: int, since_ns: int) -> None:
        first, last = self.reach + 1, behind - 1
        self.missing.append(
            Missing(self._name, first, last, self._last_object(), SegmentId(*self._name, behind), since_ns)
        )
        self.reach = last

    def _last_object(self) -> SegmentId | None:
        """The last that is known to be stored, at or before `reach`."""
        holes = self.holes
        seq = holes[-1][0] - 1 if holes and holes[-1][1] == self.reach else self.reach
        return SegmentId(*self._name, seq) if seq >= 0 else None


def _oldest_behind(since_ns: Sequence[int]) -> list[int]:
    """For each: since when the oldest of it and those behind it has been there."""
    return list(accumulate(reversed(since_ns), min))[::-1]
