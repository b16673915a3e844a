"""The published index that an answer is made from, and what the answer says of its freshness."""

from __future__ import annotations

import threading
import time

from dataset_catalog import versions
from dataset_catalog.errors import NotFound
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest

VERSION_HEADER = "Fleetfeed-Index-Version"
PUBLISHED_HEADER = "Fleetfeed-Index-Published-Ns"


class Index:
    """The newest manifests of a lake's chains, looked up again when what is known is older than `lifetime_s`."""

    def __init__(self, storage: Storage, *, lifetime_s: float) -> None:
        self._storage, self._lifetime_s = storage, lifetime_s
        self._known: dict[str, tuple[float, Manifest | None]] = {}
        self._guard = threading.Lock()

    def newest(self, chain: str) -> Manifest | None:
        """None where nothing is published. Raises `StorageError`."""
        with self._guard:  # one looks, the others wait for what it finds
            now = time.monotonic()
            looked, manifest = self._known.get(chain, (0.0, None))
            if chain not in self._known or now - looked > self._lifetime_s:
                manifest = versions.newest(self._storage, chain)
                self._known[chain] = (now, manifest)
            return manifest

    def at(self, chain: str, n: int) -> Manifest | None:
        """Version `n` of a chain; None if there is none, any more or yet."""
        newest = self.newest(chain)
        if newest is not None and newest.n == n:
            return newest
        try:
            return versions.read(self._storage, chain, n)
        except NotFound:
            return None


def freshness(manifest: Manifest | None) -> dict[str, str]:
    """The headers that say which version an answer is from; 0 where nothing is published."""
    n, created_ns = (manifest.n, manifest.created_ns) if manifest else (0, 0)
    return {VERSION_HEADER: str(n), PUBLISHED_HEADER: str(created_ns)}
