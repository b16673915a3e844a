"""Writes that survive a power cut: write, fsync, rename, fsync the folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Create or replace a file so that after a crash it is either the old one or wholly the new one."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    publish(temporary, path)


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    write_file(path, json.dumps(value, sort_keys=True).encode(), mode=mode)


def publish(temporary: Path, path: Path) -> None:
    """Give a file that is already synced its final name, durably."""
    temporary.replace(path)
    sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add one line durably. One torn by a crash stays a line of its own, which is not JSON."""
    with path.open("ab+") as file:
        is_new = file.tell() == 0
        file.write(b"" if is_new or _ends_line(file) else b"\n")
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def read_lines(path: Path) -> list[str]:
    """The whole lines of a file that `append_line` wrote; none if it is not there."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    return text.split("\n")[:-1]


def _ends_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; nothing happens where it is there already."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
