"""The rim to the store: opening the Lance table that a manifest names, and errors of the store in our words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lance
from botocore.exceptions import BotoCoreError

from dataset_catalog.errors import NotFound, StorageError
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest, table_uri


def open_table(storage: Storage, chain: str, manifest: Manifest, table: str) -> Any:
    """A `lance.LanceDataset`. Raises `NotFound` if the manifest does not name the table or its version is gone."""
    version = manifest.tables.get(table)
    if version is None:
        raise NotFound(f"{chain} version {manifest.n} has no table {table!r}; it has {sorted(manifest.tables)}")
    uri = table_uri(storage, chain, table)
    try:
        return lance.dataset(uri, version=version, storage_options=storage.lance_options())
    except (ValueError, OSError) as error:
        raise NotFound(f"{uri} has no Lance version {version}, which {chain} version {manifest.n} names") from error


@contextmanager
def reaching(storage: Storage) -> Iterator[None]:
    """Raises `StorageError` for whatever fsspec and botocore raise when the store cannot be reached or refuses us."""
    try:
        yield
    except (OSError, BotoCoreError) as error:
        where = f"{storage.url} at {storage.settings.endpoint_url}" if storage.is_s3 else storage.url
        raise StorageError(f"cannot read {where}: {error}") from error


def contains(column: str, values: Iterable[str]) -> str:
    """A Lance filter: `column` is one of `values`."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})" if quoted else "false"
