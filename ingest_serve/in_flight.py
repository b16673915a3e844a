"""Which bodies one replica takes at once, how much memory they hold, and who has to go when that runs out.

A body counts with a first window when it is admitted, with its whole length once it has filled that window fast, and
with what has come of it while it is slow. So a slow body keeps no more from others than it has filled, and where room
runs out the one that has been slow for longest is cut. Bodies never hold more than is counted, and no more is counted
than there is. Wholes that are joined from pieces have a part of the memory to themselves, and wait for their turn.

All of it runs on one event loop without a lock: nothing awaits between a decision and its count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from ingest_serve.chunks import Chunks
from ingest_serve.errors import Refused
from ingest_serve.turns import Turns

FIRST_WINDOW_BYTES = 256 << 10
SLOW_WINDOW_BYTES = 64 << 10
FAST_BYTES_PER_S = 64 << 10
LOOK_S = 0.25  # every body is looked at so often
SLOW_LOOKS = 4  # a body that was slow so often in a row may be cut to make room
JOINS_PER_ROBOT = 2
JOIN_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one replica holds at most: `body_bytes` for bodies that come, `join_bytes` for wholes that are joined.

    A body must come with `min_rate` bytes a second; behind that it may fall by `grace_s`.
    """

    body_bytes: int
    join_bytes: int
    max_bodies: int
    max_bodies_per_robot: int
    max_bytes_per_robot: int
    min_rate: float
    grace_s: float


class Place:
    """One body under way: what has come of it, and what is counted for it."""

    __slots__ = ("arrived", "body", "counted", "credit_s", "cut", "length", "robot", "seen", "slow_looks", "timeout")

    def __init__(self, robot: str, length: int, *, credit_s: float) -> None:
        self.robot, self.length, self.credit_s = robot, length, credit_s
        self.body = Chunks()
        self.arrived = self.seen = self.counted = self.slow_looks = 0
        self.cut: Refused | None = None
        self.timeout: asyncio.Timeout | None = None  # of whoever waits for the rest


@dataclass(slots=True)
class _Share:
    """What one robot has under way: bodies, the lengths they declared, and joins."""

    bodies: int = 0
    bytes: int = 0
    joins: int = 0


class InFlight:
    """The bodies of one replica, and the memory they are counted with."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._free = bounds.body_bytes
        self._coming: dict[Place, None] = {}  # in the order in which they began
        self._bodies = 0  # those that come, and those that are being stored
        self._shares: dict[str, _Share] = {}
        self._joins = Turns(bounds.join_bytes)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """What is counted now."""
        return self._bounds.body_bytes - self._free + self._joins.taken

    @property
    def bodies(self) -> int:
        return self._bodies

    @contextmanager
    def hold(self, robot: str, length: int) -> Iterator[Place]:
        """A place for one body, until the context ends. `Refused`: "robot_busy", or "busy" where there is no room."""
        place = self._admit(robot, length)
        try:
            yield place
        finally:
            self._leave(place)

    @asynccontextmanager
    async def join(self, robot: str, size: int) -> AsyncIterator[None]:
        """Room for a whole that is joined from pieces; waits for it in turn. `Refused`: "robot_busy", "busy"."""
        if size > self._bounds.join_bytes:
            raise Refused("too_large", "the upload is larger than what is taken now", max_bytes=self._bounds.join_bytes)
        share = self._shares.setdefault(robot, _Share())
        if share.joins >= JOINS_PER_ROBOT:
            raise Refused("robot_busy", f"{share.joins} uploads of this robot are being joined")
        share.joins += 1
        try:
            async with self._joins.turn(size, limit_s=JOIN_WAIT_S):
                yield
        except TimeoutError as error:
            raise Refused("busy", f"no room to join {size} bytes became free within {JOIN_WAIT_S:g} s") from error
        finally:
            share.joins -= 1
            self._forget_idle(robot, share)

    def take(self, place: Place, chunk: bytes) -> None:
        """Keep what has come next of a body. `Refused` where it may not go on."""
        place.arrived += len(chunk)
        if place.arrived > place.counted:
            self._grow(place)
        place.body.add(chunk)

    def received(self, place: Place) -> None:
        """The body is whole: from now on it is not the client who is waited for."""
        self._coming.pop(place, None)

    def look(self) -> None:
        """See how far every body has come in the last `LOOK_S`."""
        for place in list(self._coming):
            self._judge(place)

    def _admit(self, robot: str, length: int) -> Place:
        share = self._shares.get(robot) or _Share()
        self._check_share(share, length)
        if self._bodies >= self._bounds.max_bodies and not self._cut_slowest():
            raise Refused("busy", f"{self._bodies} bodies are under way")
        if length > self._free and length > self._free + sum(place.counted for place in self._slow()):
            raise self._no_room(length)
        place = Place(robot, length, credit_s=self._bounds.grace_s)
        self._count(place, min(length, FIRST_WINDOW_BYTES))
        self._bodies += 1
        self._shares[robot] = share
        share.bodies += 1
        share.bytes += length
        self._coming[place] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)
        return place

    def _check_share(self, share: _Share, length: int) -> None:
        bounds = self._bounds
        if share.bodies >= bounds.max_bodies_per_robot:
            raise Refused("robot_busy", f"{share.bodies} uploads of this robot are under way")
        if share.bodies and share.bytes + length > bounds.max_bytes_per_robot:
            raise Refused("robot_busy", f"{share.bytes} bytes of this robot are under way")

    def _leave(self, place: Place) -> None:
        """Idempotent: a body that was cut has left already."""
        share = self._shares.get(place.robot)
        if place.counted < 0 or share is None:
            return
        self._coming.pop(place, None)
        self._free += place.counted
        place.counted = -1
        place.body = Chunks()
        self._bodies -= 1
        share.bodies -= 1
        share.bytes -= place.length
        self._forget_idle(place.robot, share)

    def _forget_idle(self, robot: str, share: _Share) -> None:
        if not (share.bodies or share.joins):
            self._shares.pop(robot, None)

    def _count(self, place: Place, wanted: int) -> None:
        """Count so much for a body, from now on; others are cut for it if need be, or it itself."""
        while wanted - place.counted > self._free:
            if not self._cut_slowest():
                raise self._no_room(wanted)
            if place.cut:
                raise place.cut
        self._free -= wanted - place.counted
        place.counted = wanted

    def _grow(self, place: Place) -> None:
        if place.cut:
            raise place.cut
        if place.arrived > place.length:
            raise Refused("incomplete_body", f"Content-Length says {place.length} bytes, and more came")
        ahead = min(place.length, place.arrived + SLOW_WINDOW_BYTES)
        self._count(place, ahead if place.slow_looks else place.length)

    def _no_room(self, wanted: int) -> Refused:
        most = self._bounds.body_bytes
        return Refused("busy", f"{most - self._free} bytes of {most} are under way: there is no room for {wanted}")

    def _look_again(self) -> None:
        self.look()
        more = bool(self._coming)
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_again) if more else None

    def _judge(self, place: Place) -> None:
        came, place.seen = place.arrived - place.seen, place.arrived
        bounds = self._bounds
        place.credit_s = min(bounds.grace_s, place.credit_s - LOOK_S + came / bounds.min_rate)
        if place.credit_s < 0:
            self._cut(place, f"at least {bounds.min_rate:g} bytes a second must come")
        elif came >= FAST_BYTES_PER_S * LOOK_S:
            place.slow_looks = 0
        else:
            place.slow_looks += 1
            self._count(place, place.arrived)  # never more than before

    def _slow(self) -> list[Place]:
        return [place for place in self._coming if place.slow_looks >= SLOW_LOOKS]

    def _cut_slowest(self) -> bool:
        """End the body that has been slow for longest. False: none is slow."""
        slow = self._slow()
        if slow:
            self._cut(max(slow, key=lambda place: place.slow_looks), "room was needed, and it was the slowest")
        return bool(slow)

    def _cut(self, place: Place, why: str) -> None:
        """What it held is free at once; whoever reads it is told when the loop comes to it."""
        detail = f"{place.arrived} of {place.length} bytes have come: {why}"
        place.cut = Refused("slow_body", detail)
        self._leave(place)
        if place.timeout is not None:
            place.timeout.reschedule(asyncio.get_running_loop().time())
