"""What a person sees of the jobs: a table at the end, how old the lake is, what the cluster does."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from dataset_catalog.versions import Manifest
    from ray_jobs.submitted import Submitted
    from ray_jobs.summary import Summary

S_NS = 1_000_000_000
errors = Console(stderr=True)


def show(summary: Summary) -> None:
    """A run's summary."""
    table = Table(show_header=False)
    for what, count in summary.counts.items():
        table.add_row(what, f"{count:,}")
    for name, rows in summary.rows.items():
        table.add_row(f"rows of {name}", f"{rows:,}")
    table.add_row("published", ", ".join(f"v{n}" for n in summary.versions) or "nothing new")
    table.add_row("seconds", f"{summary.seconds:.1f}")
    console = Console()
    console.print(f"{summary.job} → {summary.chain}", highlight=False)
    console.print(table)
    for note in summary.notes:
        console.print(f"· {note}", markup=False, highlight=False)


def line(name: str, outcome: Summary | Exception) -> str:
    """A run of the loop in one line; nothing for one that found nothing to do."""
    if isinstance(outcome, Exception):
        return f"{name} failed, and is tried again later: {outcome}"
    if not outcome.versions:
        return ""
    counts = ", ".join(f"{count:,} {what}" for what, count in outcome.counts.items() if count)
    return f"{name}: {counts or 'nothing'} → v{outcome.versions[-1]} in {outcome.seconds:.1f} s"


def show_status(chains: Iterable[tuple[str, Manifest | None]], jobs: Iterable[Submitted], *, now_ns: int) -> None:
    """How old each chain's newest version is, and the cluster's last jobs."""
    console = Console()
    table = Table("chain", "version", "published", "tables")
    for chain, manifest in chains:
        if manifest is None:
            table.add_row(chain, "none", "", "")
        else:
            table.add_row(chain, f"v{manifest.n}", ago(manifest.created_ns, now_ns=now_ns), str(len(manifest.tables)))
    console.print(table)
    submitted = Table("job", "what", "state", "began", "took")
    for job in jobs:
        began = "" if job.start_ns is None else ago(job.start_ns, now_ns=now_ns)
        took = "" if job.start_ns is None else f"{((job.end_ns or now_ns) - job.start_ns) / S_NS:.0f} s"
        submitted.add_row(job.id, job.what, job.state, began, took)
    if submitted.row_count:
        console.print(submitted)


def ago(t_ns: int, *, now_ns: int | None = None) -> str:
    """`3 s ago`, `12 min ago`, `2.5 h ago`, `4 days ago`."""
    seconds = max(0, ((time.time_ns() if now_ns is None else now_ns) - t_ns) / S_NS)
    for unit, size, limit in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < size * limit:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"
