"""Holes of a stream: ranges of seqs, up to its position, of which nothing is indexed. What comes in them is late.

Pure but for the pages that are listed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence

Hole = tuple[int, int]  # first and last seq
Times = dict[int, int]  # ascending seqs → since when the bucket has had each, ns
PAGE = 1000  # objects that one listing tells of
_END = 10**10


def without(holes: Iterable[Hole], taken: Collection[int]) -> tuple[Hole, ...]:
    """What is left of ranges when these seqs are taken out of them; neighbours become one."""
    left: list[Hole] = []
    for first, last in sorted(holes):
        for seq in sorted(seq for seq in taken if first <= seq <= last):
            left.append((first, seq - 1))
            first = seq + 1
        left.append((first, last))
    return _joined(hole for hole in left if hole[0] <= hole[1])


def _joined(holes: Iterable[Hole]) -> tuple[Hole, ...]:
    joined: list[Hole] = []
    for first, last in holes:
        if joined and joined[-1][1] >= first - 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return tuple(joined)


def is_in(holes: Sequence[Hole], seq: int) -> bool:
    """Whether one of the ascending ranges holds it."""
    at = bisect_right(holes, (seq, _END)) - 1
    return at >= 0 and seq <= holes[at][1]


def arrived_in(holes: Sequence[Hole], page_after: Callable[[int], Times]) -> Times:
    """What the bucket has in the ascending holes now. `page_after(seq)`: the first `PAGE` objects behind it.

    At most one listing a hole, or one for `PAGE` objects where they lie near each other.
    """
    listed: Times = {}
    upto = -1
    for first, last in holes:
        upto = max(upto, first - 1)
        while upto < last:
            page = page_after(upto)
            listed |= page
            upto = max(page) if len(page) >= PAGE else _END
    return {seq: since for seq, since in listed.items() if is_in(holes, seq)}
