"""A bad link: a TCP proxy on loopback that passes bytes on, and cuts, refuses, delays or throttles when told to.

A cut is a reset (RST) to both sides after an exact number of bytes has arrived on the other side, as when a radio link
or a NAT entry goes. Bytes are counted as they are passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 16
LIMIT_S = 10.0
POLL_S = 0.005
Direction = Literal["up", "down"]  # from the client to the server, and back


@dataclass(frozen=True, slots=True)
class Cut:
    """After how many bytes of a direction a connection is cut; None: not by this direction.

    `up=0` cuts when the client connects, `down=0` when the server has begun to answer: the answer is lost whole.
    """

    up: int | None = None
    down: int | None = None


@dataclass(slots=True)
class Connection:
    """One connection of a client: how many bytes were passed on each way, and how it ended."""

    number: int
    cut: Cut
    up: int = 0
    down: int = 0
    was_cut: bool = False
    is_open: bool = True


class CuttingProxy:
    """Listens at `url` and passes everything on to `target`, another URL's host and port.

    Set at any time, for every connection: `is_off` refuses new ones, `bytes_per_s` throttles each direction of each,
    `delay_s` holds every piece of at most 64 KiB that long before it goes on.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"target must be a URL with host and port, got {target!r}")
        self._target = parts.hostname, parts.port
        self.is_off = False
        self.bytes_per_s: float | None = None
        self.delay_s = 0.0
        self.held = 0  # pieces that wait for their delay or their turn just now
        self.connections: list[Connection] = []
        self._next: deque[Cut] = deque()
        self._draw: Callable[[int], Cut] = lambda _: Cut()
        self._open: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, args=(listening,), name="cutting-proxy", daemon=True)
        self._thread.start()

    # -- what the link does ----------------------------------------------------------------------------------------

    def cut(self, *, up: int | None = None, down: int | None = None, connections: int = 1) -> None:
        """Cut each of the next `connections` connections after that many bytes; those after them pass."""
        self._next.extend([Cut(up, down)] * connections)

    def cut_each(self, draw: Callable[[int], Cut]) -> None:
        """Cut every connection that no `cut` was meant for as `draw(number of the connection)` says."""
        self._draw = draw

    def cut_now(self) -> None:
        """Cut every connection that is open now."""
        asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result(LIMIT_S)

    def heal(self) -> None:
        """Pass everything on from now on, at once."""
        self._next.clear()
        self._draw = lambda _: Cut()
        self.is_off, self.bytes_per_s, self.delay_s = False, None, 0.0

    @property
    def up_bytes(self) -> int:
        """Bytes passed on to the server, over all connections."""
        return sum(one.up for one in self.connections)

    @property
    def down_bytes(self) -> int:
        return sum(one.down for one in self.connections)

    def close(self) -> None:
        """Cut what is open and stop listening."""
        if not self._loop.is_closed():
            self.cut_now()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the event loop's thread -----------------------------------------------------------------------------------

    def _run(self, listening: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=listening))
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _cut_all(self) -> None:
        for link in list(self._open):
            link.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.connections)
        connection = Connection(number, self._next.popleft() if self._next else self._draw(number))
        self.connections.append(connection)
        link = _Link(self, connection, [writer])
        if self.is_off or connection.cut.up == 0:
            link.reset()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            link.reset()
            return
        link.writers.append(server_writer)
        self._open.add(link)
        try:
            await link.run((reader, server_writer), (server_reader, writer))
        finally:
            self._open.discard(link)

    async def hold(self, length: int) -> None:
        """Wait for as long as the link now takes for a piece; what is set meanwhile counts at once."""
        began = time.monotonic()
        self.held += 1
        try:
            while time.monotonic() - began < self.delay_s + (length / self.bytes_per_s if self.bytes_per_s else 0.0):
                await asyncio.sleep(POLL_S)
        finally:
            self.held -= 1

    def piece_bytes(self) -> int:
        """How much to read at once: throttled, no more than a twentieth of a second carries."""
        return min(CHUNK_BYTES, max(1, int(self.bytes_per_s / 20))) if self.bytes_per_s else CHUNK_BYTES


@dataclass(eq=False)
class _Link:
    """The two sockets of one connection, and the two directions between them."""

    proxy: CuttingProxy
    connection: Connection
    writers: list[asyncio.StreamWriter]
    _pumps: list[asyncio.Task[bool]] = field(default_factory=list)

    async def run(
        self,
        up: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        down: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass on until the server's side has ended, or a direction is to be cut."""
        for writer in self.writers:
            writer.transport.set_write_buffer_limits(0)
        upward = asyncio.ensure_future(self._pump("up", *up))
        downward = asyncio.ensure_future(self._pump("down", *down))
        self._pumps += [upward, downward]
        waiting = {upward, downward}
        while downward in waiting and self.connection.is_open:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(not one.cancelled() and one.result() for one in done):
                self.reset()
        self._end()

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Pass on one direction until it ends; True where the connection is to be reset."""
        limit: int | None = getattr(self.connection.cut, direction)
        try:
            if limit == 0:
                return await reader.read(1) != b""
            while getattr(self.connection, direction) != limit:
                piece = await self._read(reader, direction, limit)
                if not piece:
                    return self._ended(writer)
                await self.proxy.hold(len(piece))
                if not await self._write(writer, direction, piece):
                    return direction == "down"  # the client is gone; a server may have answered before it went
            await _delivered(writer)
        except OSError:  # the side that sends has reset it
            pass
        return True

    async def _read(self, reader: asyncio.StreamReader, direction: Direction, limit: int | None) -> bytes:
        most = self.proxy.piece_bytes()
        return await reader.read(most if limit is None else min(most, limit - getattr(self.connection, direction)))

    async def _write(self, writer: asyncio.StreamWriter, direction: Direction, piece: bytes) -> bool:
        """Pass a piece on and count it; False where the side that takes it is gone."""
        setattr(self.connection, direction, getattr(self.connection, direction) + len(piece))
        try:
            writer.write(piece)
            await writer.drain()
        except OSError:
            return False
        return True

    def _ended(self, writer: asyncio.StreamWriter) -> bool:
        with contextlib.suppress(OSError):
            writer.write_eof()
        return False

    def reset(self) -> None:
        """Send RST to both sides."""
        self.connection.was_cut = True
        for writer in self.writers:
            if not writer.transport.is_closing():
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
        self._end()

    def _end(self) -> None:
        self.connection.is_open = False
        for pump in self._pumps:
            pump.cancel()
        for writer in self.writers:
            writer.close()


async def _delivered(writer: asyncio.StreamWriter) -> None:
    """Wait until the other side's kernel has everything: a reset throws away what it has not."""
    deadline = time.monotonic() + LIMIT_S
    while _unacknowledged(writer) and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)


def _unacknowledged(writer: asyncio.StreamWriter) -> int:
    waiting = fcntl.ioctl(writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", waiting)[0])
