"""A body as it came: its chunks one after another. They are never put together: a buffer that grows is copied often.

What sends a body on takes the chunks as they are (`parts_of`); what looks at its form needs only its ends.
"""

from __future__ import annotations

LEAST_BYTES = 16 << 10  # of every part but the last: many tiny chunks would need more memory than they hold


class Chunks:
    """The bytes that have come, in order."""

    __slots__ = ("_size", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes | bytearray] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        self._size += len(chunk)
        last = self.parts[-1] if self.parts else b""
        if isinstance(last, bytearray) and len(last) < LEAST_BYTES:
            last += chunk
        elif len(chunk) >= LEAST_BYTES:
            self.parts.append(chunk)
        elif chunk:
            self.parts.append(bytearray(chunk))

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        """All of it, copied: for what is small."""
        return b"".join(self.parts)

    def first(self, count: int) -> bytes:
        """The first `count` bytes, at most `LEAST_BYTES`."""
        return bytes(self.parts[0][:count]) if self.parts else b""

    def last(self, count: int) -> bytes:
        """The last `count` bytes, at most `LEAST_BYTES`."""
        return b"".join(part[-count:] for part in self.parts[-2:])[-count:]


Body = bytes | bytearray | Chunks


def parts_of(body: Body) -> list[bytes | bytearray]:
    """The body's bytes, in order, without a copy."""
    return body.parts if isinstance(body, Chunks) else [body]


def ends_of(body: Body, *, most: int = 64) -> bytes:
    """A body of up to twice `most` bytes whole; of a larger one its first and its last `most` bytes."""
    if len(body) <= 2 * most:
        return bytes(body)
    if isinstance(body, Chunks):
        return body.first(most) + body.last(most)
    return bytes(body[:most]) + bytes(body[-most:])
