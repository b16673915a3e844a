"""A disk whose power goes before its n-th operation, and a way to try every n."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

from edge.disk import Disk
from edge.recovery import recover
from edge.spool import Spool
from edge.status import status

MOST_STEPS = 300


class PowerCut(BaseException):
    """Not an `Exception`, so that nothing handles it."""


class CuttingDisk(Disk):
    """Does `after` operations; the next one, and all that follow, are cut. What was written before is there."""

    def __init__(self, after: int) -> None:
        self.left, self.has_cut = after, False

    def _step(self) -> None:
        if self.left == 0:
            self.has_cut = True
        if self.has_cut:
            raise PowerCut
        self.left -= 1

    def create(self, path: Path, *, mode: int = 0o644) -> IO[bytes]:
        self._step()
        return super().create(path, mode=mode)

    def open_append(self, path: Path) -> IO[bytes]:
        self._step()
        return super().open_append(path)

    def sync(self, file: IO[bytes]) -> None:
        self._step()
        super().sync(file)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._step()
        super().mkdir(path)

    def rmdir(self, path: Path) -> None:
        self._step()
        super().rmdir(path)

    def sync_folder(self, folder: Path) -> None:
        self._step()
        super().sync_folder(folder)


def cut_at_every_step(
    folder: Path,
    prepare: Callable[[Path], Any],
    act: Callable[[Spool, Any], object],
    check: Callable[[Path, Any, bool], None],
    *,
    recorded: Collection[int],
    before_recovery: Collection[int] = (),
) -> int:
    """Run `act` on fresh folders, cut one step later each time, until it gets through; returns how many steps it took.

    `prepare(folder)` makes what is there before, and what it returns goes to the others. `check(folder, prepared,
    has_cut)` looks at each folder after recovery, which was itself cut at some step, and done again. Status must count
    one of `recorded` messages at the end, and right after the cut (`before_recovery`, where that may be another).
    """
    for after in range(MOST_STEPS):
        here = folder / str(after)
        here.mkdir()
        prepared = prepare(here)
        spool, disk = Spool(here), CuttingDisk(after)
        spool.disk = disk
        with contextlib.suppress(PowerCut):
            act(spool, prepared)
        assert recorded_in(here) in (before_recovery or recorded), f"step {after}, before recovery"
        spool.disk = CuttingDisk(after % 7)
        with contextlib.suppress(PowerCut):
            recover(spool)
        recover(Spool(here))
        done = recover(Spool(here))
        assert done == [], f"step {after}: recovery was not complete: {done}"
        assert recorded_in(here) in recorded, f"step {after}, after recovery"
        check(here, prepared, disk.has_cut)
        if not disk.has_cut:
            return after
    raise AssertionError("never got through")


def recorded_in(folder: Path) -> int:
    """Messages of all streams but the recordings' own words; each stream's sums must agree."""
    lines = status(Spool(folder))
    for line in lines:
        assert line.recorded == line.uploaded + line.waiting + line.quarantined + line.dropped
    return sum(line.recorded for line in lines if line.stream != "_agent")
