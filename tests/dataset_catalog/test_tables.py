"""Opening what a manifest names: a version that is gone is another matter than a store that does not answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from dataset_catalog.errors import NotFound, StorageError
from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest

CHAIN = "datasets/arm"
MANIFEST = Manifest(1, {"steps": 7})


def test_a_version_that_is_gone_is_not_found(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    lance.write_dataset(pa.table({"x": [1]}), storage.uri(f"{CHAIN}/steps.lance"))
    with pytest.raises(NotFound, match="no Lance version 7"):
        open_table(storage, CHAIN, MANIFEST, "steps")
    shutil.rmtree(tmp_path / CHAIN)
    with pytest.raises(NotFound, match="no Lance version 7"):
        open_table(storage, CHAIN, MANIFEST, "steps")


def test_a_store_that_does_not_answer_is_told_as_that() -> None:
    settings = StorageSettings(endpoint_url="http://127.0.0.1:9", access_key_id="a", secret_access_key="b")
    with pytest.raises(StorageError, match=r"^cannot reach s3://fleetfeed at http://127\.0\.0\.1:9"):
        open_table(Storage.open(settings=settings), CHAIN, MANIFEST, "steps")
