"""The video segments of the index page by page: one version of it, in one order, each row once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dataset_catalog.predicate import bracketed, check_predicate
from dataset_catalog.sql import Bounds, query, view_of
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import SEGMENTS, Manifest

Place = tuple[str, int, str, str, int]  # of a row: robot, start, stream, recording, seq
ORDER = ("robot_id", "start_ns", "stream", "recording_id", "seq")

_PAGE = """
SELECT * EXCLUDE (gops) FROM segments WHERE kind = 'video' AND state <> 'gap'
AND (?::VARCHAR IS NULL OR robot_id = ?) AND (?::VARCHAR IS NULL OR stream = ?)
AND (?::BIGINT IS NULL OR end_ns > ?) AND (?::BIGINT IS NULL OR start_ns < ?)
AND (? OR (robot_id, start_ns, stream, recording_id, seq) > (?, ?, ?, ?, ?))
AND {where} ORDER BY robot_id, start_ns, stream, recording_id, seq LIMIT ?
"""
_FROM_THE_START: Place = ("", 0, "", "", 0)


@dataclass(frozen=True, slots=True)
class VideoSearch:
    """What is looked for; None does not restrict. `where` is an SQL predicate on the columns of `segments`."""

    robot: str | None = None
    stream: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    where: str | None = None


def find_page(
    storage: Storage, manifest: Manifest, search: VideoSearch, *, after: Place | None, limit: int, bounds: Bounds
) -> tuple[list[dict[str, Any]], Place | None]:
    """At most `limit` rows behind `after`, and the place to go on from; None: there are no more.

    Raises `QueryError` for a predicate that `check_predicate` does not allow, or that cannot be run within the bounds.
    """
    check_predicate(search.where or "true")
    segments = view_of(open_table(storage, SEGMENTS, manifest, "segments"), "segments")
    given = (search.robot, search.stream, search.start_ns, search.end_ns)
    parameters = [value for value in given for _ in range(2)]
    parameters += [after is None, *(after or _FROM_THE_START), limit + 1]
    found = query(_PAGE.format(where=bracketed(search.where or "true")), [segments], parameters, bounds=bounds)
    rows: list[dict[str, Any]] = found.slice(0, limit).to_pylist()
    return rows, _place(rows[-1]) if found.num_rows > limit else None


def _place(row: dict[str, Any]) -> Place:
    return (row["robot_id"], row["start_ns"], row["stream"], row["recording_id"], row["seq"])
