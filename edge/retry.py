"""What an answer means for the data, and how long to wait before trying again: pure functions."""

from __future__ import annotations

import random
from typing import Literal

Verdict = Literal["stored", "again", "identity", "refused"]

FIRST_BACKOFF_S = 0.5
_AGAIN = {408, 425, 429}


# our server's words on an upload in pieces that another request has changed meanwhile: it is to be begun again
STALE = {"offset_mismatch", "upload_unknown"}


def verdict(status: int, *, is_ours: bool, code: str = "") -> Verdict:
    """`stored`: the receipt counts. `again`: later. `identity`: our key or clock, keep the data. `refused`: never.

    Only our server's own word (`is_ours`) refuses for good: a proxy's page says nothing of the data.
    """
    if status in (200, 201):
        return "stored"
    if status in (401, 403):
        return "identity"
    if status in _AGAIN or not 400 <= status < 500 or not is_ours or code in STALE:
        return "again"
    return "refused"


def backoff_s(failures: int, *, max_s: float, retry_after_s: float | None, random_: random.Random) -> float:
    """Wait before the next try after so many failures in a row: exponential, jittered, never under Retry-After."""
    ceiling = min(max_s, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 30))
    return max(retry_after_s or 0.0, random_.uniform(ceiling / 2, ceiling))


def retry_after(field: str | None) -> float | None:
    """Seconds of a `Retry-After` header in its number form; None for a date or nonsense."""
    try:
        seconds = float(field or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 3600 else None
