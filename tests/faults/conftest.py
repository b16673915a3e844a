"""What the fault tests share: no time limit in a soak, and a file system of 16 MB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import is_soak
from tests.faults.small_file_system import small_file_system

pytest.register_assert_rewrite("tests.faults.recorded")  # its assertions tell their values, as a test's do


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_soak() and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture
def small_folder(tmp_path: Path) -> Iterator[Path | None]:
    """A folder on a file system of 16 MB; None where none can be mounted (then take a `SmallDisk`)."""
    with small_file_system(tmp_path / "small") as folder:
        yield folder
