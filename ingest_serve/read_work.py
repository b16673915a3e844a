"""How much one replica reads at once: every read that costs something has a turn, and a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from ingest_serve.errors import Refused

T = TypeVar("T")

WAIT_S = 5.0  # for a turn
_END = object()


class Workers:
    """At most `at_once` reads; who gets no turn within a few seconds is told to come again."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._free = asyncio.Semaphore(at_once)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="read")

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Raises `Refused("busy")`."""
        try:
            async with asyncio.timeout(WAIT_S):
                await self._free.acquire()
        except TimeoutError as error:
            raise Refused("busy", f"{self._at_once} reads are under way, no more go at once") from error
        try:
            yield
        finally:
            self._free.release()

    async def run(self, work: Callable[[], T]) -> T:
        """One piece of work, in its turn."""
        async with self.hold():
            return await self.thread(work)

    async def thread(self, work: Callable[[], T]) -> T:
        """Work in a thread of ours, for who holds a turn already: it is held until the thread is done."""
        done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait({done})
            raise

    async def stream(self, begin: Callable[[], Iterator[bytes]]) -> AsyncGenerator[bytes, None]:
        """What an iterator yields, step by step in threads, in one turn that lasts to its end."""
        async with self.hold():
            source = await self.thread(begin)
            try:
                while (chunk := await self.thread(lambda: next(source, _END))) is not _END:
                    yield chunk  # type: ignore[misc]  # not the end
            finally:
                close = getattr(source, "close", None)
                if close is not None:
                    await self.thread(close)
