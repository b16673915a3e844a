"""What no longer counts: a small list in the bucket, and the view of it by which a replica trusts what it has cached.

    registry/revoked/{robot}/{kid}     a robot's key that was revoked or retired; created once, only its name counts
    registry/revoked/_tokens/{id}      a person's token that was revoked

The objects of the key or token are marked first and for good, the record here comes after: whoever looks an object up
sees the mark, and whoever looked it up before sees the record. So a record is needed only as long as anything may be
cached (`KEPT_S`), and a revocation that was cut off between the two is finished by its repetition.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ingest_serve.bucket import Bucket
from ingest_serve.errors import StorageUnavailable

PREFIX = "registry/revoked"
LOOKUP_LIMIT_S = 4.0
KEPT_S = 3600.0  # for so long a replica keeps what it has looked up
RECORD_LIFETIME_S = 86_400  # longer than anything is kept, whatever the clocks of two machines say
MANY_RECORDS = 5_000  # a listing of these takes five requests
_DELETED_AT_ONCE = 1000

log = logging.getLogger(__name__)

Steady = Callable[[], int]
Found = TypeVar("Found")


def key_record(robot: str, kid: str) -> str:
    """The record's name for a robot's key; both are checked by who asks."""
    return f"{robot}/{kid}"


def token_record(token_id: str) -> str:
    """The record's name for a person's token; no robot's name begins with `_`."""
    return f"_tokens/{token_id}"


class Revocations:
    """Writes the records. Blocking: an async caller takes it to a thread."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def add(self, record: str, *, now_ns: int) -> bool:
        """Have every replica refuse it within seconds. False: the record was there."""
        return self._bucket.create(f"{PREFIX}/{record}", json.dumps({"revoked_ns": now_ns}).encode())

    def expire(self) -> int:
        """Remove the records that nobody needs any more: the objects say for themselves that they do not count.

        How many they were. Their age is by the bucket's clock: this machine's may be a day ahead.
        """
        before_ns = self._bucket.time_ns() - RECORD_LIFETIME_S * 10**9
        old = [entry.name for entry in self._bucket.entries(PREFIX) if entry.modified_ns < before_ns]
        for start in range(0, len(old), _DELETED_AT_ONCE):
            self._bucket.delete(*(f"{PREFIX}/{name}" for name in old[start : start + _DELETED_AT_ONCE]))
        return len(old)


class RevocationView:
    """The records as a replica knows them: at most `max_age_s` old, counted from when their listing began.

    For one event loop. One listing serves everybody who waits for it; past half its age, the next one is made beside
    the requests. `steady_ns` is a clock that nobody sets.
    """

    def __init__(self, bucket: Bucket, *, max_age_s: float, steady_ns: Steady = time.monotonic_ns) -> None:
        self._bucket = bucket
        self._max_age_ns = int(max_age_s * 1e9)
        self._steady_ns = steady_ns
        self._revoked: frozenset[str] = frozenset()
        self._begun_ns: int | None = None
        self._refresh_begun_ns = 0
        self._refresh: asyncio.Task[None] | None = None

    async def revoked(self) -> frozenset[str]:
        """Every record's name. `StorageUnavailable` when they cannot be listed now: nothing cached may be trusted."""
        asked_ns = self._steady_ns()
        if not self._is_fresh(asked_ns, self._max_age_ns):
            await within_limit(self._listed_for(asked_ns))
        elif not self._is_fresh(asked_ns, self._max_age_ns // 2):
            self._refreshing()
        return self._revoked

    async def _listed_for(self, asked_ns: int) -> None:
        """A listing under way is waited for; if it fails, or began too long ago, another one is made."""
        while not self._is_fresh(asked_ns, self._max_age_ns):
            refresh = self._refreshing()
            is_ours = self._refresh_begun_ns >= asked_ns
            try:
                await asyncio.shield(refresh)
            except StorageUnavailable:
                if is_ours:
                    raise

    def _is_fresh(self, asked_ns: int, max_age_ns: int) -> bool:
        return self._begun_ns is not None and asked_ns - self._begun_ns <= max_age_ns

    def _refreshing(self) -> asyncio.Task[None]:
        if self._refresh is None or self._refresh.done():
            self._refresh_begun_ns = self._steady_ns()
            self._refresh = asyncio.get_running_loop().create_task(self._list(self._refresh_begun_ns))
            self._refresh.add_done_callback(_tell_failure)
        return self._refresh

    async def _list(self, begun_ns: int) -> None:
        names = await within_limit(self._bucket.names_async(PREFIX))
        self._revoked, self._begun_ns = frozenset(names), begun_ns
        if len(names) > MANY_RECORDS:
            log.warning(
                "%d revocation records: `fleetfeed ingest expire` removes those that are no longer needed", len(names)
            )


async def within_limit(awaited: Awaitable[Found]) -> Found:
    """What is awaited, or `StorageUnavailable` after `LOOKUP_LIMIT_S`: a slow registry is as good as none."""
    try:
        async with asyncio.timeout(LOOKUP_LIMIT_S):
            return await awaited
    except TimeoutError as error:
        raise StorageUnavailable(f"the registry did not answer within {LOOKUP_LIMIT_S:g} s") from error


def _tell_failure(task: asyncio.Task[None]) -> None:
    """A refresh beside the requests that fails harms nobody yet, and must not go unseen."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.warning("the revocations could not be listed: %s", error)
