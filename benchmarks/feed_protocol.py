"""How a side of the feed's benchmark is asked for batches: lines on its standard input, a line of JSON for each.

    40            make forty batches → {"count": windows, "cpu_s": …, "wall_s": …}
    look PATH     make one more, and keep what is in it as an .npz → {}

It runs in other libraries' environments: the standard library and NumPy only. CPU time is that of the whole process,
user and system. The clocks are read when nothing works ahead any more, so that each batch is counted where it is asked
for; what a feed prepares before the first one is not counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

READY = "ready"
QUIET_S = 0.05

Batch = Any


def serve(batches: Iterable[Batch], look: Callable[[Batch], Mapping[str, np.ndarray]]) -> None:
    """Answer until the input ends.

    batches  without an end
    look     a batch as arrays: `number` (B,) of each window's last frame, `image` (B, K, 3, H, W), `state` (B, 26),
             `action` (B, 16, 26)
    """
    ahead = iter(batches)
    look(next(ahead))
    print(READY, flush=True)
    for line in sys.stdin:
        word, _, path = line.strip().partition(" ")
        if word == "look":
            with Path(path).open("wb") as file:
                np.savez(file, **look(next(ahead)))  # type: ignore[arg-type]
            answer = {}
        else:
            answer = _timed(ahead, int(word))
        print(json.dumps(answer), flush=True)


def _timed(ahead: Any, batches: int) -> dict[str, float]:
    cpu_s, wall_s, count = settled(), time.perf_counter(), 0
    for _ in range(batches):
        count += len_of(next(ahead))
    wall_s = time.perf_counter() - wall_s
    return {"count": count, "cpu_s": settled() - cpu_s, "wall_s": wall_s}


def len_of(batch: Batch) -> int:
    """Windows: of a dict, those of its first tensor."""
    return next(len(value) for value in batch.values() if hasattr(value, "__len__"))


def settled() -> float:
    """The process's CPU time, once nothing works any more."""
    before, after = -1.0, time.process_time()
    while after - before > QUIET_S / 50:
        time.sleep(QUIET_S)
        before, after = after, time.process_time()
    return after
