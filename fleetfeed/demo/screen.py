"""What a person sees while a demonstration runs: steps with their times, bars, tables."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fleetfeed.demo.account import Tally

console = Console()


@contextmanager
def step(title: str) -> Iterator[Progress]:
    """A numbered-off stretch of work: its title before, its duration after, bars in between."""
    console.rule(f"[bold]{title}", align="left")
    started = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=not console.is_terminal) as progress:
        yield progress
    console.print(f"  done in {time.monotonic() - started:.1f} s", style="dim")


def command() -> str:
    """How to call `fleetfeed` from here: by its name where that is on the path."""
    return "fleetfeed" if shutil.which("fleetfeed") else str(Path(sys.executable).with_name("fleetfeed"))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    shown = Table(*columns, title=title, title_justify="left")
    for row in rows:
        shown.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console.print(shown)


def ledger(tallies: Sequence[Tally]) -> None:
    """One line for telemetry and one for frames, the places side by side; last, so that nobody misses it."""
    for name in ("telemetry", "frames"):
        counts = "  ".join(f"{tally.place} {getattr(tally, name):,}" for tally in tallies)
        equal = len({getattr(tally, name) for tally in tallies}) == 1
        verdict = "equal" if equal else "NOT EQUAL"
        console.print(
            f"{name + (' messages' if name == 'telemetry' else ''):<20} {counts}  → {verdict}", soft_wrap=True
        )
