"""index_segments for a loop: it looks where hints say that something came, and every hour everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from dataset_catalog.storage import Storage
from ingest_serve.arrivals import ArrivalLog
from ray_jobs import index_segments
from ray_jobs.backlog import Stream
from ray_jobs.settings import JobsSettings
from ray_jobs.summary import Summary

SWEEP_S = 3600.0


class Arriving:
    """Remembers in memory when it looked; a new one looks everywhere first."""

    def __init__(
        self,
        storage: Storage,
        settings: JobsSettings,
        *,
        sweep_s: float = SWEEP_S,
        clock_ns: Callable[[], int] = time.time_ns,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage, self._settings, self._sweep_s = storage, settings, sweep_s
        self._clock_ns, self._steady_s = clock_ns, steady_s
        self._hints = ArrivalLog.open(storage)
        self._swept_s = float("-inf")
        self._looked_ns = 0
        self._unfinished: set[Stream] = set()  # hinted at in a run that failed

    def run(self) -> Summary:
        """Index what is new. Raises what index_segments raises; then the next run looks at the same streams again."""
        began_s, began_ns = self._steady_s(), self._clock_ns()
        if began_s - self._swept_s >= self._sweep_s:
            summary = index_segments.run(self._storage, self._settings)
            self._swept_s = began_s
        else:
            self._unfinished |= self._hints.since(self._looked_ns)
            summary = self._index(self._unfinished)
        self._unfinished, self._looked_ns = set(), began_ns
        return summary

    def _index(self, streams: Collection[Stream]) -> Summary:
        return index_segments.run(self._storage, self._settings, only=streams)
