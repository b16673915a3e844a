"""A disk that does everything for real and writes down what was done, so that `power_loss` can undo part of it."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from edge.disk import Disk
from tests.faults.disk_log import (
    ROOT,
    Created,
    FailedSync,
    Log,
    MadeFolder,
    NameOperation,
    Names,
    Operation,
    RemovedFolder,
    Renamed,
    Synced,
    SyncedFolder,
    Truncated,
    Unlinked,
    Wrote,
    rename_in,
)


class LosingDisk(Disk):
    """The disk of the folder `root`. Any thread may use it; what is under `root` already counts as durable.

    What comes into a folder, or goes, without this disk (a lock file, say) is noticed at the next operation there and
    counts as done then, not synced. `power_loss.strays` names whatever is not as the log has it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve(strict=True)
        self.log = Log()
        self.lock = threading.RLock()
        self._names: Names = {ROOT: {}}
        self._next_inode = ROOT + 1
        self._take_over(ROOT, self.root)
        self.log.start = len(self.log)

    # -- what `edge.disk.Disk` does --------------------------------------------------------------------------------

    def create(self, path: Path, *, mode: int = 0o644) -> IO[bytes]:
        with self.lock:
            folder, inode = self._find(path)
            raw = _RecordingRaw(self, path, "w+b", opener=lambda name, flags: os.open(name, flags, mode))
            if inode is None:
                raw.inode = self._add_file(folder, path.name, mode=mode)
            else:
                raw.inode = inode
                self.record(Truncated(inode, 0))
        return cast(IO[bytes], io.BufferedRandom(raw))

    def open_append(self, path: Path) -> IO[bytes]:
        with self.lock:
            folder, inode = self._find(path)
            raw = _RecordingRaw(self, path, "ab+")
            raw.inode = self._add_file(folder, path.name, mode=0o644) if inode is None else inode
        return cast(IO[bytes], io.BufferedRandom(raw))

    def sync(self, file: IO[bytes]) -> None:
        """The record is all: what the machine's own disk holds does not matter here."""
        raw = self._raw(file)
        file.flush()
        self.record(Synced(raw.inode))

    def sync_failed(self, file: IO[bytes]) -> None:
        """Note that a sync of this file has failed; what was written to it so far is lost to every later one."""
        self.record(FailedSync(self._raw(file).inode))

    def rename(self, old: Path, new: Path) -> None:
        with self.lock:
            old_folder, inode = self._find(old)
            folder, _ = self._find(new)
            super().rename(old, new)
            self.record(Renamed(_known(inode, old), old_folder, old.name, folder, new.name))

    def unlink(self, path: Path) -> None:
        with self.lock:
            if path.parent.is_dir():
                folder, inode = self._find(path)
                super().unlink(path)
                if inode is not None:
                    self.record(Unlinked(inode, folder, path.name))

    def mkdir(self, path: Path) -> None:
        with self.lock:
            folder, inode = self._find(path)
            super().mkdir(path)
            if inode is None:
                self._add_folder(folder, path.name)

    def rmdir(self, path: Path) -> None:
        with self.lock:
            folder, inode = self._find(path)
            super().rmdir(path)
            self.record(RemovedFolder(_known(inode, path), folder, path.name))

    def sync_folder(self, folder: Path) -> None:
        with self.lock:
            inode = self._folder(folder)
            self._notice(inode, folder)
            self.record(SyncedFolder(inode))

    # -- the record ------------------------------------------------------------------------------------------------

    def record(self, operation: Operation) -> None:
        with self.lock:
            self.log.operations.append(operation)
            if isinstance(operation, NameOperation):
                rename_in(self._names, operation)

    def _add_file(self, folder: int, name: str, *, mode: int) -> int:
        inode, self._next_inode = self._next_inode, self._next_inode + 1
        self.record(Created(inode, folder, name, mode))
        return inode

    def _add_folder(self, folder: int, name: str) -> int:
        inode, self._next_inode = self._next_inode, self._next_inode + 1
        self.record(MadeFolder(inode, folder, name))
        return inode

    def _raw(self, file: IO[bytes]) -> _RecordingRaw:
        raw = getattr(file, "raw", file)
        if not isinstance(raw, _RecordingRaw) or raw.disk is not self:
            raise TypeError(f"expected a file that this disk opened, got {file!r}")
        return raw

    def _find(self, path: Path) -> tuple[int, int | None]:
        """The folder's inode, and the inode under that name or None."""
        folder = self._folder(path.parent)
        self._notice(folder, path.parent)
        return folder, self._names[folder].get(path.name)

    def _folder(self, path: Path) -> int:
        absolute = path.absolute()
        if absolute == self.root:
            return ROOT
        if self.root not in absolute.parents:
            raise ValueError(f"{path} is outside {self.root}, all that this disk looks after")
        parent = self._folder(absolute.parent)
        if absolute.name not in self._names[parent]:
            self._notice(parent, absolute.parent)
        return _known(self._names[parent].get(absolute.name), path)

    def _notice(self, folder: int, path: Path) -> None:
        """Record what others than this disk did to the names of a folder since it was last looked into."""
        present = {entry.name: entry.is_dir() for entry in os.scandir(path)}
        for name in self._names[folder].keys() - present.keys():
            inode = self._names[folder][name]
            removed = RemovedFolder if inode in self._names else Unlinked
            self.record(removed(inode, folder, name))
        for name in sorted(present.keys() - self._names[folder].keys()):
            if present[name]:
                self._add_folder(folder, name)
            else:
                self._add_foreign_file(folder, path / name)

    def _add_foreign_file(self, folder: int, path: Path) -> int:
        inode = self._add_file(folder, path.name, mode=path.stat().st_mode & 0o777)
        data = path.read_bytes()
        if data:
            self.record(Wrote(inode, 0, data))
        return inode

    def _take_over(self, folder: int, path: Path) -> None:
        """Record a tree that is there already as wholly synced."""
        self._notice(folder, path)
        self.record(SyncedFolder(folder))
        for name, inode in list(self._names[folder].items()):
            if inode in self._names:
                self._take_over(inode, path / name)
            else:
                self.record(Synced(inode))


class _RecordingRaw(io.FileIO):
    """The unbuffered file below a buffered one; each write and truncation goes into the log."""

    def __init__(
        self, disk: LosingDisk, path: Path, mode: str, opener: Callable[[str, int], int] | None = None
    ) -> None:
        super().__init__(os.fspath(path), mode, opener=opener)
        self.disk = disk
        self.inode = -1
        self._appends = "a" in mode

    def write(self, data: Any, /) -> int:
        with self.disk.lock:
            offset = os.fstat(self.fileno()).st_size if self._appends else self.tell()
            written = super().write(data)
            if written:
                self.disk.record(Wrote(self.inode, offset, bytes(memoryview(data).cast("B")[:written])))
            return written

    def truncate(self, size: int | None = None, /) -> int:
        with self.disk.lock:
            left = super().truncate(size)
            self.disk.record(Truncated(self.inode, left))
            return left


def _known(inode: int | None, path: Path) -> int:
    if inode is None:
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return inode
