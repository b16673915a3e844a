"""What every benchmark shares: interleaved rounds, medians, the cost of a process tree, the table and the JSON line.

A benchmark prints for people and ends with one line for programs, which `close` prints:

    {"benchmark": "edge", "results": [{"name": …, "value": …, "unit": …, "goal": …, "meets": …}, …]}

Machines are shared and noisy: what is compared runs in turns, and medians and ratios count.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

T = TypeVar("T")

MB = 1_000_000
PLAIN_WIDTH = 160
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


class BenchmarkFailed(Exception):
    """What was to be measured did not happen; a missed goal is no failure."""


@dataclass(frozen=True, slots=True)
class Result:
    """One figure: what it came to, what it should be, and for people how it was found."""

    name: str
    value: float
    unit: str
    goal: float
    better: Literal["lower", "higher"]
    ran: str  # what ran, and how often
    seen: str  # the medians behind the figure

    @property
    def meets(self) -> bool:
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal

    def as_json(self) -> dict[str, object]:
        value = float(f"{self.value:.4g}")
        return {"name": self.name, "value": value, "unit": self.unit, "goal": self.goal, "meets": self.meets}


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A figure that could not be found on this machine, and the reason in words. It is no pass."""

    name: str
    unit: str
    goal: float
    better: Literal["lower", "higher"]
    reason: str

    def as_json(self) -> dict[str, object]:
        one: dict[str, object] = {"name": self.name, "value": None, "unit": self.unit, "goal": self.goal}
        return {**one, "meets": None, "reason": self.reason}


def interleaved(rounds: int, sides: Mapping[str, Callable[[int], T]]) -> dict[str, list[T]]:
    """Run each side once a round, called with the round's number; what goes first in one round goes last in the next.

    What disturbs the machine for a while, or makes it slower and slower, so falls on all sides alike.
    """
    found: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            found[name].append(sides[name](number))
    return found


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' own ratios: the two of a round ran one right after the other."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of all do not exceed."""
    ordered = sorted(values)
    place = math.ceil(round(len(ordered) * percent / 100, 6))  # 99.9 is no binary fraction
    return ordered[max(place, 1) - 1]


def tree_cpu_s(pid: int) -> float:
    """CPU time, user and system, of a process and of all its descendants, those that have ended included.

    Works on the kernel's ticks of 10 ms. What runs meanwhile in a child that is reaped between two readings counts too.
    """
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def tree_peak_rss_bytes(pid: int) -> int:
    """The sum of the peaks (VmHWM) of a process and of its living descendants."""
    return sum(_kilobytes(process.pid, "status", "VmHWM") * 1024 for process in _tree(pid))


def tree_pss_bytes(pid: int) -> int:
    """Proportional memory of a process and its descendants now: a page that n processes share counts a n-th in each."""
    return sum(_kilobytes(process.pid, "smaps_rollup", "Pss") * 1024 for process in _tree(pid))


@dataclass(slots=True)
class PssPeaks:
    """The highest proportional memory seen of each process tree."""

    bytes: dict[int, int] = field(default_factory=dict)

    def look(self) -> None:
        for pid in self.bytes:
            self.bytes[pid] = max(self.bytes[pid], tree_pss_bytes(pid))


@contextmanager
def watching_pss(*pids: int, every_s: float) -> Iterator[PssPeaks]:
    """Look at the trees' proportional memory again and again while the block runs."""
    peaks = PssPeaks(dict.fromkeys(pids, 0))
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            peaks.look()

    watcher = threading.Thread(target=watch, name="pss", daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


def close(benchmark: str, results: Sequence[Result | NotMeasured]) -> None:
    """Print the table, and the line for programs, which is the last."""
    columns = ("figure", "ran", "medians", "result", "goal", "")
    table = Table(*columns, title=f"benchmark {benchmark}", title_justify="left")
    for one in results:
        sign = "≤" if one.better == "lower" else "≥"
        if isinstance(one, NotMeasured):
            table.add_row(one.name, one.reason, "", "not measured", f"{sign} {one.goal:g}", "")
            continue
        verdict = "[green]met[/green]" if one.meets else "[red]missed[/red]"
        table.add_row(one.name, one.ran, one.seen, f"{one.value:.4g} {one.unit}", f"{sign} {one.goal:g}", verdict)
    console.print(table)
    print(json.dumps({"benchmark": benchmark, "results": [one.as_json() for one in results]}), flush=True)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kilobytes(pid: int, file: str, name: str) -> int:
    """A line `Name:  123 kB` of a file under /proc; 0 where the process has ended meanwhile."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
