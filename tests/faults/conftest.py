"""What the fault tests share: no time limit in a soak, and a file system of 16 MB."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import is_soak
from tests.faults.small_file_system import small_file_system
from tests.ingest_serve.conftest import s3_endpoint as s3_endpoint  # one for all that do not bring their own

pytest.register_assert_rewrite("tests.faults.recorded", "tests.faults.audited_robot")  # assertions tell their values


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_soak() and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such a file system: a trial that draws its own disk needs no real syncs."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="faults-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def small_folder(tmp_path: Path) -> Iterator[Path | None]:
    """A folder on a file system of 16 MB; None where none can be mounted (then take a `SmallDisk`)."""
    with small_file_system(tmp_path / "small") as folder:
        yield folder
