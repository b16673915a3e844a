"""What a published index says of one camera in a range of time, read by the table's columns without SQL."""

from __future__ import annotations

from typing import Any

from dataset_catalog import cut as cutting
from dataset_catalog.cut import Cut
from dataset_catalog.errors import ClipTooLong, NoVideo
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


def _streams(table: Any, robot: str) -> str:
    """Which cameras the robot has, in words."""
    found = table.to_table(columns=["stream"], filter=f"{contains('robot_id', [robot])} AND kind = 'video'")
    names = sorted(found["stream"].unique().to_pylist())
    return f"its video streams are {', '.join(names)}" if names else "the index holds no video of this robot"
