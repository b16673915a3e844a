"""Writes bits, most significant first, as H.264 has them (ITU-T H.264, 7.3 and 9.1)."""

from __future__ import annotations


class Bits:
    def __init__(self) -> None:
        self._bits: list[int] = []

    def put(self, value: int, width: int) -> None:
        self._bits += [value >> at & 1 for at in reversed(range(width))]

    def ue(self, number: int) -> None:
        """Exp-Golomb code."""
        width = (number + 1).bit_length()
        self.put(number + 1, 2 * width - 1)

    def trailed(self) -> bytes:
        """The bytes, with the stop bit and, where they would look like a start code, emulation prevention."""
        bits = [*self._bits, 1]
        bits += [0] * (-len(bits) % 8)
        data = int("".join(map(str, bits)), 2).to_bytes(len(bits) // 8, "big")
        for code in (3, 0, 1, 2):  # 3 first: the others put new ones in
            data = data.replace(b"\0\0" + bytes([code]), b"\0\0\3" + bytes([code]))
        return data
