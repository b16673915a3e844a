"""What goes when a robot's disk is full: a pure choice among the sealed segments; nothing is removed here.

The least valuable goes first (the largest `priority`), and within one priority the oldest. A recording's id is a ULID,
so it sorts by time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evictable:
    """A sealed segment that may go. `stem` is its name in the spool; the smaller `priority`, the more valuable."""

    stem: str
    priority: int
    recording: str
    stream: str
    seq: int
    size_bytes: int


def choose_evictions(
    items: Iterable[Evictable],
    *,
    used_bytes: int,
    max_bytes: int,
    free_bytes: int,
    min_free_bytes: int,
    hysteresis: float = 0.05,
) -> list[Evictable]:
    """The segments to evict, in the order of eviction; none while used and free bytes are within their limits.

    Beyond what is too much, room of `hysteresis` times the spool's size (at most `max_bytes`) is made, so that a full
    disk evicts a range of segments now and then, and not one with each new segment. No segment is chosen that is not
    needed for that; all are, where even that is not enough. `items` must hold nothing that is open or on its way, and
    is not looked at within the limits. `ValueError` for a number that cannot be.
    """
    _check(max_bytes=max_bytes, min_free_bytes=min_free_bytes, used_bytes=used_bytes, hysteresis=hysteresis)
    excess_bytes = max(used_bytes - max_bytes, min_free_bytes - free_bytes)
    if excess_bytes <= 0:
        return []
    # a fraction of what is there, not of a limit that may be far above it: a disk filled by others must not empty us
    room_bytes = int(hysteresis * min(used_bytes, max_bytes))
    return _prefix(sorted(items, key=_eviction_order), excess_bytes + room_bytes)


def _eviction_order(item: Evictable) -> tuple[int, str, int, str]:
    return -item.priority, item.recording, item.seq, item.stream


def _prefix(items: list[Evictable], needed_bytes: int) -> list[Evictable]:
    """The shortest beginning of `items` that holds so many bytes."""
    for count, item in enumerate(items):
        if needed_bytes <= 0:
            return items[:count]
        needed_bytes -= item.size_bytes
    return items


def _check(*, hysteresis: float, **sizes: int) -> None:
    for name, value in sizes.items():
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    if not 0 <= hysteresis < 1:
        raise ValueError(f"hysteresis must be within 0..1, got {hysteresis}")
