"""The times people write, as int64 nanoseconds since the Unix epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from numbers import Integral

from dataset_catalog.errors import QueryError

Time = int | datetime | str

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_ns(time: Time) -> int:
    """Nanoseconds from an int (already that), a datetime, or an ISO 8601 text; without a zone it is UTC.

    Raises `QueryError` for a text that is no ISO 8601 time.
    """
    if isinstance(time, int | Integral):
        return int(time)
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError as error:
            raise QueryError(f"a time is int nanoseconds, a datetime or ISO 8601 text, got {time!r}") from error
    if not isinstance(time, datetime):
        raise QueryError(f"a time is int nanoseconds, a datetime or ISO 8601 text, got {time!r}")
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1) * 1000


def parse_ns(text: str) -> int:
    """Nanoseconds from a time as it stands in a query: a whole number of ns, or ISO 8601. Raises `QueryError`."""
    time = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else to_ns(text)
    if not 0 <= time < 2**63:
        raise QueryError(f"a time must be from 1970 to 2262, got {text!r}")
    return time


def to_text(time_ns: int) -> str:
    """ISO 8601 in UTC to the millisecond: `2026-03-01T12:00:00.250Z`."""
    return (_EPOCH + timedelta(microseconds=time_ns // 1000)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
