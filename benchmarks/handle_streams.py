"""What a stream of messages through a Serve handle costs, and whether a slow caller holds it back (ADR 0014).

`python -m benchmarks.handle_streams [grpc|actor]` starts a Ray of its own; about a minute.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

SIZES = (64 << 10, 256 << 10, 1 << 20)
TOTAL_BYTES = 200 << 20
TAKEN, MADE_AT_MOST, WAIT_S = 3, 1000, 5


def main() -> None:
    how = (sys.argv[1:] or ["grpc"])[0]
    os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1" if how == "grpc" else "0"
    import ray
    from ray import serve

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"location": "NoServer"})
    small = {"ray_actor_options": {"num_cpus": 0.1}}
    source = serve.deployment(Source, **small).bind()
    handle = serve.run(serve.deployment(Caller, **small).bind(source), route_prefix=None)
    try:
        asyncio.run(_report(how, handle))
    finally:
        serve.shutdown()
        ray.shutdown()


async def _report(how: str, handle: Any) -> None:
    made = await handle.stall.remote()
    print(f"{how}: the caller took {TAKEN} of {MADE_AT_MOST} messages of 1 MiB; {made} were made after {WAIT_S} s")
    for size in SIZES:
        streamed = await handle.take.remote(TOTAL_BYTES // size, size)
        called = await handle.call.remote(min(200, TOTAL_BYTES // size), size)
        print(f"{how}: {size >> 10:5d} KiB a message: stream {streamed:6.0f} MB/s, a call each {called:6.0f} MB/s")


class Source:
    def __init__(self) -> None:
        self._made = 0
        self._bytes = os.urandom(max(SIZES))

    async def stream(self, count: int, size: int) -> AsyncIterator[bytes]:
        self._made, message = 0, self._bytes[:size]
        for _ in range(count):
            self._made += 1
            yield message

    async def one(self, size: int) -> bytes:
        return self._bytes[:size]

    async def made(self) -> int:
        return self._made


class Caller:
    def __init__(self, source: Any) -> None:
        self._source = source

    async def stall(self) -> int:
        stream = self._source.options(stream=True).stream.remote(MADE_AT_MOST, 1 << 20)
        for _ in range(TAKEN):
            await anext(stream)
        await asyncio.sleep(WAIT_S)
        made = await self._source.made.remote()
        stream.cancel()
        return int(made)

    async def take(self, count: int, size: int) -> float:
        begun, taken = time.monotonic(), 0
        async for message in self._source.options(stream=True).stream.remote(count, size):
            taken += len(message)
        return taken / (time.monotonic() - begun) / 1e6

    async def call(self, count: int, size: int) -> float:
        begun = time.monotonic()
        for _ in range(count):
            await self._source.one.remote(size)
        return count * size / (time.monotonic() - begun) / 1e6


if __name__ == "__main__":
    main()
