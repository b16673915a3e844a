"""One camera's coded pictures with their capture times, and the GOPs that store them. Nothing is decoded here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Packet:
    """One coded picture. `t_ns` is the capture time of the picture in it."""

    t_ns: int
    data: bytes
    keyframe: bool


@dataclass(frozen=True, slots=True)
class Gop:
    """A keyframe and what needs it, in decoding order; it decodes without any other packet."""

    packets: tuple[Packet, ...]

    @property
    def start_ns(self) -> int:
        return self.packets[0].t_ns

    @property
    def bytes(self) -> int:
        return sum(len(packet.data) for packet in self.packets)

    @property
    def frame_t_ns(self) -> list[int]:
        """Capture time of each frame in presentation order."""
        return sorted(packet.t_ns for packet in self.packets)

    @property
    def reorders(self) -> bool:
        """Whether decoding order is not presentation order, as with B-frames."""
        return [packet.t_ns for packet in self.packets] != self.frame_t_ns


@dataclass(frozen=True)
class Track:
    """A segment's packets in decoding order. `extradata`: codec configuration outside them (mp4), else empty."""

    codec: str
    extradata: bytes
    packets: tuple[Packet, ...]
    topic: str

    @cached_property
    def gops(self) -> tuple[Gop, ...]:
        """Cut where a keyframe parts earlier from later pictures; an open GOP stays with the one before it."""
        cuts = [*_closed_starts(self.packets), len(self.packets)]
        return tuple(Gop(self.packets[a:b]) for a, b in pairwise(cuts))


def _closed_starts(packets: tuple[Packet, ...]) -> Iterator[int]:
    earliest_after = [2**63] * (len(packets) + 1)
    for index in range(len(packets) - 1, -1, -1):
        earliest_after[index] = min(packets[index].t_ns, earliest_after[index + 1])
    latest = -(2**63)
    for index, packet in enumerate(packets):
        if packet.keyframe and latest < packet.t_ns <= earliest_after[index]:
            yield index
        latest = max(latest, packet.t_ns)
