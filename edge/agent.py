"""The process beside the robot's program: recovers the spool, adopts other recorders' files, uploads, makes room."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge import eviction, identity, ledger
from edge.errors import AgentRuns, EdgeError, SpoolError
from edge.link import LinkState
from edge.metered import Metered
from edge.recovery import recover, recover_recordings
from edge.retention import choose_evictions
from edge.settings import EdgeSettings
from edge.spool import Spool, lock_file
from edge.state_file import write_state
from edge.uploader import Uploader

TELL_S = 1.0
RECOVER_S = 10.0
TIDY_S = 600.0

Report = Callable[[str], None]


class Agent:
    """One robot's agent. It shares nothing with the recorder but the spool folder; either may die at any moment."""

    def __init__(self, settings: EdgeSettings, *, adopt_from: Iterable[Path] = (), spool: Spool | None = None) -> None:
        self.settings = settings
        self.spool = spool or Spool(settings.folder)
        self._adopt_from = list(adopt_from)
        self._metered = Metered(
            settings.metered, path=settings.metered_file, command=settings.metered_command or "", check_every_s=10.0
        )
        self._uploader = Uploader(
            self.spool,
            identity.load(settings.folder),
            settings=settings,
            is_metered=lambda: self._metered.link().metered,
        )
        self._due_s: dict[str, float] = {}
        self._bytes_aside = 0
        self._is_evicting = True  # perhaps: recovery may have met a full disk
        self._report: Report = print

    @property
    def link(self) -> LinkState:
        return self._uploader.state

    def run(self, stop: threading.Event, *, until_empty: bool, report: Report) -> None:
        """Work until `stop` is set, or, with `until_empty`, until nothing waits that may be sent.

        `AgentRuns` where another agent works on this folder.
        """
        lock = self._lock()
        try:
            self._report = report
            for line in recover(self.spool):
                report(line)
            self._adopt_first(report)
            if self._adopt_from and not until_empty:
                threading.Thread(target=self._keep_adopting, args=(stop, report), daemon=True).start()
            self._uploader.run(stop, until_empty=until_empty, housekeeping=self._keep_house)
        finally:
            self._tell(is_running=False)
            os.close(lock)

    def _lock(self) -> int:
        try:
            lock = lock_file(self.spool.agent_lock_path)
        except OSError as error:
            raise SpoolError(f"{self.spool.agent_lock_path} cannot be used: {error.strerror}") from error
        if lock is None:
            raise AgentRuns(f"another agent runs on {self.spool.folder}: it uploads what is there")
        return lock

    # -- between uploads ---------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        """What has to be done now and then. A full or failing disk stops none of it for good."""
        steps: tuple[tuple[float, Callable[[], None]], ...] = (
            (RECOVER_S, self._recover_the_dead),
            (RECOVER_S, self._finish_evictions),
            (TIDY_S, self._tidy),
            (0.0, self._make_room),
            (TELL_S, self._tell),
        )
        for period_s, step in steps:
            name, now_s = step.__name__, time.monotonic()
            if now_s >= self._due_s.get(name, float("-inf")):
                self._due_s[name] = now_s + period_s
                try:
                    step()
                except (OSError, EdgeError) as error:
                    self._uploader.alarm(f"disk: {error}")

    def _recover_the_dead(self) -> None:
        """Recordings whose recorder died while we ran."""
        self._bytes_aside = self.spool.bytes_aside()
        for line in recover_recordings(self.spool):
            self._report(line)

    def _finish_evictions(self) -> None:
        """What an eviction had to leave undone, on a disk that took no gap record, say."""
        if self._is_evicting:
            for line in eviction.finish_evictions(self.spool):
                self._report(line)
            self._is_evicting = False
            self._uploader.backlog.relist()

    def _tidy(self) -> None:
        self.spool.tidy()
        ledger.fold(self.spool, older_than_s=self.settings.ledger_days * 86_400)

    def _make_room(self) -> None:
        """Let the least valuable go, once the spool is over its budget or the disk under its floor."""
        backlog, known = self._uploader.backlog, self.settings
        chosen = choose_evictions(
            backlog.evictable(busy=self._uploader.busy),
            used_bytes=backlog.total_bytes + self._bytes_aside,
            max_bytes=known.max_bytes,
            free_bytes=self.spool.disk.free_bytes(self.spool.folder),
            min_free_bytes=known.min_free_bytes,
        )
        if not chosen:
            return
        self._is_evicting = True
        gaps = eviction.evict(self.spool, [one.stem for one in chosen])
        self._is_evicting = False
        for one in chosen:
            backlog.forget(one.stem)
        for gap in gaps:
            backlog.refresh(gap.stem)
        size = sum(one.size_bytes for one in chosen) / 1e6
        self._uploader.alarm(f"disk full: {len(chosen)} segments ({size:.1f} MB) had to go")
        self._report(f"disk full: {len(chosen)} segments ({size:.1f} MB) had to go")

    def _tell(self, *, is_running: bool = True) -> None:
        """For `fleetfeed edge status`, and for the recorder, which takes it into its own status."""
        backlog, link = self._uploader.backlog, self._metered.link()
        clock = self._uploader.link.clocks.estimate()
        state: dict[str, Any] = {
            "is_running": is_running,
            "told_ns": time.time_ns(),
            "pid": os.getpid(),
            "link": {**asdict(self.link), "metered": link.metered, "metered_because": link.reason},
            "spool": {"waiting": len(backlog), "waiting_bytes": backlog.total_bytes, "other_bytes": self._bytes_aside},
            "clock": None if clock is None else asdict(clock),
            "alarms": list(self.link.alarms),
        }
        write_state(self.spool.disk, self.spool.agent_state_path, state)

    # -- other recorders ---------------------------------------------------------------------------------------

    def _adopt_first(self, report: Report) -> None:
        """A full disk keeps nothing from being uploaded: that makes room. A folder that is not there is an error."""
        try:
            self._adopt(report)
        except OSError as error:
            report(f"adopting: {error}")

    def _keep_adopting(self, stop: threading.Event, report: Report) -> None:
        while not stop.wait(self.settings.scan_s):
            try:
                self._adopt(report)
            except (OSError, EdgeError) as error:  # a full disk, say: told, and tried again
                report(f"adopting: {error}")

    def _adopt(self, report: Report) -> None:
        from edge.adopt import adopt  # only who adopts pays for it

        for folder in self._adopt_from:
            for one in adopt(self.spool, folder, settings=self.settings, more_to_come=True):
                report(f"{one.path.name}: {one.messages} messages in {one.segments} segments {one.reason}")
