"""The sides of the feed's benchmark as processes: started, asked for batches, looked at, ended.

Each has one CPU, the same one; they run in turns, and wait for their line on standard input in between.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from benchmarks.feed_protocol import READY
from benchmarks.measure import BenchmarkFailed

ROOT = Path(__file__).parents[1]
LAST_WORDS = 2_000


@dataclass(frozen=True, slots=True)
class Took:
    """`count` windows, CPU seconds of the whole process, and seconds of the clock on the wall."""

    count: int
    cpu_s: float
    wall_s: float

    @property
    def per_cpu_s(self) -> float:
        return self.count / self.cpu_s

    @property
    def per_wall_s(self) -> float:
        return self.count / self.wall_s


class Side:
    """A process that stands ready."""

    def __init__(self, name: str, process: subprocess.Popen[str], said: IO[bytes]) -> None:
        self.name, self._process, self._said = name, process, said
        self._stdin, self._stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
        if self._answer() != READY:
            raise self._failed()

    def run(self, batches: int) -> Took:
        return Took(**self._ask(str(batches)))

    def look(self) -> dict[str, np.ndarray[Any, Any]]:
        """What is in its next batch, as arrays."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "batch.npz"
            self._ask(f"look {path}")
            with np.load(path) as found:
                return dict(found)

    def _ask(self, line: str) -> dict[str, Any]:
        try:
            self._stdin.write(f"{line}\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        answer: dict[str, Any] = json.loads(self._answer())
        return answer

    def _answer(self) -> str:
        """The next line that is one of ours: libraries print, too."""
        for line in self._stdout:
            if line.strip() == READY or line.startswith("{"):
                return line.strip()
        raise self._failed()

    def _failed(self) -> BenchmarkFailed:
        self._process.wait()
        return BenchmarkFailed(f"{self.name} ended early: {self.said}")

    @property
    def said(self) -> str:
        """The end of what it wrote to standard error."""
        self._said.seek(0)
        return self._said.read()[-LAST_WORDS:].decode(errors="replace").strip()


@contextmanager
def side(
    name: str,
    module: str,
    words: Sequence[str],
    *,
    python: Path = Path(sys.executable),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Side]:
    """Start `python -m module words…`, and end it with the block. `BenchmarkFailed` where it ends by itself."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    told = inherited | {"OMP_NUM_THREADS": "1", "LANCE_LOG": "error", **(environment or {})}
    command = [str(python), "-m", module, *words]
    with tempfile.TemporaryFile() as said:
        with _one_cpu():
            process = subprocess.Popen(
                command, cwd=ROOT, env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )
        try:
            yield Side(name, process, said)
        finally:
            process.kill()
            process.communicate()


@contextmanager
def _one_cpu() -> Iterator[None]:
    """Processes started meanwhile may use one CPU alone."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(ours)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)
