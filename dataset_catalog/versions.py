"""The chain of version manifests: small JSON files created once, each naming the Lance version of every table.

A manifest *is* the commit: rows that no manifest names are not published. There is one chain for `lake/segments`,
one for `lake/telemetry`, and one for every `datasets/<name>`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from dataset_catalog.errors import NotFound, VersionConflict
from dataset_catalog.storage import Storage

SEGMENTS = "lake/segments"
TELEMETRY = "lake/telemetry"
DATASETS = "datasets"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Version `n` (from 1) of a chain: table name → Lance version, and where the readers of its source have got to."""

    n: int
    tables: dict[str, int]
    positions: dict[str, Any] = field(default_factory=dict)
    created_ns: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


def table_uri(storage: Storage, chain: str, table: str) -> str:
    """Where a table of a chain lies. `segments` and `telemetry` keep their tables as DESIGN's paths say:
    `lake/segments.lance`, `lake/telemetry/<topic>.lance`, `datasets/<name>/<table>.lance`."""
    path = f"{SEGMENTS}.lance" if chain == SEGMENTS else f"{chain}/{table}.lance"
    return storage.uri(path)


def newest(storage: Storage, chain: str) -> Manifest | None:
    """The newest manifest of a chain, or None where nothing has been published."""
    numbers = list_versions(storage, chain)
    return read(storage, chain, numbers[-1]) if numbers else None


def list_versions(storage: Storage, chain: str) -> list[int]:
    """Every published version number of a chain, ascending."""
    fs, folder = storage.filesystem(), storage.path(f"{chain}/versions")
    with storage.reaching():
        try:
            names = fs.ls(folder, detail=False)
        except FileNotFoundError:
            return []
    stems = (name.rsplit("/", 1)[-1].removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def list_datasets(storage: Storage) -> list[str]:
    """The names of the datasets that have been begun, in order."""
    with storage.reaching():
        try:
            paths = storage.filesystem().ls(storage.path(DATASETS), detail=False)
        except FileNotFoundError:
            return []
    return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)


def read(storage: Storage, chain: str, n: int) -> Manifest:
    """One manifest; `NotFound` if the chain has no such version."""
    with storage.reaching():
        try:
            body = storage.filesystem().cat_file(_path(storage, chain, n))
        except FileNotFoundError as error:
            newest = list_versions(storage, chain)[-5:]
            raise NotFound(f"{chain} has no version {n}; it has {newest} (newest last)") from error
    return Manifest(**json.loads(body))


def publish(storage: Storage, chain: str, manifest: Manifest) -> None:
    """Create a manifest once; `VersionConflict` if that version exists already."""
    body = json.dumps(asdict(manifest), sort_keys=True).encode()
    with storage.reaching():
        try:
            storage.filesystem().pipe_file(_path(storage, chain, manifest.n), body, mode="create")
        except OSError as error:  # s3fs knows FileExistsError only where it was there before its own request
            there = _stored(storage, chain, manifest.n)
            if there is None:
                raise
            if there != body:  # else the answer to our own request was lost, and the next try met the first
                raise VersionConflict(f"{chain} version {manifest.n} was published by another writer") from error


def _stored(storage: Storage, chain: str, n: int) -> bytes | None:
    try:
        return bytes(storage.filesystem().cat_file(_path(storage, chain, n)))
    except FileNotFoundError:
        return None


def remove(storage: Storage, chain: str, n: int) -> None:
    """Take a version out of its chain, for good; nothing happens if it is gone. The newest must stay."""
    with storage.reaching():
        try:
            storage.filesystem().rm_file(_path(storage, chain, n))
        except FileNotFoundError:
            return


def _path(storage: Storage, chain: str, n: int) -> str:
    return storage.path(f"{chain}/versions/{n:010d}.json")
