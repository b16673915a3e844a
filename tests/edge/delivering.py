"""A robot that delivers to an `IngestDouble`: its spool, its identity, its uploader."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge.disk import Disk
from edge.identity import KEY_FILE, ROBOT_FILE, Identity
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.uploader import Uploader
from tests.edge.conftest import SpoolView
from tests.edge.ingest_double import ROBOT, URL, IngestDouble

LIMIT_S = 120.0


def enrol(folder: Path, key: Ed25519PrivateKey) -> None:
    """Make a folder that of an enrolled robot."""
    folder.mkdir(exist_ok=True)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / KEY_FILE).write_bytes(pem)
    (folder / ROBOT_FILE).write_text(json.dumps({"robot": ROBOT}))


class QuickDisk(Disk):
    """Syncs nothing: what a power cut would leave is asked elsewhere."""

    def sync(self, file: IO[bytes]) -> None:
        file.flush()

    def sync_folder(self, folder: Path) -> None:
        """Its names are there."""


class DeliveringRobot:
    """An uploader on a spool, with a server to talk to."""

    def __init__(self, folder: Path, key: Ed25519PrivateKey, *, spool: Spool | None = None) -> None:
        enrol(folder, key)
        self.spool = spool or Spool(folder, disk=QuickDisk())
        self.seen = SpoolView(self.spool)
        self.server = IngestDouble(key.public_key())
        self.clock: Callable[[], int] = time.time_ns
        self._identity = Identity(ROBOT, key)

    def uploader(self, **changed: Any) -> Uploader:
        quick = {"url": URL, "scan_s": 0.005, "max_backoff_s": 0.01, "timeout_s": 5, "uploads_at_once": 1}
        settings = EdgeSettings(folder=self.spool.folder, **{**quick, **changed})
        return Uploader(
            self.spool,
            self._identity,
            settings=settings,
            session=self.server.session,
            clock=lambda: self.clock(),
            random_=random.Random(1),
        )

    @contextmanager
    def running(self, *, until_empty: bool = False, **changed: Any) -> Iterator[Uploader]:
        """An uploader at work; what it raises is raised here."""
        uploader, stop, failed = self.uploader(**changed), threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                uploader.run(stop, until_empty=until_empty)
            except BaseException as error:  # noqa: BLE001 - raised below
                failed.append(error)

        working = threading.Thread(target=run)
        working.start()
        try:
            yield uploader
            if until_empty:
                working.join(LIMIT_S)
                assert not working.is_alive(), f"still trying: {uploader.state.last_error}"
        finally:
            stop.set()
            self.server.gate.set()
            working.join(LIMIT_S)
        assert not working.is_alive()
        if failed:
            raise failed[0]

    def deliver(self, **changed: Any) -> Uploader:
        """Upload until nothing waits."""
        with self.running(until_empty=True, **changed) as uploader:
            return uploader
