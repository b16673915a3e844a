"""Environments of other programs, made once: they want other releases than we do, and never share ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import BenchmarkFailed, console

BUILD_S = 3600


def python_of(folder: Path, *, name: str, pins: Sequence[str], build: bool) -> Path:
    """The interpreter of the environment in `folder`, made if it is not there and may be.

    `BenchmarkFailed` says in words why there is none.
    """
    python, done = folder / "bin" / "python", folder / ".installed"
    if done.exists():
        return python
    if not build:
        raise BenchmarkFailed(f"{name}'s environment is not there, and a short run does not make it")
    console.print(f"making {name}'s environment in {folder}: some gigabytes, some minutes …")
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins],
    ):
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_S)
        if ran.returncode:
            raise BenchmarkFailed(f"{name} cannot be installed here: {' '.join(ran.stderr.split()[-30:])}")
    done.touch()
    return python
