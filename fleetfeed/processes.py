"""Finding and ending a stack's processes by the mark that they all inherit.

Ray, Serve and HAProxy start processes that outlive their parents, so neither a process tree nor a list of pids holds
them all. An environment variable does: it is inherited at every fork and cannot be lost, as long as nobody writes
over it; `setproctitle`, which Ray uses, is kept from that by `SPT_NOENV`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePath

import psutil

MARK = "FLEETFEED_STACK_ID"
KEEP_ENVIRONMENT = {"SPT_NOENV": "1"}
POLL_S = 0.05


def mark(stack_id: str) -> dict[str, str]:
    """What to add to the environment of a process for it and all its descendants to be found again."""
    return {MARK: stack_id, **KEEP_ENVIRONMENT}


def marked(stack_id: str) -> list[psutil.Process]:
    """Every living process with the mark, save this one. A zombie has no environment, and counts as ended."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _has(process, stack_id)]


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_marked(stack_id: str, *, grace_s: float = 2.0, limit_s: float = 10.0) -> bool:
    """Ask every marked process to end, kill what is left after `grace_s`. False if some survive `limit_s` of that."""
    for process in marked(stack_id):
        _signal(process.terminate)
    if wait_until(lambda: not marked(stack_id), limit_s=grace_s):
        return True
    return wait_until(lambda: _killed_all(stack_id), limit_s=limit_s)


def wait_until(condition: Callable[[], bool], *, limit_s: float) -> bool:
    """Whether `condition` came true within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def name_of(process: psutil.Process) -> str:
    """What a person calls it: the program, the Python module, or the title that Ray gave it."""
    try:
        words = process.cmdline()
    except psutil.Error:
        words = []
    return _name(words) or "ended"


def _name(words: list[str]) -> str:
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    scripts = [word for word in words if word.endswith(".py")]
    program = scripts[0] if scripts else " ".join(words[:1])
    return PurePath(program.split(" ")[0]).name


def _has(process: psutil.Process, stack_id: str) -> bool:
    try:
        return process.environ().get(MARK) == stack_id
    except psutil.Error:  # another user's, or gone
        return False


def _killed_all(stack_id: str) -> bool:
    """Kill what there is; true once there is nothing. Those may have started others meanwhile, so it is repeated."""
    survivors = marked(stack_id)
    for process in survivors:
        _signal(process.kill)
    return not survivors


def _signal(send: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        send()
