"""The process beside the robot's program: recovers the spool, adopts other recorders' files, uploads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from edge import identity
from edge.adopt import adopt
from edge.errors import EdgeError
from edge.recovery import recover
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.uploader import LinkState, Uploader


class Agent:
    """One robot's agent. It shares nothing with the recorder but the spool folder; either may die at any moment."""

    def __init__(self, settings: EdgeSettings, *, adopt_from: Iterable[Path] = ()) -> None:
        self.settings = settings
        self.spool = Spool(settings.folder)
        self._adopt_from = list(adopt_from)
        self._uploader = Uploader(self.spool, identity.load(settings.folder), settings=settings)

    @property
    def link(self) -> LinkState:
        return self._uploader.state

    def run(self, stop: threading.Event, *, until_empty: bool, report: Callable[[str], None]) -> None:
        """Work until `stop` is set, or, with `until_empty`, until nothing waits to be uploaded."""
        for line in recover(self.spool):
            report(line)
        self._adopt(report)
        if self._adopt_from and not until_empty:
            threading.Thread(target=self._keep_adopting, args=(stop, report), daemon=True).start()
        self._uploader.run(stop, until_empty=until_empty)

    def _keep_adopting(self, stop: threading.Event, report: Callable[[str], None]) -> None:
        while not stop.wait(self.settings.scan_s):
            try:
                self._adopt(report)
            except (OSError, EdgeError) as error:  # a full disk, say: told, and tried again
                report(f"adopting: {error}")

    def _adopt(self, report: Callable[[str], None]) -> None:
        for folder in self._adopt_from:
            for one in adopt(self.spool, folder, settings=self.settings, more_to_come=True):
                report(f"{one.path.name}: {one.messages} messages in {one.segments} segments {one.reason}")
