"""Robots on slow links to a stack: one that always has something to send, and one whose single piece takes its time."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

from fleetfeed.stack import StackInfo
from ingest_serve.bucket import Bucket
from tests.edge.delivering import QuickDisk
from tests.faults.audited_robot import AuditedRobot
from tests.faults.campaign import is_soak
from tests.faults.cutting_proxy import CuttingProxy
from tests.ingest_serve.conftest import wait_until

LIMIT_S = 120.0 if not is_soak() else 600.0
LINK_BYTES_S = 200_000.0
WEAK_LINK_BYTES_S = 3_000.0  # of a piece that is to take its time; less than 2,000 is not taken
WAITING = 6  # segments that a robot always has waiting
SIZES = (3_000, 40_000, 200_000, 64_000)  # the third goes in pieces
PIECE = 1 << 20


class SlowRobot:
    """A robot whose only way to the stack is a slow link, of which each connection gets `LINK_BYTES_S`."""

    def __init__(self, folder: Path, name: str, *, info: StackInfo, bucket: Bucket) -> None:
        self.link = CuttingProxy(info.http_url)
        self.robot = AuditedRobot(folder, name, url=self.link.url, bucket=bucket, disk=QuickDisk())
        self.robot.enrol()
        self.link.bytes_per_s = LINK_BYTES_S
        self._seqs = itertools.count()
        self._stop, self._failed = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Deliver what is left over a good link, and check all of it; raises what went wrong until now."""
        self._end()
        if self._failed:
            raise self._failed[0]
        self.link.heal()
        self.robot.deliver(limit_s=LIMIT_S)
        self.robot.check()

    def close(self) -> None:
        self._end()
        self.link.close()

    def _end(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(LIMIT_S)

    def _run(self) -> None:
        try:
            self.robot.uploader(uploads_at_once=2).run(self._stop, housekeeping=self._record)
        except BaseException as error:  # noqa: BLE001 - raised by `finish`
            self._failed.append(error)

    def _record(self) -> None:
        for _ in range(WAITING - len(list(self.robot.spool.waiting()))):
            seq = next(self._seqs)
            self.robot.seal(SIZES[seq % len(SIZES)], seq=seq, seed=0)


class LongPiece:
    """One piece that is under way for as long as its link is slow, and that may be sent only once."""

    def __init__(self, folder: Path, name: str, *, info: StackInfo, bucket: Bucket) -> None:
        self.link = CuttingProxy(info.http_url)
        self.robot = AuditedRobot(folder, name, url=self.link.url, bucket=bucket, disk=QuickDisk())
        self.robot.enrol()
        self.robot.seal(PIECE + 1000, seq=0, stream="head", kind="video", seed=0)
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name=name)

    def begin(self) -> None:
        """Returns when the piece is under way."""
        self.link.bytes_per_s = WEAK_LINK_BYTES_S
        self._thread.start()
        wait_until(lambda: self.link.up_bytes > 3 * self.link.piece_bytes() + 4096, limit_s=LIMIT_S)

    def end(self) -> None:
        """Let the rest of it come at once."""
        self.link.heal()
        self._thread.join(LIMIT_S)
        if self._failed:
            raise self._failed[0]
        self.robot.check()

    def close(self) -> None:
        self.link.close()

    def _run(self) -> None:
        try:
            self.robot.deliver(limit_s=LIMIT_S, timeout_s=LIMIT_S, piece_bytes=PIECE)
        except BaseException as error:  # noqa: BLE001 - raised by `end`
            self._failed.append(error)
