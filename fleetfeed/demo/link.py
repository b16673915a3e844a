"""A TCP relay on loopback that can be cut and restored: a robot's radio link, as far as its agent can tell."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self


class Link:
    """Relays `port` to a server on `target_port`. While cut, connections break and new ones are refused."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._is_cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._set, True)

    def restore(self) -> None:
        self._loop.call_soon_threadsafe(self._set, False)

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set(self, is_cut: bool) -> None:
        self._is_cut = is_cut
        for writer in self._open if is_cut else ():
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._open |= {writer, back}
            try:
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
            finally:
                self._open -= {writer, back}
                writer.transport.abort()
                back.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    sink.close()
