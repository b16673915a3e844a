"""Clips on disk, kept while there is room: a folder of one user, shared by processes.

A file's name says what is in it, so it is never changed: it is written beside its place, synced, renamed. While it is
written it is locked, and as long as it may become; so every process counts what the others are about to take, and what
no process has locked is left of a crash and goes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ingest_serve.errors import CacheFull, IngestError

LOCK, KEPT, PART = ".lock", ".mp4", ".part"
Make = Callable[[IO[bytes]], None]


class ClipCache:
    """At most `max_bytes` in one folder. Safe to use from many threads, and from several processes."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    def find(self, name: str) -> IO[bytes] | None:
        """The kept file of this name, open; whatever is removed afterwards, it can be read to its end."""
        make_private(self._folder)
        path = self._folder / f"{name}{KEPT}"
        try:
            os.utime(path)  # the least recently used goes first
            return path.open("rb")
        except FileNotFoundError:
            return None

    def make(self, name: str, *, size: int, make: Make) -> IO[bytes]:
        """Have `make` write the file, which becomes at most `size` bytes long, keep it, and open it.

        Raises `CacheFull` where the room is being written to, and whatever `make` raises.
        """
        make_private(self._folder)
        with _full_disk_told(), self._reserved(name, size) as (part, file):
            make(file)
            if file.tell() > size:
                raise IngestError(f"{name} has {file.tell()} bytes, at most {size} were expected")
            file.truncate()
            os.fsync(file.fileno())
            kept = part.open("rb")
            part.rename(self._folder / f"{name}{KEPT}")
        return kept

    @contextmanager
    def _reserved(self, name: str, size: int) -> Iterator[tuple[Path, IO[bytes]]]:
        """A new file of `size` bytes, locked while it is written, gone if it is not renamed."""
        part = self._folder / f"{name}.{os.getpid()}.{threading.get_ident()}{PART}"
        with self._alone():
            self._make_room(size)
            file = part.open("wb")
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(size)
        try:
            with file:
                yield part, file
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        for path in self._folder.glob(f"*{PART}"):
            _remove_dead(path)
        found = [(path, _stat(path)) for path in self._folder.iterdir()]
        there = [(path, known) for path, known in found if known is not None]
        taken = sum(known.st_size for _, known in there)
        for _, path, bytes_ in sorted((known.st_mtime_ns, path, known.st_size) for path, known in there):
            if taken + size > self._max_bytes and path.suffix == KEPT:
                path.unlink(missing_ok=True)
                taken -= bytes_
        if taken + size > self._max_bytes:
            raise CacheFull(f"{taken} of {self._max_bytes} bytes for clips are being written to, {size} more are asked")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process makes room meanwhile."""
        with (self._folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def make_private(folder: Path) -> None:
    """Make the folder ours alone. Raises `IngestError` where something else is in its place."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise IngestError(f"{folder} must be a folder that belongs to this user alone, mode 700")


@contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CacheFull(f"the disk of the clips is full: {error}") from error


def _remove_dead(part: Path) -> None:
    """Remove a file that no living process writes."""
    with suppress(FileNotFoundError, BlockingIOError), part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink(missing_ok=True)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
