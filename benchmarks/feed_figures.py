"""The figures of the feed's benchmark: their goals, sides that take turns, and what is made of what they took."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from rich.table import Table

from benchmarks.feed_sides import Side, Took
from benchmarks.measure import NotMeasured, Result, console, interleaved, median_ratio

GOALS = {
    "single_jpeg_vs_litdata": 1.1,
    "single_jpeg_vs_webdataset": 1.1,
    "single_jpeg_vs_mosaic": 1.1,
    "single_vs_litdata": 0.8,
    "bytes_vs_litdata": 1 / 8,
    "single_grouped_vs_litdata": 1.5,
    "k1_vs_lerobot": 2.0,
    "k2_vs_lerobot": 2.5,
    "k8_vs_lerobot": 3.0,
    "random640_vs_limit": 0.85,
    "random224_vs_limit": 0.8,
    "sequential_vs_limit": 0.9,
    "s3_warm_vs_local": 0.8,
    "first_batch_s": 3.0,
    "worker_rss_mb": 600.0,
    "open_1e7_vs_1e6": 1.2,
}
LOWER = {"bytes_vs_litdata", "first_batch_s", "worker_rss_mb", "open_1e7_vs_1e6"}
Figure = Result | NotMeasured
Turns = Mapping[str, Sequence[Took]]
By = Literal["per_cpu_s", "per_wall_s"]


def take_turns(sides: Mapping[str, tuple[Side, int]], *, rounds: int) -> dict[str, list[Took]]:
    """Sides with their batches a round; what each took, without the first round."""
    calls = {name: (lambda _, it=it, batches=batches: it.run(batches)) for name, (it, batches) in sides.items()}
    found = {name: took[1:] for name, took in interleaved(rounds + 1, calls).items()}
    table = Table("side", "windows a round", "per CPU-second", "per second", title_justify="left")
    for name, took in found.items():
        rates = [statistics.median(getattr(one, rate) for one in took) for rate in ("per_cpu_s", "per_wall_s")]
        table.add_row(name, f"{took[0].count:,}", *(f"{rate:,.0f}" for rate in rates))
    console.print(table)
    return found


def ratio(name: str, found: Turns, one: str, other: str, *, by: By = "per_cpu_s") -> Result:
    rates = {each: [getattr(took, by) for took in found[each]] for each in (one, other)}
    unit = "windows/CPU-s" if by == "per_cpu_s" else "windows/s"
    medians = f"{statistics.median(rates[one]):,.0f} | {statistics.median(rates[other]):,.0f} {unit}"
    ran = f"{len(found[one])} interleaved rounds of {found[one][0].count:,} windows"
    return result(name, median_ratio(rates[one], rates[other]), f"of {other}", ran, medians)


def result(name: str, value: float, unit: str, ran: str, seen: str) -> Result:
    return Result(name, value, unit, GOALS[name], "lower" if name in LOWER else "higher", ran, seen)


def not_measured(name: str, reason: str) -> NotMeasured:
    other = name.rsplit("_", 1)[-1]
    return NotMeasured(name, f"of {other}", GOALS[name], "lower" if name in LOWER else "higher", reason)
