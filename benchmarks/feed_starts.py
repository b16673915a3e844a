"""What it takes until the feed runs, each in a process of its own: opening a dataset, the first batch, workers' memory.

    python -m benchmarks.feed_starts first SIDE BATCHES
    python -m benchmarks.feed_starts open LAKE NAME

Prints one line of JSON. Imports are not counted.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import psutil
import torch  # noqa: F401 - imported before the clock starts, as a training script has it

from benchmarks.feed_loops import Asked
from benchmarks.measure import MB, tree_peak_rss_bytes
from dataset_catalog import Catalog

WORKERS = 2
AT_ONCE = 64


def first(asked: Asked, batches: int) -> dict[str, float]:
    """From opening the lake to the first batch of two worker processes; and the largest worker's peak after so many."""
    started = time.perf_counter()
    ahead = iter(asked.windows().loader(asked.batch, seed=1, workers=WORKERS))
    next(ahead)
    first_s = time.perf_counter() - started
    for _ in range(batches):
        next(ahead)
    peaks = [tree_peak_rss_bytes(one.pid) for one in _workers()]
    return {"first_batch_s": first_s, "worker_rss_mb": max(peaks) / MB}


def _workers() -> list[psutil.Process]:
    """The processes that make batches: those without children of their own, and not the one that only keeps count."""
    below = psutil.Process().children(recursive=True)
    return [one for one in below if not one.children() and "resource_tracker" not in " ".join(one.cmdline())]


def opened(lake: str, name: str) -> dict[str, float]:
    """Open a dataset, select all of it by a predicate, ask for windows and take 64 of them, anywhere."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    dataset = Catalog.open(lake).dataset(name).select(where="success")
    windows = dataset.windows({"state": [-0.1, 0.0]})
    asked_s = time.perf_counter() - wall_s
    windows.batch(np.random.default_rng(1).integers(0, len(windows), AT_ONCE))
    spent_s = time.process_time() - cpu_s
    return {"steps": len(windows), "cpu_s": spent_s, "wall_s": time.perf_counter() - wall_s, "asked_s": asked_s}


def main(words: list[str]) -> None:
    opens = words[0] == "open"
    found = opened(words[1], words[2]) if opens else first(Asked(**json.loads(words[1])), int(words[2]))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
