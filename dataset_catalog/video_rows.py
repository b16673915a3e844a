"""What a published index says of one camera in a range of time, read by the table's columns without SQL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from dataset_catalog import cut as cutting
from dataset_catalog.cut import Cut
from dataset_catalog.errors import ClipTooLong, NoVideo
from dataset_catalog.sql import View
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table
from dataset_catalog.versions import SEGMENTS, Manifest

MAX_SEGMENTS = 20_000  # rows read for one answer: two days of segments of ten seconds


def find_cut(
    storage: Storage,
    manifest: Manifest,
    robot: str,
    stream: str,
    *,
    start_ns: int,
    end_ns: int,
    recording: str | None = None,
) -> Cut:
    """The cut for `[start_ns, end_ns)` of one robot's stream, of all recordings or of one.

    Raises `NoVideo`, with the streams that there are, where there is no video in the range.
    """
    table = open_table(storage, SEGMENTS, manifest, "segments")
    where = [contains("robot_id", [robot]), contains("stream", [stream]), "kind = 'video'"]
    where += [f"end_ns > {start_ns}", f"start_ns < {end_ns}"]
    where += [contains("recording_id", [recording])] if recording is not None else []
    rows = table.to_table(columns=list(cutting.COLUMNS), filter=" AND ".join(where), limit=MAX_SEGMENTS + 1)
    if rows.num_rows > MAX_SEGMENTS:
        raise ClipTooLong(f"the range holds more than {MAX_SEGMENTS} segments")
    try:
        return cutting.cut(rows.to_pylist(), start_ns=start_ns, end_ns=end_ns)
    except NoVideo as error:
        raise NoVideo(f"{error} of stream {stream!r} of robot {robot!r}; {_streams(table, robot)}") from error


def overlapping(segments: View, robot: str | None, start_ns: int | None, end_ns: int | None) -> View:
    """The view, narrowed by the table's indices where there is anything to narrow it by: DuckDB does not use them."""
    where = [contains("robot_id", [robot])] if robot is not None else []
    where += [f"end_ns > {start_ns}"] if start_ns is not None else []
    where += [f"start_ns < {end_ns}"] if end_ns is not None else []
    if not where or isinstance(segments.table, pa.Table):
        return segments
    rows = segments.table.to_table(columns=list(segments.columns or ()) or None, filter=" AND ".join(where))
    return replace(segments, table=rows)


def _streams(table: Any, robot: str) -> str:
    """Which cameras the robot has, in words."""
    found = table.to_table(columns=["stream"], filter=f"{contains('robot_id', [robot])} AND kind = 'video'")
    names = sorted(found["stream"].unique().to_pylist())
    return f"its video streams are {', '.join(names)}" if names else "the index holds no video of this robot"
