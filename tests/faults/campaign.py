"""Campaigns: the same trial with many seeds. Any of them can be run again by its seed alone.

    python -m pytest tests/faults                      a number that a working day bears
    FLEETFEED_SOAK=1 python -m pytest -s tests/faults  the full number, without a time limit
    FLEETFEED_SEED=17 python -m pytest -k NAME         this one trial, its folder left under pytest's

No failure in n trials says that the rate of failures is below 1 - 0.05^(1/n), about 3/n, at 95 % confidence.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

SHOWN_FAILURES = 5


def is_soak() -> bool:
    value = os.environ.get("FLEETFEED_SOAK", "")
    if value not in ("", "0", "1"):
        raise ValueError(f"FLEETFEED_SOAK must be 0 or 1, got {value!r}")
    return value == "1"


def trials(*, test: int = 30, soak: int = 1000) -> Sequence[int]:
    """The seeds to try: 0, 1, 2 … (`test` of them, in a soak `soak`), or only `FLEETFEED_SEED`."""
    seed = os.environ.get("FLEETFEED_SEED", "")
    if not seed:
        return range(soak if is_soak() else test)
    if not seed.isdecimal():
        raise ValueError(f"FLEETFEED_SEED must be a whole number, got {seed!r}")
    return [int(seed)]


def run_trials(trial: Callable[[int, Path], None], folder: Path, *, test: int = 30, soak: int = 1000) -> None:
    """Call `trial(seed, empty folder)` for every seed; fails with the seeds that failed and how to see one again.

    The folder of a trial that passed is removed. After a few failures the rest is not tried.
    """
    seeds, failed, done = trials(test=test, soak=soak), dict[int, BaseException](), 0
    for seed in seeds:
        own = folder / f"seed-{seed}"
        own.mkdir()
        try:
            trial(seed, own)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - every failure is one of the campaign
            failed[seed] = error
        else:
            shutil.rmtree(own)
        done += 1
        if len(failed) == SHOWN_FAILURES:
            break
    if failed:
        raise AssertionError(_verdict(failed, done)) from next(iter(failed.values()))
    print(f"{done} trials, none failed: fewer than {100 * (1 - 0.05 ** (1 / done)):.2g} % do (95 % confidence)")


def _verdict(failed: dict[int, BaseException], done: int) -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "tests/faults").removesuffix(" (call)")
    lines = [f"{len(failed)} of {done} trials failed; again:"]
    for seed, error in failed.items():
        said = (str(error).splitlines() or [""])[0]
        lines.append(f"  FLEETFEED_SEED={seed} python -m pytest '{test}'  # {type(error).__name__}: {said}")
    return "\n".join(lines)
