"""A fleet in a hurry: robots with the edge's own code, for whom `SCALE` seconds pass in one.

They record a segment every 10 of their seconds, and upload by the rules of a real one: two at once, the oldest first,
backoff, `Retry-After`, pieces for what is large. Every acknowledgement is looked up in the bucket when it comes.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge import retry
from edge.uploader import Uploader
from ingest_serve.bucket import Bucket
from ingest_serve.revocations import LOOKUP_LIMIT_S
from tests.edge.delivering import QuickDisk
from tests.faults.audited_robot import AuditedRobot
from tests.faults.campaign import is_soak

SCALE = 5.0 if is_soak() else 10.0
SEGMENT_S = 10.0
SMALL, LARGE, PIECE = 24 << 10, 640 << 10, 256 << 10
LARGE_EVERY = 16
ROBOT = {  # a real robot's settings, but for its faster clock
    "scan_s": 0.5,
    "max_backoff_s": 60 / SCALE,
    "timeout_s": 60 / SCALE + 3 * LOOKUP_LIMIT_S,  # the server's patience with its registry knows no scale
    "uploads_at_once": 2,
    "piece_bytes": PIECE,
}
SERVER = {  # and what a server has that goes by the same clock
    "retry_after_s": 1,
    "storage_timeout_s": 20 / SCALE,
    "key_cache_s": 10 / SCALE,
    "max_telemetry_bytes": 1 << 20,
    "max_video_bytes": 1 << 20,
    "max_bytes_in_flight": 16 << 20,
    "min_body_rate": 100,
}


@dataclass
class Fleet:
    """Robots that record and upload until they are told to stop. `failures`: what their audits and threads raised."""

    robots: list[AuditedRobot]
    failures: list[BaseException] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _full: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _uploaders: list[Uploader] = field(default_factory=list)

    @classmethod
    def enrolled(cls, folder: Path, *, robots: int, url: str, bucket: Bucket) -> Fleet:
        names = [f"{folder.name}-{n:03}" for n in range(robots)]
        made = [AuditedRobot(folder / name, name, url=url, bucket=bucket, disk=QuickDisk()) for name in names]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(AuditedRobot.enrol, made))
        return cls(made)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Recording and uploading, until the context ends."""
        first_backoff_s, retry.FIRST_BACKOFF_S = retry.FIRST_BACKOFF_S, retry.FIRST_BACKOFF_S / SCALE
        self._uploaders = [robot.uploader(**ROBOT) for robot in self.robots]
        works: list[Any] = [lambda one=one: one.run(self._stop) for one in self._uploaders]
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in (*works, self._record)]
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)
            retry.FIRST_BACKOFF_S = first_backoff_s

    def stop_recording(self) -> None:
        self._full.set()
        self._threads[-1].join(60)

    @property
    def recorded(self) -> int:
        return sum(len(robot.expected) for robot in self.robots)

    @property
    def delivered(self) -> int:
        return sum(len(robot.spool.receipts) for robot in self.robots)

    @property
    def answers(self) -> Counter[int | str]:
        """How often each status was answered, to all of them; `broken`: no answer came."""
        return sum((Counter(robot.answers.counts) for robot in self.robots), Counter())

    def wait_until_delivered(self, *, limit_s: float) -> float:
        """Seconds until nothing waits on any robot; what went wrong meanwhile is raised."""
        began = time.monotonic()
        while self.delivered < self.recorded and not self.failures:
            time.sleep(0.05)
            if time.monotonic() - began > limit_s:
                said = Counter(one.state.last_error for one in self._uploaders)
                raise TimeoutError(f"{self.delivered} of {self.recorded} in {limit_s} s; {said.most_common(5)}")
        self.raise_failures()
        return time.monotonic() - began

    def raise_failures(self) -> None:
        if self.failures:
            raise self.failures[0]

    def check(self) -> None:
        """All that was recorded is stored, once, whole, in the order of its keys; nobody freed anything before."""
        self.raise_failures()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(AuditedRobot.check, self.robots))

    def _run(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by who waits
            self.failures.append(error)

    def _record(self) -> None:
        """One segment of each robot in every 10 s of theirs; some are large."""
        began, pause_s = time.monotonic(), SEGMENT_S / SCALE / len(self.robots)
        for turn in itertools.count():
            if self._full.wait(max(0.0, began + turn * pause_s - time.monotonic())) or self._stop.is_set():
                return
            seq, number = divmod(turn, len(self.robots))
            is_large = (seq + number) % LARGE_EVERY == 1
            size = LARGE if is_large else SMALL + random.Random(turn).randrange(SMALL)
            self.robots[number].seal(size, seq=seq, seed=turn)
