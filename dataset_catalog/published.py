"""A lake's published tables, as views for SQL: each at the version that the newest manifest of its chain names."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from dataset_catalog import schema, versions
from dataset_catalog.sql import View, view_of
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest

_OPENERS = 16  # tables opened at a time


class Published:
    """`pinned`: chains that are read at this manifest instead (None: as if nothing were published)."""

    def __init__(self, storage: Storage, *, pinned: Mapping[str, Manifest | None] | None = None) -> None:
        self._storage, self._pinned = storage, dict(pinned or {})

    def newest(self, chain: str) -> Manifest | None:
        if chain in self._pinned:
            return self._pinned[chain]
        with self._storage.reaching():
            return versions.newest(self._storage, chain)

    def read(self, chain: str, n: int) -> Manifest:
        """One version; `NotFound` if the chain does not have it."""
        with self._storage.reaching():
            return versions.read(self._storage, chain, n)

    def datasets(self) -> dict[str, Manifest]:
        """Name → newest version, of those that have one, in order."""
        found = {name: self.newest(chain_of(name)) for name in self.begun()}
        return {name: manifest for name, manifest in found.items() if manifest}

    def begun(self) -> list[str]:
        """The names of all datasets that a job has begun."""
        return versions.list_datasets(self._storage)

    def segments(self) -> View:
        """The table `segments`, empty where nothing is indexed yet."""
        manifest = self.newest(versions.SEGMENTS)
        if manifest is None:
            return view_of(schema.SEGMENTS.empty_table(), "segments")
        return self._view(versions.SEGMENTS, manifest, "segments")

    def others(self) -> list[View]:
        """A view for every published table but `segments`; on S3 each takes a few round trips, so many at a time."""
        chains = [versions.TELEMETRY, *map(chain_of, self.begun())]
        with ThreadPoolExecutor(_OPENERS) as pool:
            manifests = pool.map(self.newest, chains)
            published = [
                (chain, manifest, table)
                for chain, manifest in zip(chains, manifests, strict=True)
                if manifest
                for table in sorted(manifest.tables)
            ]
            return list(pool.map(lambda table: self._view(*table), published))

    def _view(self, chain: str, manifest: Manifest, table: str) -> View:
        lake = open_table(self._storage, chain, manifest, table)
        return view_of(lake, table, schema="main" if chain == versions.SEGMENTS else chain.rsplit("/", 1)[-1])


def chain_of(dataset: str) -> str:
    return f"{versions.DATASETS}/{dataset}"
