"""The boundary to bytes from outside: whatever they make a library raise is their fault, not the job's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge.errors import GapError, SegmentError
from ray_jobs.errors import JobError


@contextmanager
def blamed_on(error_type: type[JobError], what: str) -> Iterator[None]:
    """Raise `error_type`, which names the item as damaged, for any exception inside; errors of ours pass as they are.

    Only for work on bytes that are already in memory: a store that cannot be reached is nobody's poison.
    """
    try:
        yield
    except (GapError, JobError, SegmentError):
        raise
    except Exception as error:
        raise error_type(f"{what}: {type(error).__name__}: {error}") from error
