"""The jobs one after the other, again and again: what arrives is indexed, loaded and aligned within a minute or two.

A job that fails is told and tried again in the next round, later and later while it goes on failing; the others are
not held up by it. Each round begins where the versions say, so the loop itself has nothing to lose.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dataset_catalog.errors import CatalogError
from ingest_serve.errors import IngestError
from ray_jobs.errors import JobError
from ray_jobs.summary import Summary

MAX_BACKOFF_ROUNDS = 16
Job = Callable[[], Summary]


@dataclass
class _Turn:
    """One job's place in the loop: when it last began, and how often it has failed since it last did not."""

    job: Job
    every_s: float
    began_s: float = float("-inf")
    failures: int = 0

    def is_due(self, now_s: float, *, round_s: float) -> bool:
        backoff_s = round_s * min(2**self.failures, MAX_BACKOFF_ROUNDS) if self.failures else 0.0
        return now_s - self.began_s >= max(self.every_s, backoff_s)


@dataclass
class Loop:
    """Runs jobs, each at most every so many seconds, in the order in which they were added.

    round_s   a round begins so often, or when the last one ends
    done      hears of every run: the job's name and its summary, or the error that ended it
    """

    round_s: float
    done: Callable[[str, Summary | Exception], None]
    clock: Callable[[], float] = time.monotonic
    _turns: dict[str, _Turn] = field(default_factory=dict)

    def add(self, name: str, job: Job, *, every_s: float = 0.0) -> None:
        """`every_s` 0: in every round."""
        self._turns[name] = _Turn(job, every_s)

    def run(self, stop: threading.Event) -> None:
        """Round after round until `stop` is set; a job under way is finished first."""
        while not stop.is_set():
            began_s = self.clock()
            self.run_once(stop)
            stop.wait(max(0.0, began_s + self.round_s - self.clock()))

    def run_once(self, stop: threading.Event) -> None:
        """One round: every job that is due."""
        for name, turn in self._turns.items():
            if not stop.is_set() and turn.is_due(self.clock(), round_s=self.round_s):
                turn.began_s = self.clock()
                self._run(name, turn)

    def _run(self, name: str, turn: _Turn) -> None:
        try:
            summary = turn.job()
        except (JobError, CatalogError, IngestError, OSError) as error:  # Lance's word for a store that failed
            turn.failures += 1
            self.done(name, error)
        else:
            turn.failures = 0
            self.done(name, summary)

    @property
    def failing(self) -> Mapping[str, int]:
        """Which jobs fail just now, and how often they did in a row."""
        return {name: turn.failures for name, turn in self._turns.items() if turn.failures}
