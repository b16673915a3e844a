"""Who let whom in, and out: every administrative act is an object, written once, before the act.

    audit/{yyyy-mm-dd}/{time_ns:020d}-{random}.json     {"t_ns", "actor", "act", "subject", "details"}

Where it cannot be written, the act is not done. So an entry says that an act was begun by somebody who was allowed to;
one that then failed is mostly followed by its repetition. No entry holds a secret.
"""

from __future__ import annotations

import getpass
import json
import re
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from edge.wire import MAX_TIME_NS
from ingest_serve.bucket import Bucket
from ingest_serve.errors import StorageUnavailable

READ_THREADS = 16
_ROOT = "audit"
_NAME = re.compile(r"\d{4}-\d{2}-\d{2}/\d{20}-[0-9a-f]{16}\.json")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a person by a token's id, a robot by its key's, or whoever holds the bucket's credentials."""

    kind: Literal["person", "robot", "cli"]
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. `subject` is a path such as `robots/g1-001/keys/0123456789abcdef`; `cursor` is its place in the log."""

    t_ns: int
    actor: Actor
    act: str
    subject: str
    details: dict[str, Any]
    cursor: str

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "cursor"}


class Audit:
    """Writes the log and reads it. Blocking: an async caller takes it to a thread."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def record(self, act: str, *, actor: Actor, subject: str, now_ns: int, **details: Any) -> None:
        """Durable when it returns. `StorageUnavailable`: the act must not be done."""
        entry = {"t_ns": now_ns, "actor": asdict(actor), "act": act, "subject": subject, "details": details}
        key = f"{_ROOT}/{_place(now_ns)}-{secrets.token_hex(8)}.json"
        if not self._bucket.create(key, json.dumps(entry, sort_keys=True).encode()):
            raise StorageUnavailable(f"{key} was there already")

    def read(
        self, *, start_ns: int = 0, end_ns: int = MAX_TIME_NS, after: str | None = None, limit: int
    ) -> list[Entry]:
        """The entries of `[start_ns, end_ns)` in the order of their times: the first `limit` after a cursor."""
        begin = _place(min(start_ns, MAX_TIME_NS))
        names = self._bucket.names(_ROOT, after=max(after or begin, begin), limit=limit)
        asked = [name for name in names if _NAME.fullmatch(name) and name < _place(min(end_ns, MAX_TIME_NS))]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            return list(pool.map(self._entry, asked))

    def _entry(self, name: str) -> Entry:
        found = self._bucket.read(f"{_ROOT}/{name}")
        try:
            said: dict[str, Any] = json.loads(found[1] if found else b"")
            return Entry(**{**said, "actor": Actor(**said["actor"])}, cursor=name)
        except (ValueError, LookupError, TypeError) as error:
            raise StorageUnavailable(f"{_ROOT}/{name} cannot be read: {error!r}") from error


def is_cursor(text: str) -> bool:
    """Whether this may be an entry's place in the log."""
    return _NAME.fullmatch(text) is not None


def who_runs_this() -> Actor:
    """The actor of a command: whoever holds the bucket's credentials on this machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without a user database
        user = "unknown"
    return Actor("cli", f"{user}@{socket.gethostname()}", user)


def _place(time_ns: int) -> str:
    """What the names of the entries at this time begin with."""
    day = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).date()
    return f"{day.isoformat()}/{time_ns:020d}"
