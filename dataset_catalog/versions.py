"""The chain of version manifests: small JSON files created once, each naming the Lance version of every table.

A manifest *is* the commit: rows that no manifest names are not published. There is one chain for `lake/segments`,
one for `lake/telemetry`, one for `lake/labels`, and one for every `datasets/<name>`. A tag is a human name for a
version of a dataset: a small JSON file, `datasets/<name>/tags/<tag>.json`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dataset_catalog.errors import NotFound, QueryError, StorageError, VersionConflict
from dataset_catalog.storage import Storage

SEGMENTS = "lake/segments"
TELEMETRY = "lake/telemetry"
LABELS = "lake/labels"
DATASETS = "datasets"

_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VERSION = re.compile(r"v?[0-9]{1,10}")


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
    """One manifest; `NotFound` if the chain has no such version, `StorageError` if what is stored is no manifest."""
    with storage.reaching():
        try:
            body = storage.filesystem().cat_file(_path(storage, chain, n))
        except FileNotFoundError as error:
            newest = list_versions(storage, chain)[-5:]
            raise NotFound(f"{chain} has no version {n}; it has {newest} (newest last)") from error
    return _parsed(body, f"version {n} of {chain}")


def _parsed(body: bytes, what: str) -> Manifest:
    try:
        found = Manifest(**json.loads(body))
        tables = {name: int(version) for name, version in found.tables.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"the manifest of {what} is damaged: {error}; open an earlier version") from error
    return replace(found, tables=tables)


def publish(storage: Storage, chain: str, manifest: Manifest) -> None:
    """Create a manifest once; `VersionConflict` if that version exists already."""
    body = json.dumps(asdict(manifest), sort_keys=True).encode()
    with storage.reaching():
        try:
            _create_once(storage, _path(storage, chain, manifest.n), body)
        except OSError as error:  # s3fs knows FileExistsError only where it was there before its own request
            there = _stored(storage, chain, manifest.n)
            if there is None:
                raise
            if there != body:  # else the answer to our own request was lost, and the next try met the first
                raise VersionConflict(f"{chain} version {manifest.n} was published by another writer") from error


def _create_once(storage: Storage, path: str, body: bytes) -> None:
    """Nobody ever sees half of it: S3 sees to that itself, in a folder a link to a finished file does."""
    if storage.is_s3:
        storage.filesystem().pipe_file(path, body, mode="create")
        return
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".part") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
        os.link(file.name, path)
    entries = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)


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


def create_tag(storage: Storage, chain: str, tag: str, n: int) -> None:
    """Name a version that there is. `VersionConflict` where the tag names another one: delete it first.

    Raises `NotFound` for a version that the chain does not have, `QueryError` for what cannot be a tag.
    """
    if not _TAG.fullmatch(tag) or _VERSION.fullmatch(tag):
        raise QueryError(f"a tag is of a-z, 0-9, '.', '_' and '-', and no version's number, got {tag!r}")
    read(storage, chain, n)
    with storage.reaching():
        try:
            _create_once(storage, _tag_path(storage, chain, tag), json.dumps({"version": n}).encode())
        except OSError:
            there = list_tags(storage, chain).get(tag)
            if there is None:
                raise
            if there != n:
                raise VersionConflict(f"{chain} has the tag {tag} already, of version {there}") from None


def list_tags(storage: Storage, chain: str) -> dict[str, int]:
    """Tag → version, by tag."""
    fs = storage.filesystem()
    with storage.reaching():
        try:
            paths = fs.ls(storage.path(f"{chain}/tags"), detail=False)
        except FileNotFoundError:
            return {}
        named = [path for path in sorted(paths) if path.endswith(".json")]
        found = {path.rsplit("/", 1)[-1].removesuffix(".json"): fs.cat_file(path) for path in named}
    try:
        return {tag: int(json.loads(body)["version"]) for tag, body in found.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"a tag of {chain} is damaged: {error}; delete its file in tags/ and tag again") from error


def delete_tag(storage: Storage, chain: str, tag: str) -> None:
    """The version stays. Raises `NotFound` where there is no such tag."""
    there = list_tags(storage, chain)
    if tag not in there:
        raise NotFound(f"{chain} has no tag {tag!r}; it has {sorted(there)}")
    with storage.reaching(), suppress(FileNotFoundError):  # somebody else was faster
        storage.filesystem().rm_file(_tag_path(storage, chain, tag))


def resolve(storage: Storage, chain: str, version: int | str) -> int:
    """The number of a version: `7`, `"v7"`, or a tag. Raises `NotFound`."""
    text = str(version)
    if _VERSION.fullmatch(text):
        return int(text.removeprefix("v"))
    tags = list_tags(storage, chain)
    if text not in tags:
        there = ", ".join(tags) or "none"
        raise NotFound(f"a version is a number such as 7 or v7, or a tag of {chain} ({there}), got {text!r}")
    return tags[text]


def _tag_path(storage: Storage, chain: str, tag: str) -> str:
    return storage.path(f"{chain}/tags/{tag}.json")


def _path(storage: Storage, chain: str, n: int) -> str:
    return storage.path(f"{chain}/versions/{n:010d}.json")
