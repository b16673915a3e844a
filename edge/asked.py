"""What somebody asked for of the streams that else stay on the robot: small durable files in `requests/`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

from ulid import ULID

from edge import checked
from edge.errors import SpoolError
from edge.spool import Spool
from edge.wire import MAX_TIME_NS


@dataclass(frozen=True, slots=True)
class Asked:
    """Segments of the streams that `stream` matches (a name or a pattern), in recordings that `recording` matches,
    which overlap `[start_ns, end_ns)`."""

    stream: str
    recording: str = "*"
    start_ns: int = 0
    end_ns: int = MAX_TIME_NS

    def names(self, recording: str, stream: str) -> bool:
        return fnmatchcase(stream, self.stream) and fnmatchcase(recording, self.recording)

    def overlaps(self, start_ns: int, end_ns: int) -> bool:
        return start_ns < self.end_ns and end_ns > self.start_ns


def ask(spool: Spool, asked: Asked) -> None:
    """Remember a wish durably; the agent sees it at its next look."""
    if asked.start_ns >= asked.end_ns:
        raise SpoolError(f"a request's range must not be empty, got {asked.start_ns}..{asked.end_ns}")
    path = spool.folder / "requests" / f"{ULID()}.json"
    spool.disk.write_file(path, checked.dumps(asdict(asked)).encode())


def read_asked(spool: Spool) -> Sequence[Asked]:
    """All that was asked for; a file that is damaged, or cannot be read, asks for nothing."""
    wishes = []
    for path in sorted((spool.folder / "requests").glob("*.json")):
        with contextlib.suppress(OSError, TypeError):
            wishes.append(Asked(**(checked.read(path) or {})))
    return wishes
