"""The one seam between the robot side and its disk: every write, sync, rename and removal of ours goes through `Disk`.

Writes that must survive a power cut follow one order: write, fsync, rename, fsync the folder. Tests put a disk in
place that loses what was not synced, or fails; reading needs no seam.
"""

from __future__ import annotations

import contextlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast


class Disk:
    """The machine's own disk. The methods in the first half are all that touches it; the others are made of them."""

    def create(self, path: Path, *, mode: int = 0o644) -> IO[bytes]:
        """A new empty file, open for writing; what was there under this name is cut to nothing."""
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode), "w+b")

    def open_append(self, path: Path) -> IO[bytes]:
        """A file to be read and to be added to at its end; made where it is not there."""
        return cast(IO[bytes], path.open("ab+"))

    def sync(self, file: IO[bytes]) -> None:
        """Make what was written durable. After a failure the file must be abandoned, never synced again."""
        file.flush()
        os.fdatasync(file.fileno())

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name; what was under that name goes. Durable once the folder is synced."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """Remove a file; nothing happens where there is none."""
        path.unlink(missing_ok=True)

    def mkdir(self, path: Path) -> None:
        path.mkdir(exist_ok=True)

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, folder: Path) -> int:
        """Bytes that a program without privileges can still write there."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize

    # -- made of the above -------------------------------------------------------------------------------------

    def write_file(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Create or replace a file so that after a crash it is either the old one or wholly the new one.

        A failure leaves the old one, and takes away what was written of the new one.
        """
        temporary = path.with_name(path.name + ".tmp")
        try:
            with self.create(temporary, mode=mode) as file:
                file.write(data)
                self.sync(file)
        except OSError:
            with contextlib.suppress(OSError):
                self.unlink(temporary)
            raise
        self.publish(temporary, path)

    def write_json(self, path: Path, value: Any, *, mode: int = 0o644) -> None:
        self.write_file(path, json.dumps(value, sort_keys=True).encode(), mode=mode)

    def publish(self, temporary: Path, path: Path) -> None:
        """Give a file that is already synced its final name, durably."""
        self.rename(temporary, path)
        self.sync_folder(path.parent)

    def append_line(self, path: Path, line: str) -> None:
        """Add one line durably. One torn by a crash stays a line of its own."""
        with self.open_append(path) as file:
            is_new = file.tell() == 0
            file.write(b"" if is_new or _ends_line(file) else b"\n")
            file.write(line.encode() + b"\n")
            self.sync(file)
        if is_new:
            self.sync_folder(path.parent)

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, durably; nothing happens where it is there already."""
        if folder.is_dir() and folder not in self._unsynced:
            return
        self.make_folder(folder.parent)
        self._unsynced.add(folder)  # until its name is durable: the sync may fail, or another thread come before it
        if not folder.is_dir():
            self.mkdir(folder)
        self.sync_folder(folder.parent)
        self._unsynced.discard(folder)

    @cached_property
    def _unsynced(self) -> set[Path]:
        """Folders that were made and whose names are not known to be durable."""
        return set()


DISK = Disk()


def _ends_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_lines(path: Path) -> list[str]:
    """The whole lines of a file that `append_line` wrote; none if it is not there."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    return text.split("\n")[:-1]
