"""A number of bytes that is lent out in the order in which it was asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lends `total` bytes. Whoever asks first is served first, so a large wish is not overtaken by small ones."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        return self._total - self._free

    @asynccontextmanager
    async def turn(self, size: int, *, limit_s: float) -> AsyncIterator[None]:
        """Lend `size` bytes (at most `total`) until the context ends. `TimeoutError` if it is not free in time."""
        async with asyncio.timeout(limit_s):
            await self._take(size)
        try:
            yield
        finally:
            self._give(size)

    async def _take(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        lent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, lent))
        try:
            await lent
        except asyncio.CancelledError:
            self._give(0 if lent.cancelled() else size)  # it may have been lent just before we went
            raise

    def _give(self, size: int) -> None:
        self._free += size
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            wanted, lent = self._waiting.popleft()
            if not lent.done():  # else whoever waited has gone
                self._free -= wanted
                lent.set_result(None)
