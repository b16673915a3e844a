"""A folder that is said to be there is there after a power cut, whatever happened while it was made."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.disk import Disk
from tests.faults.failing_disk import FailingDisk
from tests.faults.losing_disk import LosingDisk
from tests.faults.power_loss import after_power_loss

FOLDER = Path("a/b/c")


@pytest.fixture
def losing(tmp_path: Path) -> LosingDisk:
    (tmp_path / "disk").mkdir()
    return LosingDisk(tmp_path / "disk")


def _states(losing: LosingDisk, target: Path) -> Iterator[Path]:
    for seed in range(40):
        after_power_loss(losing.log, target / str(seed), seed=seed)
        yield target / str(seed)


def _makes_it(disk: Disk, folder: Path) -> bool:
    try:
        disk.make_folder(folder)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("after", range(4))
def test_a_folder_whose_sync_failed_is_made_durable_by_the_next_call(
    tmp_path: Path, losing: LosingDisk, after: int
) -> None:
    disk = FailingDisk(losing)
    fault = disk.fail("sync_folder", error=errno.EIO, after=after, times=1)
    assert _makes_it(disk, losing.root / FOLDER) == (after == 3)
    disk.make_folder(losing.root / FOLDER)
    assert fault.fired == (after < 3)
    assert all((state / FOLDER).is_dir() for state in _states(losing, tmp_path))


def test_a_folder_that_another_thread_is_just_making_is_not_taken_for_durable(
    tmp_path: Path, losing: LosingDisk
) -> None:
    class Interrupted(FailingDisk):
        """Between the making of the last folder and its sync, another thread asks for the same one."""

        def sync_folder(self, folder: Path) -> None:
            if folder.name == "b" and not asked:
                asked.append(folder)
                self.make_folder(losing.root / FOLDER)
                states.extend((state / FOLDER).is_dir() for state in _states(losing, tmp_path))
            super().sync_folder(folder)

    asked: list[Path] = []
    states: list[bool] = []
    Interrupted(losing).make_folder(losing.root / FOLDER)
    assert len(states) == 40
    assert all(states)


def test_a_folder_that_is_there_costs_no_sync(losing: LosingDisk) -> None:
    disk = FailingDisk(losing)
    disk.make_folder(losing.root / FOLDER)
    disk.fail()
    disk.make_folder(losing.root / FOLDER)
    disk.make_folder(losing.root / "a")
