"""A cap on what the uploads of one robot send: a token bucket shared by their threads, and a body that draws from it.

The bucket is kept as the time at which the next byte may go (the virtual scheduling algorithm of ITU-T I.371): each
`take` reserves the next stretch of that time under a lock, then waits for its beginning. So threads are served in the
order in which they ask, and since they ask for small blocks in turn, each gets its share.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import IO

MAX_BLOCK_BYTES = 64 << 10
BLOCKS_PER_S = 10  # at least, under a low cap: a steady trickle, and a stop is soon seen
BURST_S = 0.1  # what was not sent in so long a time may be sent at once: a late wake-up does not lower the rate

Wait = Callable[[threading.Event, float], object]


class UploadStopped(OSError):
    """The upload was told to stop while its body was being sent."""


class Pacer:
    """In any `t` seconds at most `max_bytes_per_s * (t + BURST_S)` bytes and one block a thread go; 0: no cap."""

    def __init__(
        self, max_bytes_per_s: int, *, clock: Callable[[], float] = time.monotonic, wait: Wait = threading.Event.wait
    ) -> None:
        if max_bytes_per_s < 0:
            raise ValueError(f"max_bytes_per_s must be >= 0, got {max_bytes_per_s}")
        self.max_bytes_per_s = max_bytes_per_s
        self._clock, self._wait = clock, wait
        self._next_s = float("-inf")
        self._lock = threading.Lock()

    @property
    def block_bytes(self) -> int:
        """How much to take at once."""
        if not self.max_bytes_per_s:
            return MAX_BLOCK_BYTES
        return max(1, min(MAX_BLOCK_BYTES, self.max_bytes_per_s // BLOCKS_PER_S))

    def take(self, size_bytes: int, *, stop: threading.Event | None = None) -> bool:
        """Wait until so many bytes may go; False as soon as `stop` is set: then they may not."""
        stop = stop or threading.Event()
        if self.max_bytes_per_s:
            start_s = self._reserve(size_bytes)
            while (left_s := start_s - self._clock()) > 0 and not stop.is_set():
                self._wait(stop, left_s)
        return not stop.is_set()

    def _reserve(self, size_bytes: int) -> float:
        """When these bytes may go."""
        with self._lock:
            start_s = max(self._next_s, self._clock() - BURST_S)
            self._next_s = start_s + size_bytes / self.max_bytes_per_s
        return start_s


class PacedBody:
    """The body of one request: `size` bytes from `start` of some memory or of a file that is open for reading.

    Made for `requests`: `len` gives the Content-Length, and the connection reads it block by block, each when the
    pacer lets it go. A file's own position is neither used nor moved. One body is good for one request.
    """

    def __init__(
        self,
        source: bytes | memoryview | IO[bytes],
        *,
        pacer: Pacer,
        stop: threading.Event,
        start: int = 0,
        size: int | None = None,
    ) -> None:
        total = len(source) if isinstance(source, bytes | memoryview) else os.fstat(source.fileno()).st_size
        self._size = total - start if size is None else size
        if not 0 <= start <= start + self._size <= total:
            raise ValueError(f"start and size must lie within {total} bytes, got {start} and {size}")
        self.sent = 0
        self._source, self._start = source, start
        self._pacer, self._stop = pacer, stop

    def __len__(self) -> int:
        return self._size

    def read(self, size: int) -> bytes:
        """The next block, of at most `size` bytes; empty at the end. `UploadStopped` once the upload is to stop.

        `OSError` where the file has become shorter: the connection must break, for less than the Content-Length came.
        """
        wanted = min(size, self._pacer.block_bytes, self._size - self.sent)
        if wanted == 0:
            return b""
        if not self._pacer.take(wanted, stop=self._stop):
            raise UploadStopped(f"told to stop after {self.sent} of {self._size} bytes")
        block = self._block(self._start + self.sent, wanted)
        if len(block) < wanted:
            raise OSError(f"the file ended {self._size - self.sent - len(block)} bytes before its length")
        self.sent += wanted
        return block

    def _block(self, offset: int, size: int) -> bytes:
        if isinstance(self._source, bytes | memoryview):
            return bytes(self._source[offset : offset + size])
        return os.pread(self._source.fileno(), size, offset)
