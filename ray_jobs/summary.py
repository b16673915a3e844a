"""What a run tells about itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
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
        """This run's next commit on top: sums, and the state of the queue as the later one saw it."""
        return Summary(
            self.job,
            self.chain,
            self.versions + later.versions,
            dict(Counter(self.counts) + Counter(later.counts)),
            dict(Counter(self.rows) + Counter(later.rows)),
            tuple(dict.fromkeys(self.notes + later.notes)),
            self.seconds + later.seconds,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
