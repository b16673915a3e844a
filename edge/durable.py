"""Writes that survive a power cut: write, fsync, rename, fsync the folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


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
    """Add one line durably; a line torn by a crash has no newline and is passed over by `read_lines`."""
    with path.open("ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[str]:
    """The whole lines of a file that `append_line` wrote; none if it is not there."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    return text.split("\n")[:-1]


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
