"""A real file system of a few megabytes, to be filled to its last byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LIMIT_S = 5.0
SEARCH = f"{os.defpath}:/usr/sbin:/sbin"  # where the tools are that root alone needs


@contextmanager
def small_file_system(
    folder: Path, *, capacity_bytes: int = 16 << 20, kinds: Sequence[str] = ("ext4", "tmpfs")
) -> Iterator[Path | None]:
    """Mount the first of `kinds` that this machine allows, in `folder`; unmount it at the end, whatever happens.

    Yields the mounted folder, or None where none can be mounted: that takes root, `mount` and, for ext4, `mkfs.ext4`
    and a loop device. ext4 keeps a few per cent of its size for itself.
    """
    place = folder / "mounted"
    place.mkdir(parents=True)
    mounted = any(_mount(kind, place, capacity_bytes) for kind in kinds)
    try:
        yield place if mounted else None
    finally:
        if mounted:
            _unmount(place)
        shutil.rmtree(folder)


def _mount(kind: str, place: Path, capacity_bytes: int) -> bool:
    if os.geteuid() != 0:
        return False
    if kind == "tmpfs":
        return _run("mount", "-t", "tmpfs", "-o", f"size={capacity_bytes}", "tmpfs", str(place))
    image = place.with_name("image")
    image.touch()
    os.truncate(image, capacity_bytes)
    is_made = _run(f"mkfs.{kind}", "-q", "-F", "-m", "0", str(image))
    return is_made and _run("mount", "-t", kind, "-o", "loop", str(image), str(place))


def _unmount(place: Path) -> None:
    """Unmount, also where a process of the test still holds a file open there."""
    deadline = time.monotonic() + LIMIT_S
    while not _run("umount", str(place)):
        if time.monotonic() > deadline:
            if not _run("umount", "--lazy", str(place)):
                raise RuntimeError(f"{place} cannot be unmounted")
            return
        time.sleep(0.05)


def _run(program: str, *arguments: str) -> bool:
    """Whether a program is there and succeeds."""
    path = shutil.which(program, path=SEARCH)
    return path is not None and subprocess.run([path, *arguments], capture_output=True, check=False).returncode == 0
