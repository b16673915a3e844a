"""What the bounds on bodies cost: one upload's place, one chunk of it, one look at all bodies, the gate of one request.

python -m benchmarks.body_bounds
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack

from starlette.types import Message, Receive, Scope, Send

from ingest_serve.gate import Gate
from ingest_serve.in_flight import InFlight
from ingest_serve.settings import IngestSettings

ROUNDS = 7
CHUNK = bytes(64 << 10)
BODY_BYTES = 3 << 20
BODIES = 500
FIELDS = [
    (name.encode(), b"x")
    for name in ("host", "user-agent", "accept", "content-length", "content-type", "content-digest", "authorization")
]


def best_us(work: Callable[[], None], *, times: int) -> float:
    """The least time of one call, in µs."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(times):
            work()
        found.append((time.perf_counter() - began) / times)
    return min(found) * 1e6


def take_body(in_flight: InFlight, *, length: int) -> None:
    with in_flight.hold("g1-001", length) as place:
        for _ in range(length // len(CHUNK)):
            in_flight.take(place, CHUNK)
        in_flight.received(place)


def copy_body(*, length: int) -> None:
    body = bytearray()
    for _ in range(length // len(CHUNK)):
        body += CHUNK


def place_us(in_flight: InFlight) -> float:
    return best_us(lambda: take_body(in_flight, length=0), times=2000)


def body_us(in_flight: InFlight) -> tuple[float, float]:
    """A body with the bounds, and the same chunks only put together."""
    bounded = best_us(lambda: take_body(in_flight, length=BODY_BYTES), times=50)
    return bounded, best_us(lambda: copy_body(length=BODY_BYTES), times=50)


def look_us(in_flight: InFlight) -> float:
    with ExitStack() as stack:
        for number in range(BODIES):
            stack.enter_context(in_flight.hold(f"robot-{number}", BODY_BYTES))
        return best_us(in_flight.look, times=1)


async def answer(_scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


async def gate_us() -> float:
    """A request through the gate, less the same without it."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x"}

    async def send(_message: Message) -> None:
        return

    async def once(app: Callable[..., object], *, times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            await app({"type": "http", "headers": FIELDS}, receive, send)  # type: ignore[misc]
        return (time.perf_counter() - began) / times * 1e6

    gate = Gate(answer, retry_after_s=1)
    with_gate = min([await once(gate, times=2000) for _ in range(ROUNDS)])
    return with_gate - min([await once(answer, times=2000) for _ in range(ROUNDS)])


async def main() -> None:
    in_flight = InFlight(IngestSettings(max_bodies=BODIES).bounds())
    bounded, copied = body_us(in_flight)
    print(f"a place, taken and left                    {place_us(in_flight):6.1f} µs")
    print(f"a body of 3 MiB in chunks of 64 KiB        {bounded:6.1f} µs, its chunks only put together {copied:.1f} µs")
    print(f"the gate of one request                    {await gate_us():6.1f} µs")
    print(f"a look at {BODIES} bodies, four times a second  {look_us(in_flight):6.1f} µs")


if __name__ == "__main__":
    asyncio.run(main())
