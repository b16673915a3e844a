"""A robot whose every acknowledgement is looked up in the bucket itself, at the moment when it would free its disk."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from edge import identity, wire
from edge.chunks import MAGIC
from edge.disk import Disk
from edge.errors import NotEnrolled, RotationError
from edge.identity import Identity
from edge.segment import SegmentFacts, sha256_of
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled
from edge.uploader import Uploader
from edge.wire import MCAP_TYPE, Gap, Kind, Receipt, SegmentId
from ingest_serve.bucket import Bucket
from ingest_serve.raw_store import RawStore
from ingest_serve.registry import Registry, invite

RECORDING = "01J00000000000000000000000"
START_NS = 1_760_000_000_000_000_000
TRIES = 100
PAUSE_S = 0.02
QUICK = {"scan_s": 0.01, "max_backoff_s": 0.02, "timeout_s": 20.0, "uploads_at_once": 1, "piece_bytes": 1 << 16}


@dataclass
class Answers:
    """What the requests of a robot came to: how many of each status, `broken` where no answer came."""

    counts: Counter[int | str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: int | str) -> None:
        with self._lock:
            self.counts[what] += 1

    @property
    def failed(self) -> int:
        return sum(n for what, n in self.counts.items() if not (isinstance(what, int) and what < 300))

    def session(self) -> requests.Session:
        return _Counting(self)


class _Counting(requests.Session):
    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def request(self, *args: Any, **options: Any) -> requests.Response:  # type: ignore[override] # passed on as they are
        try:
            response = super().request(*args, **options)
        except requests.RequestException:
            self._answers.add("broken")
            raise
        self._answers.add(response.status_code)
        return response


class AuditedSpool(Spool):
    """Looks up what it is told is stored before it lets go of it."""

    def __init__(self, folder: Path, *, robot: str, bucket: Bucket, disk: Disk) -> None:
        super().__init__(folder, disk=disk)
        self.receipts: dict[SegmentId, list[Receipt]] = {}
        self._robot, self._store = robot, RawStore(bucket)

    def acknowledge(self, item: Spooled, receipt: Receipt) -> None:
        name = item.named(self._robot)
        raw, body = self._store.read(name)  # raises unless it is there, and is what its metadata says
        assert (receipt.key, raw.sha256, len(body)) == (name.key, item.sha256, item.bytes)
        self.receipts.setdefault(name, []).append(receipt)
        super().acknowledge(item, receipt)


class AuditedRobot:
    """One robot with the edge's own spool, identity and uploader. Its `folder` may be one that it had before."""

    def __init__(self, folder: Path, name: str, *, url: str, bucket: Bucket, disk: Disk) -> None:
        self.folder, self.name, self.url, self.bucket = folder, name, url, bucket
        self.spool = AuditedSpool(folder, robot=name, bucket=bucket, disk=disk)
        self.answers = Answers()
        self.expected: dict[str, Spooled] = {}
        self._disk = disk

    # -- what it has -----------------------------------------------------------------------------------------------

    def seal(self, size: int, *, seq: int, stream: str = "telemetry", kind: Kind = "telemetry", seed: int) -> Spooled:
        body = MAGIC + random.Random(f"{self.name} {stream} {seq} {seed}").randbytes(size - 2 * len(MAGIC)) + MAGIC
        facts = SegmentFacts(START_NS + seq, START_NS + seq + 1, size, sha256_of(body), {"/t": 1})
        return self._wants(self.spool.add((RECORDING, stream, seq), facts, body, kind=kind, content_type=MCAP_TYPE))

    def seal_gap(self, *, seq: int, stream: str = "telemetry", kind: Kind = "telemetry") -> Spooled:
        gap = Gap(seq, seq + 2, START_NS + seq, START_NS + seq + 3, "evicted", "the disk was full", 300, {"/t": 3})
        return self._wants(self.spool.add_gap((RECORDING, stream), gap, kind=kind))

    def _wants(self, item: Spooled) -> Spooled:
        self.expected[item.named(self.name).key] = item
        return item

    # -- what it does, again and again until it is done ------------------------------------------------------------

    def enrol(self) -> Identity:
        return self.enrol_with(invite(Registry(self.bucket), self.name, now_ns=time.time_ns()))

    def enrol_with(self, token: str) -> Identity:
        for _ in range(TRIES):
            try:
                with self.answers.session() as session:
                    return identity.enrol(self.folder, self.name, token, url=self.url, session=session, disk=self._disk)
            except NotEnrolled:
                time.sleep(PAUSE_S)
        raise TimeoutError(f"{self.name} was not enrolled in {TRIES} tries")

    def enrol_as(self, other: AuditedRobot) -> None:
        """Have the same key as another folder of this robot."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (identity.KEY_FILE, identity.ROBOT_FILE):
            shutil.copy2(other.folder / name, self.folder / name)

    def rotate(self) -> Identity:
        """Sign with a new key from now on, and have the old one retired."""
        for _ in range(TRIES):
            try:
                with self.answers.session() as session:
                    how: dict[str, Any] = {"url": self.url, "session": session, "disk": self._disk}
                    if not (self.folder / identity.OLD_FILE).exists():
                        identity.rotate(self.folder, **how)
                    present = identity.load(self.folder)
                    identity.retire_old(self.folder, present, **how)
                    return present
            except RotationError:
                time.sleep(PAUSE_S)
        raise TimeoutError(f"{self.name} has not rotated its key in {TRIES} tries")

    def uploader(self, **changed: Any) -> Uploader:
        settings = EdgeSettings(**{"folder": self.folder, "url": self.url, **QUICK, **changed})
        return Uploader(self.spool, identity.load(self.folder), settings=settings, session=self.answers.session)

    def deliver(self, *, limit_s: float = 60.0, **changed: Any) -> None:
        """Upload until nothing waits. Raises what an audit found, or `TimeoutError`."""
        uploader, stop = self.uploader(**changed), threading.Event()
        late = threading.Timer(limit_s, stop.set)
        late.start()
        try:
            uploader.run(stop, until_empty=True)
        finally:
            late.cancel()
        if stop.is_set():
            raise TimeoutError(f"{self.name} has not delivered within {limit_s} s: {uploader.state.last_error}")

    def status_for(self, signer: Identity) -> int:
        """What the server answers when asked for an upload that there is not, in the name of this identity."""
        target = wire.resume_target(self.name, "0" * 32)
        authorization = signer.authorization(method="HEAD", target=target, digest="", now_ns=time.time_ns())
        headers = {"Authorization": authorization}
        return requests.head(self.url + target, headers=headers, timeout=20).status_code

    # -- what must be true then ------------------------------------------------------------------------------------

    def check(self) -> None:
        """All that it had is in the bucket, once, whole, with its facts, and nothing else; each has a receipt."""
        assert not list(self.spool.waiting())
        assert not self.spool.quarantined()
        assert self.stored("raw") == sorted(self.expected)
        assert {name.key for name in self.spool.receipts} == set(self.expected)
        for item in self.expected.values():
            raw, _ = RawStore(self.bucket).read(item.named(self.name))
            told = (raw.kind, raw.content_type, raw.bytes, raw.sha256, raw.start_ns, raw.end_ns)
            assert told == (item.kind, item.content_type, item.bytes, item.sha256, item.start_ns, item.end_ns)

    def stored(self, root: str) -> list[str]:
        """The keys of this robot below raw/, conflicts/ or uploads/."""
        prefix = f"{root}/{self.name}"
        return [f"{prefix}/{name}" for name in self.bucket.names(prefix)]
