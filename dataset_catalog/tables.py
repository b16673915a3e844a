"""Opening the Lance table that a manifest names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lance
import pyarrow as pa

from dataset_catalog.errors import NotFound, StorageError
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest, table_uri


def open_table(storage: Storage, chain: str, manifest: Manifest, table: str) -> Any:
    """A `lance.LanceDataset`.

    Raises `NotFound` if the manifest does not name the table or its version is gone, `StorageError` where the store
    cannot be reached or refuses us: what is there stays there, and another try may have it.
    """
    version = manifest.tables.get(table)
    if version is None:
        raise NotFound(f"{chain} version {manifest.n} has no table {table!r}; it has {sorted(manifest.tables)}")
    uri = table_uri(storage, chain, table)
    try:
        return lance.dataset(uri, version=version, storage_options=storage.lance_options())
    except (ValueError, OSError) as error:
        if "not found" not in str(error).lower():  # Lance has one class for all of it
            raise StorageError(f"cannot reach {storage.where}: {error}") from error
        raise NotFound(f"{uri} has no Lance version {version}, which {chain} version {manifest.n} names") from error


def read(table: Any, **asked: Any) -> pa.Table:
    """`table.to_table(**asked)`. Raises `StorageError`, which names the table, where its files cannot be read."""
    try:
        return table.to_table(**asked)
    except (OSError, pa.ArrowException) as error:
        why = str(error).split(", /")[0]  # without the line of Lance's own source
        raise StorageError(f"cannot read {table.uri}: {why}") from error


def contains(column: str, values: Iterable[str]) -> str:
    """A Lance filter: `column` is one of `values`."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})" if quoted else "false"
