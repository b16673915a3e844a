"""What a benchmark says of the machine that it ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from benchmarks.measure import console


def describe_machine() -> str:
    """Its cores and memory, the load of the last minute, and our Python."""
    memory_gb, load = psutil.virtual_memory().total / 1e9, os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {memory_gb:.0f} GB, load {load:.1f}, Python {platform.python_version()}"


def tell_machine(folder: Path) -> None:
    """The same, and the file system of the folder that is measured in."""
    parts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    file_system = next((parts[place] for place in (folder, *folder.parents) if place in parts), "?")
    console.print(f"{describe_machine()}, {folder} on {file_system}")
