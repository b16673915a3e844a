"""SIGKILL between any two operations on the disk, in a recording and in its recovery: no word is lost or doubled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.recorder import Recorder
from edge.recovery import recover, recover_recordings
from edge.settings import EdgeSettings
from edge.spool import Spool
from tests.faults.campaign import is_soak
from tests.faults.losing_disk import LosingDisk
from tests.faults.power_loss import after_kill, strays
from tests.faults.recorded import check_whole, waiting
from tests.faults.victim import record_round

ROUNDS = 3


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> LosingDisk:
    """A disk on which a recording has come and gone; each flush was promised."""
    disk = LosingDisk(tmp_path_factory.mktemp("disk"))
    settings = EdgeSettings(folder=disk.root / "robot")
    with Recorder(settings=settings, spool=Spool(settings.folder, disk=disk), wait_for_room=True) as recorder:
        for number in range(1, ROUNDS + 1):
            record_round(recorder, number)
            recorder.flush()
            disk.log.promise((recorder.recording_id, number))
            if number == 2:
                recorder.cut()
    return disk


def moments(disk: LosingDisk) -> range:
    return range(disk.log.start, len(disk.log) + 1)


def start_and_recover(spool: Spool) -> None:
    """As it happens on a robot: the next recorder looks after recordings, then the agent after everything."""
    recover_recordings(spool)
    recover(spool)


def test_everything_that_is_written_goes_through_the_disk(disk: LosingDisk) -> None:
    assert strays(disk) == set()


@pytest.mark.parametrize("mend", [recover, start_and_recover])
def test_a_kill_after_any_operation_of_a_recording(
    disk: LosingDisk, tmp_path: Path, mend: Callable[[Spool], object]
) -> None:
    for at in moments(disk):
        after_kill(disk.log, tmp_path / "state", at_operation=at)
        mend(Spool(tmp_path / "state" / "robot"))
        try:
            check_whole(waiting(tmp_path / "state" / "robot"), flushed=dict(disk.log.promised(at)))
        except AssertionError as error:
            raise AssertionError(f"killed after operation {at}, {disk.log.operations[at - 1]}: {error}") from error
        shutil.rmtree(tmp_path / "state")


def test_a_kill_after_any_operation_of_the_recovery(disk: LosingDisk, tmp_path: Path) -> None:
    first_kills = list(moments(disk))[:: 1 if is_soak() else 7]
    for first in first_kills:
        after_kill(disk.log, tmp_path / "dead", at_operation=first)
        mending = LosingDisk(tmp_path / "dead")
        recover(Spool(tmp_path / "dead" / "robot", disk=mending))
        for at in moments(mending):
            after_kill(mending.log, tmp_path / "state", at_operation=at)
            start_and_recover(Spool(tmp_path / "state" / "robot"))
            try:
                check_whole(waiting(tmp_path / "state" / "robot"), flushed=dict(disk.log.promised(first)))
            except AssertionError as error:
                what = mending.log.operations[at - 1]
                raise AssertionError(f"killed after operation {first}, then after {at}, {what}: {error}") from error
            shutil.rmtree(tmp_path / "state")
        shutil.rmtree(tmp_path / "dead")
