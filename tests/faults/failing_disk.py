"""Disks that refuse: `FailingDisk` at chosen operations, `SmallDisk` when it is full."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast

from edge.disk import DISK, Disk
from tests.faults.losing_disk import LosingDisk

Kind = Literal["create", "open_append", "write", "sync", "rename", "unlink", "mkdir", "rmdir", "sync_folder"]
BLOCK_BYTES = 4096
T = TypeVar("T")


@dataclass
class Fault:
    """Which operations fail: of these kinds (none named: of every kind), on paths that fit, the first `after` excepted,
    then `times` of them (None: until healed). A write lets `partial_bytes` through before it fails.
    """

    kinds: tuple[Kind, ...]
    error: int
    where: Callable[[Path], bool]
    after: int
    times: int | None
    partial_bytes: int
    passed: int = 0
    fired: int = 0

    def fires(self, kind: Kind, paths: tuple[Path, ...]) -> bool:
        """Whether this operation fails; it is counted."""
        if (self.kinds and kind not in self.kinds) or not any(map(self.where, paths)) or self.fired == self.times:
            return False
        if self.passed < self.after:
            self.passed += 1
            return False
        self.fired += 1
        return True


class FailingDisk(Disk):
    """Works on `inner`, and raises `OSError` where a fault says so. Any thread may use it.

    A file whose sync failed gets no promise from a later one, where `inner` is a `LosingDisk`.
    """

    def __init__(self, inner: Disk = DISK) -> None:
        self.inner = inner
        self.lock = threading.RLock()
        self.faults: list[Fault] = []

    def fail(
        self,
        *kinds: Kind,
        error: int = errno.ENOSPC,
        where: Callable[[Path], bool] = lambda _: True,
        after: int = 0,
        times: int | None = None,
        partial_bytes: int = 0,
    ) -> Fault:
        """From now on let operations fail; the fault's `fired` says how many did."""
        fault = Fault(kinds, error, where, after, times, partial_bytes)
        with self.lock:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        with self.lock:
            self.faults.clear()

    # -- what `edge.disk.Disk` does --------------------------------------------------------------------------------

    def create(self, path: Path, *, mode: int = 0o644) -> IO[bytes]:
        file = self._do("create", lambda: self.inner.create(path, mode=mode), path)
        return self._guarded(file, path, appends=False)

    def open_append(self, path: Path) -> IO[bytes]:
        file = self._do("open_append", lambda: self.inner.open_append(path), path)
        return self._guarded(file, path, appends=True)

    def sync(self, file: IO[bytes]) -> None:
        raw = cast(GuardedRaw, cast(io.BufferedRandom, file).raw)
        inner = cast(IO[bytes], raw.inner)
        file.flush()
        try:
            self._do("sync", lambda: self.inner.sync(inner), raw.path)
        except OSError:
            if isinstance(self.inner, LosingDisk):
                self.inner.sync_failed(inner)
            raise

    def rename(self, old: Path, new: Path) -> None:
        self._do("rename", lambda: self.inner.rename(old, new), old, new)

    def unlink(self, path: Path) -> None:
        self._do("unlink", lambda: self.inner.unlink(path), path)

    def mkdir(self, path: Path) -> None:
        self._do("mkdir", lambda: self.inner.mkdir(path), path)

    def rmdir(self, path: Path) -> None:
        self._do("rmdir", lambda: self.inner.rmdir(path), path)

    def sync_folder(self, folder: Path) -> None:
        self._do("sync_folder", lambda: self.inner.sync_folder(folder), folder)

    def free_bytes(self, folder: Path) -> int:
        return self.inner.free_bytes(folder)

    # -- the faults ------------------------------------------------------------------------------------------------

    def _do(self, kind: Kind, operation: Callable[[], T], *paths: Path) -> T:
        with self.lock:
            fault = self._firing(kind, *paths)
        if fault is not None:
            raise _os_error(fault.error, paths[-1])
        return operation()

    def _firing(self, kind: Kind, *paths: Path) -> Fault | None:
        return next((fault for fault in self.faults if fault.fires(kind, paths)), None)

    def _guarded(self, file: IO[bytes], path: Path, *, appends: bool) -> IO[bytes]:
        inner = cast(io.FileIO, cast(io.BufferedRandom, file).detach())
        return cast(IO[bytes], io.BufferedRandom(GuardedRaw(self, inner, path, appends=appends)))

    def write(self, raw: GuardedRaw, data: memoryview) -> int:
        """Write to a file as the kernel does: a count that may be short, and the error at the next call."""
        with self.lock:
            fault = self._firing("write", raw.path)
        if fault is None:
            return raw.inner.write(data)
        if not fault.partial_bytes:
            raise _os_error(fault.error, raw.path)
        raw.error = fault.error
        return raw.inner.write(data[: fault.partial_bytes])


class SmallDisk(FailingDisk):
    """A disk of `capacity_bytes` for what lies under `root`: full, it writes what fits and then raises ENOSPC.

    As on a real one each file takes whole blocks, and each name a block of its own. Faults can be added to it.
    """

    def __init__(self, root: Path, capacity_bytes: int, inner: Disk = DISK) -> None:
        super().__init__(inner)
        self.root, self.capacity_bytes = root, capacity_bytes
        self._used: int | None = None

    @property
    def used_bytes(self) -> int:
        with self.lock:
            if self._used is None:
                self._used = sum(map(_disk_bytes, self.root.rglob("*")))
            return self._used

    def free_bytes(self, folder: Path) -> int:
        return max(0, self.capacity_bytes - self.used_bytes)

    def write(self, raw: GuardedRaw, data: memoryview) -> int:
        with self.lock:
            size = os.fstat(raw.fileno()).st_size
            offset = size if raw.appends else raw.tell()
            room = _blocks(size) + max(0, self.capacity_bytes - self.used_bytes) - offset
            if data and room <= 0:
                raise _os_error(errno.ENOSPC, raw.path)
            written = super().write(raw, data[:room])
            self._used = self.used_bytes + _blocks(max(size, offset + written)) - _blocks(size)
            return written

    def _do(self, kind: Kind, operation: Callable[[], T], *paths: Path) -> T:
        makes = kind in ("create", "open_append", "mkdir") and not paths[0].exists()
        if makes and self.free_bytes(self.root) < BLOCK_BYTES:
            raise _os_error(errno.ENOSPC, paths[0])
        try:
            return super()._do(kind, operation, *paths)
        finally:
            if kind not in ("sync", "sync_folder"):
                with self.lock:
                    self._used = None  # it is counted anew when asked for


class GuardedRaw(io.RawIOBase):
    """The unbuffered file below a buffered one; its disk decides on every write."""

    def __init__(self, disk: FailingDisk, inner: io.FileIO, path: Path, *, appends: bool) -> None:
        super().__init__()
        self.disk, self.inner, self.path, self.appends = disk, inner, path, appends
        self.error = 0  # what the next write raises

    def write(self, data: Any, /) -> int:
        error, self.error = self.error, 0
        if error:
            raise _os_error(error, self.path)
        return self.disk.write(self, memoryview(data).cast("B"))

    def readinto(self, buffer: Any, /) -> int:
        return self.inner.readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self.inner.seek(offset, whence)

    def tell(self) -> int:
        return self.inner.tell()

    def truncate(self, size: int | None = None, /) -> int:
        return self.inner.truncate(size)

    def fileno(self) -> int:
        return self.inner.fileno()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.inner.close()
        super().close()


def _os_error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def _blocks(size: int) -> int:
    """The bytes that a file of this size takes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _disk_bytes(path: Path) -> int:
    try:
        return BLOCK_BYTES + (0 if path.is_dir() else _blocks(path.stat().st_size))
    except FileNotFoundError:  # removed while we were counting
        return 0
