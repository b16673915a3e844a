"""What a replica has looked up in the registry: kept for an hour, trusted only while its revocation view is fresh.

So an upload costs the bucket no look-up, and a revocation is still heard within seconds. Where the registry cannot be
read, `StorageUnavailable`: never a guess.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ingest_serve.errors import Refused
from ingest_serve.registry import Registry, is_key_id
from ingest_serve.revocations import KEPT_S, Found, RevocationView, Steady, key_record, token_record, within_limit
from ingest_serve.tokens import Token, Tokens

MAX_KEPT = 20_000
MAX_ABSENT = 10_000
ABSENT_S = 1.0  # how long an id that nobody has is not asked for again
MAX_AT_ONCE = 16  # a flood of made-up ids is no flood of requests to the bucket
Value = TypeVar("Value")


class Lookups(Generic[Found]):
    """Objects by the name of their revocation record. For one event loop; one look-up serves all who wait for it."""

    def __init__(
        self,
        look_up: Callable[[str], Awaitable[Found | None]],
        *,
        absent_s: float = ABSENT_S,
        steady_ns: Steady = time.monotonic_ns,
    ) -> None:
        self._look_up = look_up
        self._absent_ns = int(absent_s * 1e9)
        self._steady_ns = steady_ns
        self._kept: dict[str, tuple[int, Found]] = {}
        self._absent: dict[str, int] = {}
        self._under_way: dict[str, asyncio.Task[Found | None]] = {}
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    async def find(self, record: str) -> Found | None:
        """What was found at most an hour ago; None if there is no such object."""
        asked_ns = self._steady_ns()
        looked_up_ns, found = self._kept.get(record, (0, None))
        if found is not None and asked_ns - looked_up_ns < KEPT_S * 1e9:
            return found
        if self._was_absent(record, asked_ns):
            return None
        return await within_limit(asyncio.shield(self._looking_up(record)))

    async def find_fresh(self, record: str) -> Found | None:
        """What is there now, whatever is kept; None if there is no such object."""
        if self._was_absent(record, self._steady_ns()):
            return None
        return await within_limit(self._in_turn(record))

    def forget_absence(self, record: str) -> None:
        """It has just been made: what a look-up under way finds is of before."""
        self._absent.pop(record, None)
        self._under_way.pop(record, None)

    def _was_absent(self, record: str, asked_ns: int) -> bool:
        looked_up_ns = self._absent.get(record)
        return looked_up_ns is not None and asked_ns - looked_up_ns < self._absent_ns

    def _looking_up(self, record: str) -> asyncio.Task[Found | None]:
        task = self._under_way.get(record)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._refreshed(record))
            task.add_done_callback(_take_error)
            self._under_way[record] = task
        return task

    async def _refreshed(self, record: str) -> Found | None:
        asked_ns, task = self._steady_ns(), asyncio.current_task()
        try:
            found = await within_limit(self._in_turn(record))
            if self._under_way.get(record) is task:
                self._remember(record, found, asked_ns)
            return found
        finally:
            if self._under_way.get(record) is task:
                del self._under_way[record]

    def _remember(self, record: str, found: Found | None, asked_ns: int) -> None:
        self._kept.pop(record, None)
        self._absent.pop(record, None)
        if found is None:
            _keep(self._absent, record, asked_ns, most=MAX_ABSENT)
        else:
            _keep(self._kept, record, (asked_ns, found), most=MAX_KEPT)

    async def _in_turn(self, record: str) -> Found | None:
        async with self._places:
            return await self._look_up(record)


class KeyCache:
    """Robots' keys that count."""

    def __init__(self, registry: Registry, view: RevocationView, **bounds: Any) -> None:
        async def look_up(record: str) -> Ed25519PublicKey | None:
            robot, kid = record.split("/")
            return await registry.find_key_async(robot, kid)

        self._view = view
        self._lookups = Lookups(look_up, **bounds)

    async def find(self, robot: str, kid: str) -> Ed25519PublicKey | None:
        """The robot's key of this id; None if there is none, or it was revoked longer ago than the view's age."""
        record = key_record(robot, kid)
        if not is_key_id(kid) or record in await self._view.revoked():
            return None
        return await self._lookups.find(record)

    async def find_fresh(self, robot: str, kid: str) -> Ed25519PublicKey | None:
        """The same as of now, for requests that make other keys count, or no longer."""
        return await self._lookups.find_fresh(key_record(robot, kid)) if is_key_id(kid) else None

    async def check(self, robot: str, kid: str) -> None:
        """`Refused` if a key that was found was revoked since. Costs nothing while the view is fresh."""
        if key_record(robot, kid) in await self._view.revoked():
            raise Refused("unknown_key", f"key {kid} of robot {robot!r} was revoked while the request was under way")

    def forget_absence(self, robot: str, kid: str) -> None:
        """The key has just been made known."""
        self._lookups.forget_absence(key_record(robot, kid))


class TokenCache:
    """People's tokens, whether they count or not: each says so itself."""

    def __init__(self, tokens: Tokens, view: RevocationView, **bounds: Any) -> None:
        async def look_up(record: str) -> Token | None:
            return await tokens.find_async(record.rpartition("/")[2])

        self._view = view
        self._lookups = Lookups(look_up, **bounds)

    async def find(self, token_id: str) -> Token | None:
        """None if there never was one. A revocation is seen when it is older than the view's age."""
        record = token_record(token_id)
        revoked = record in await self._view.revoked()
        token = await self._lookups.find(record)
        return replace(token, revoked_ns=token.revoked_ns or 0) if token is not None and revoked else token

    async def find_fresh(self, token_id: str) -> Token | None:
        """The same as of now, for requests that let others in, or out."""
        return await self._lookups.find_fresh(token_record(token_id))


def _take_error(task: asyncio.Task[Any]) -> None:
    """Whoever waits for a look-up gets its error; where nobody waits any more, it is none."""
    if not task.cancelled():
        task.exception()


def _keep(kept: dict[str, Value], record: str, value: Value, *, most: int) -> None:
    """At the end; the one looked up longest ago goes."""
    kept[record] = value
    if len(kept) > most:
        kept.pop(next(iter(kept)))
