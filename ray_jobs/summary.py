"""What a run tells about itself, and the loop that publishes a long run piece by piece."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Summary:
    """`counts` is work in words ("segments", "quarantined" …), `rows` the rows published per table."""

    job: str
    chain: str
    versions: tuple[int, ...] = ()  # published by this run
    counts: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def __add__(self, later: Summary) -> Summary:
        return replace(
            self,
            versions=self.versions + later.versions,
            counts=_sum(self.counts, later.counts),
            rows=_sum(self.rows, later.rows),
            notes=tuple(dict.fromkeys(self.notes + later.notes)),
        )

    def timed(self, started: float) -> Summary:
        """With the seconds since `started`, a reading of `time.monotonic`."""
        return replace(self, seconds=round(time.monotonic() - started, 3))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run_in_pieces(empty: Summary, piece: Callable[[], tuple[Summary, bool]]) -> Summary:
    """Call `piece` (its summary, and whether it left work that was there when it began) until no work is left."""
    started = time.monotonic()
    summary, more = empty, True
    while more:
        done, more = piece()
        summary += done
    return summary.timed(started)


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}
