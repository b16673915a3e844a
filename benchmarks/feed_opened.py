"""Until the feed runs: the first batch of two workers and their memory, and what opening costs by a dataset's size."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import feed_lake
from benchmarks.feed_bench import Bench, once, store_ours
from benchmarks.feed_figures import Figure, result
from benchmarks.feed_lake import SMALL
from benchmarks.feed_sides import ROOT
from benchmarks.measure import BenchmarkFailed, console, interleaved, median_ratio
from dataset_catalog.storage import Storage


def of_starts(bench: Bench) -> Iterator[Figure]:
    """The first run is not counted: it makes what is read warm."""
    store_ours(bench)
    asked = bench.asked(SMALL)
    runs = [_started("first", asked.as_json, str(bench.batches(2))) for _ in range(bench.sizes.starts + 1)][1:]
    for name, unit in (("first_batch_s", "s"), ("worker_rss_mb", "MB")):
        values = [run[name] for run in runs]
        ran = f"{len(runs)} runs, two workers, batches of {asked.batch}"
        yield result(name, statistics.median(values), unit, ran, f"{min(values):.4g} to {max(values):.4g} {unit}")


def of_open(bench: Bench) -> Iterator[Figure]:
    lakes = {steps: bench.folder.parent / "numbers" / str(steps) for steps in bench.sizes.steps}
    for steps, lake in lakes.items():
        once(lake, partial(_store_numbers, steps))

    def opened(lake: Path, _: int) -> dict[str, float]:
        return _started("open", str(lake), "numbers")

    turns = interleaved(bench.sizes.starts + 1, {str(steps): partial(opened, lake) for steps, lake in lakes.items()})
    found = {name: runs[1:] for name, runs in turns.items()}
    small, large = ([run["cpu_s"] for run in runs] for runs in found.values())
    for name, runs in found.items():
        cpu_s, wall_s, asked_s = (
            statistics.median(run[part] for run in runs) for part in ("cpu_s", "wall_s", "asked_s")
        )
        console.print(f"  {int(name):,} steps: {cpu_s:.2f} CPU-s; {wall_s:.2f} s, {asked_s:.2f} s without the batch")
    seen = f"{statistics.median(large) * 1e3:,.0f} | {statistics.median(small) * 1e3:,.0f} ms CPU"
    ran = f"{len(small)} interleaved runs, episodes of {feed_lake.STEPS_OF_ONE:,} steps, one batch of 64 at random"
    yield result("open_1e7_vs_1e6", median_ratio(large, small), "of 1e6", ran, seen)


def _store_numbers(steps: int, place: Path) -> None:
    feed_lake.write_numbers(Storage.open(str(place)), "numbers", steps=steps)


def _started(*words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.feed_starts", *words]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BenchmarkFailed(f"a start failed: {' '.join(ran.stderr.split()[-40:])}")
    answer: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return answer
