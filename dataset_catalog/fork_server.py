"""The process that workers are copies of, started ahead: it imports what they need once, and meanwhile."""

from __future__ import annotations

import sys
from multiprocessing import forkserver

from dataset_catalog.errors import WorkerError
from dataset_catalog.worker_checks import check_guard

MODULES = "dataset_catalog.worker_modules"


def start_ahead() -> None:
    """Start it, unless it runs already; what the program itself lets it import stays.

    Not for a script whose guard is missing, which is told of when its workers start. Not on macOS, whose own libraries
    do not work in a copy: workers import by themselves there.
    """
    if sys.platform != "linux":
        return
    try:
        check_guard()
    except WorkerError:
        return
    asked: list[str] = forkserver._forkserver._preload_modules  # type: ignore[attr-defined]  # there is no other way to see it
    if MODULES not in asked:
        forkserver.set_forkserver_preload([*asked, MODULES])
    forkserver.ensure_running()
