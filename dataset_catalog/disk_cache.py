"""A folder of byte strings by name, bounded, shared by the processes of a node, and never to be trusted blindly.

Layout: 256 folders at most; in each a file an entry, named by a digest of its name, and `count`, how many bytes the
folder holds. An entry is written beside its place and renamed, so that a killed writer leaves none or a whole one; it
begins with a checksum over name and bytes, so that whatever happens to it on the disk makes it no entry. Nothing is
ever synced: what a power cut takes is fetched again.

Nothing here raises for what the disk does: where it is full or broken, there is no entry.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HEAD = struct.Struct(">4sIQ")  # magic, CRC-32 of name and bytes, length
_MAGIC = b"ffc1"
_FOLDER_BYTES = 64 << 20  # a folder is worth making for so many bytes
_LOW = 0.875  # of a full folder so much stays


class DiskCache:
    """At most `max_bytes`, file heads included, whatever the number of processes. The oldest entries go first.

    Threads and processes may share one; it pickles as its folder and its bound.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._folders = min(256, max(1, max_bytes // _FOLDER_BYTES))

    def get(self, name: str) -> bytes | None:
        """The bytes put under this name, or None. A file that is not whole goes."""
        path = self._path(name)
        try:
            found = path.read_bytes()
        except OSError:
            return None
        payload = _checked(name, found)
        if payload is None:
            with suppress(OSError):
                path.unlink()
        return payload

    def put(self, name: str, payload: bytes) -> None:
        """Keep the bytes, if there is room on the disk and they are not more than a folder may hold."""
        path = self._path(name)
        head = _HEAD.pack(_MAGIC, _checksum(name, payload), len(payload))
        size = len(head) + len(payload)
        if size > self._bound:
            return
        own = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(path.parent) as count:
                self._make_room(path.parent, count, size)
                _write(own, head, payload)
                own.rename(path)
        except OSError:
            with suppress(OSError):
                own.unlink()

    @property
    def _bound(self) -> int:
        return self.max_bytes // self._folders

    def _path(self, name: str) -> Path:
        digest = hashlib.blake2b(name.encode(), digest_size=20).hexdigest()
        return self.folder / f"{int(digest[:2], 16) % self._folders:02x}" / digest

    def _make_room(self, folder: Path, count: int, size: int) -> None:
        """Count the new entry before it is there: a writer that is killed in between makes the count too high."""
        held = _read_count(count)
        if held is None or held + size > self._bound:
            held = _shrink(folder, int(self._bound * _LOW) - size)
        _write_count(count, held + size)


def _checksum(name: str, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(name.encode()))


def _checked(name: str, found: bytes) -> bytes | None:
    """The payload of a file; None unless it is whole and this name's."""
    if len(found) < _HEAD.size:
        return None
    magic, checksum, length = _HEAD.unpack_from(found)
    payload = found[_HEAD.size :]
    whole = magic == _MAGIC and length == len(payload) and checksum == _checksum(name, payload)
    return payload if whole else None


def _write(path: Path, head: bytes, payload: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        for part in (head, payload):
            if file.write(part) != len(part):
                raise OSError(f"{path} took a part of the bytes")


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """The folder's file `count`, open, with its lock held: one writer at a time. The system frees a dead one's."""
    count = os.open(folder / "count", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(count, fcntl.LOCK_EX)
        yield count
    finally:
        os.close(count)


def _read_count(count: int) -> int | None:
    """None where it has never been written, or not whole: then it is to be counted."""
    text = os.pread(count, 32, 0)
    return int(text) if len(text) == 20 and text.isdigit() else None


def _write_count(count: int, held: int) -> None:
    os.pwrite(count, b"%020d" % held, 0)


def _shrink(folder: Path, target: int) -> int:
    """Take away the oldest files, and what killed writers left, until at most `target` bytes are held; how many are."""
    entries = []
    for one in os.scandir(folder):
        if one.name == "count":
            continue
        if one.name.startswith("."):
            os.unlink(one.path)  # under the lock, so its writer is dead
            continue
        status = one.stat()
        entries.append((status.st_mtime_ns, status.st_size, one.path))
    held = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if held <= target:
            break
        with suppress(FileNotFoundError):  # a reader found it damaged
            os.unlink(path)
        held -= size
    return held
