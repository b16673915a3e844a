"""Whether the link is metered: whether what is sent over it costs money. Doubt costs money, so doubt means metered.

The robot's own network setup knows it, and there are three ways to ask: a file that it writes, a command, or
NetworkManager, whose property `Metered` is an `NMMetered` of its D-Bus interface: 0 unknown, 1 yes, 2 no, 3 guessed
yes, 4 guessed no (https://networkmanager.dev/docs/api/latest/nm-dbus-types.html), that of the best default route.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast, get_args

How = Literal["no", "yes", "file", "command", "networkmanager"]
Run = Callable[[Sequence[str]], tuple[int, str]]  # words of a command → its exit status and what it printed

LIMIT_S = 2.0
MAX_OUTPUT_BYTES = 200
NETWORK_MANAGER = (
    "busctl get-property org.freedesktop.NetworkManager /org/freedesktop/NetworkManager "
    "org.freedesktop.NetworkManager Metered"
)

_WORDS = {"yes": True, "1": True, "true": True, "no": False, "0": False, "false": False}
_NM_METERED = {"u 1": (True, "yes"), "u 2": (False, "no"), "u 3": (True, "guessed yes"), "u 4": (False, "guessed no")}


@dataclass(frozen=True, slots=True)
class Link:
    """What is known of the link, and why in words."""

    metered: bool
    reason: str


class Metered:
    """Asks whether the link is metered, at most every `check_every_s`; shared by the threads of an agent.

    `path`: of the file, which says yes or no (or 1, 0, true, false). `command`: its words; exit status 0 means
    metered, 1 not. Neither keeps a caller waiting for more than `LIMIT_S`; a check that never ends is not begun again,
    and the link stays metered. `ValueError` where what `how` needs is not given.
    """

    def __init__(
        self,
        how: How,
        *,
        path: Path | None = None,
        command: str = "",
        check_every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        run: Run | None = None,
    ) -> None:
        self._ask = _question(how, path=path, command=command, run=run or run_command)
        self._check_every_s, self._clock = check_every_s, clock
        self._check: _Check | None = None
        self._lock = threading.Lock()

    def link(self) -> Link:
        """What the last check found, or a new one's answer when that is too old."""
        with self._lock:
            now_s = self._clock()
            if self._check is None or (now_s - self._check.began_s >= self._check_every_s and self._check.is_over):
                self._check = _Check(self._ask, began_s=now_s)
            check = self._check
        return check.answer(within_s=LIMIT_S - (now_s - check.began_s))


class _Check:
    """One check, in a thread of its own: a file of a dead network disk, say, lets go of nobody who reads it."""

    def __init__(self, ask: Callable[[], Link], *, began_s: float) -> None:
        self.began_s = began_s
        self._ask = ask
        self._link = Link(True, f"there was no answer within {LIMIT_S:g} s")
        self._over = threading.Event()
        threading.Thread(target=self._run, name="metered", daemon=True).start()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def answer(self, *, within_s: float) -> Link:
        self._over.wait(max(0.0, within_s))
        return self._link

    def _run(self) -> None:
        try:
            self._link = self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it was, we do not know
            self._link = Link(True, f"{type(error).__name__}: {error}")
        finally:
            self._over.set()


def _question(how: How, *, path: Path | None, command: str, run: Run) -> Callable[[], Link]:
    """What a check does."""
    match how:
        case "yes" | "no":
            return lambda: Link(how == "yes", "by the settings")
        case "file" if path:
            return lambda: ask_file(path)
        case "command" if words := shlex.split(command):
            return lambda: ask_command(words, run)
        case "networkmanager":
            return lambda: ask_network_manager(run)
    if how in get_args(How):
        raise ValueError(f"metered by {how} needs {'a path' if how == 'file' else 'a command'}")
    raise ValueError(f"metered must be one of {', '.join(get_args(How))}, got {how!r}")


def ask_file(path: Path) -> Link:
    """Metered unless the file says no."""
    try:
        with path.open("rb") as file:
            said = file.read(MAX_OUTPUT_BYTES).decode(errors="replace").strip()
    except OSError as error:
        return Link(True, f"{path} cannot be read: {error.strerror}")
    if said.lower() not in _WORDS:
        return Link(True, f"{path} must say yes or no, it says {said[:40]!r}")
    return Link(_WORDS[said.lower()], f"{path} says {said}")


def ask_command(words: Sequence[str], run: Run) -> Link:
    """Metered unless the command ends with exit status 1."""
    try:
        status, _ = run(words)
    except OSError as error:
        return Link(True, f"{words[0]} gave no answer: {error}")
    return Link(status != 1, f"{words[0]} ended with {status}" + ("" if status in (0, 1) else ", which means nothing"))


def ask_network_manager(run: Run) -> Link:
    """Metered unless NetworkManager says or guesses that the link is not."""
    try:
        status, printed = run(NETWORK_MANAGER.split())
    except OSError as error:
        return Link(True, f"NetworkManager gave no answer: {error}")
    if status != 0 or printed.strip() not in _NM_METERED:
        return Link(True, f"NetworkManager does not know: {printed.strip()!r}, exit status {status}")
    metered, said = _NM_METERED[printed.strip()]
    return Link(metered, f"NetworkManager says {said}")


def run_command(words: Sequence[str]) -> tuple[int, str]:
    """Exit status and the first bytes printed by a command. `TimeoutError` after `LIMIT_S`: then it is killed.

    What it prints is read when it has ended; one that prints more than a pipe holds (64 KiB) does not end.
    """
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    with process:
        try:
            status = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
            raise TimeoutError(f"it did not end within {LIMIT_S:g} s") from None
        printed = cast(IO[bytes], process.stdout)
        os.set_blocking(printed.fileno(), False)  # something that it has started may hold the other end
        return status, (printed.read(MAX_OUTPUT_BYTES) or b"").decode(errors="replace")
