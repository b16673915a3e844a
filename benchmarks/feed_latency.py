"""A TCP proxy that makes a server far: every byte arrives `delay_s` after it was sent, each way, and none is held up.

Unlike a bandwidth limit it delays pieces side by side, as a long line does. It runs in a thread of the benchmark, so
that its CPU time is in no side's.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

PIECE_BYTES = 1 << 18
END_S = 10.0


@contextmanager
def far(target: str, *, delay_s: float) -> Iterator[str]:
    """The URL of the same server, as seen from `delay_s` away."""
    parts = urlsplit(target)
    listening = socket.create_server(("127.0.0.1", 0))
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.CancelledError):  # by the end of the block
                there, back = await asyncio.open_connection(parts.hostname, parts.port)
                await asyncio.gather(_pass_on(reader, back, delay_s), _pass_on(there, writer, delay_s))
                back.close()
            writer.close()

        async with await asyncio.start_server(connected, sock=listening):
            await ended.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:  # which ends what is still open
            runner.run(serve())

    thread = threading.Thread(target=run, name="far", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(END_S)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """One direction, until it ends; then the other side is told."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

    async def deliver() -> None:
        with suppress(OSError):
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not piece:
                    writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()

    delivering = asyncio.ensure_future(deliver())
    with suppress(OSError):
        while piece := await reader.read(PIECE_BYTES):
            pieces.put_nowait((loop.time() + delay_s, piece))
    pieces.put_nowait((loop.time() + delay_s, b""))
    await delivering
