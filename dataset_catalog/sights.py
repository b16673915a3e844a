"""What a row of a find looks like: the camera's picture of that time, or of the middle of the episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from dataset_catalog import schema
from dataset_catalog.contents import LONG
from dataset_catalog.found import WIDTH, Found, Pictures, Row
from dataset_catalog.sql import View, query

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset

_EPISODE_COLUMNS = [name for name in schema.EPISODES.names if name not in LONG] + ["labels"]
_SEEN = """
SELECT n, min(key) AS key FROM asked JOIN segments
ON segments.robot_id = asked.robot_id AND start_ns <= asked.t_ns AND end_ns > asked.t_ns
WHERE kind = 'video' AND state = 'ok' GROUP BY n
"""


def seen_at(
    rows: Sequence[Mapping[str, Any]],
    *,
    segments: View,
    pictures: Callable[[list[str | None]], list[bytes | None]],
    datasets: Callable[[], Mapping[str, Dataset]],
) -> list[bytes | None]:
    """What a camera of the robot saw at the time of each find, or else in the middle of its episode.

    pictures  those of segments, by their raw keys
    datasets  by name; opened only where a find is of an episode that no segment was filmed of
    """
    asked = pa.table({name: [row[name] for row in rows] for name in ("robot_id", "t_ns")} | {"n": range(len(rows))})
    found = query(_SEEN, [segments, View("asked", asked)])
    key = dict(zip(found["n"].to_pylist(), found["key"].to_pylist(), strict=True))
    seen = pictures([key.get(number) for number in range(len(rows))])
    told = [n for n, row in enumerate(rows) if seen[n] is None and _is_of_an_episode(row["table"])]
    middle = dict(zip(told, _begun([rows[n] for n in told], datasets()), strict=True)) if told else {}
    return [one or middle.get(n) for n, one in enumerate(seen)]


def episodes_of(dataset: Dataset, *, title: str) -> Found:
    """The selected episodes of a dataset, each with a picture of its middle."""
    return Found(dataset.episodes(), lambda rows: middles(dataset, rows), title=title)


def middles(dataset: Dataset, rows: Sequence[Row]) -> list[bytes | None]:
    """What the first camera saw in the middle of each episode."""
    camera = next((name for name, one in dataset.cameras.items() if one.renditions), None)
    if camera is None or not rows:
        return [None] * len(rows)
    height, width = min(dataset.cameras[camera].renditions.values())
    size = (max(2, round(height * WIDTH / width)), WIDTH)
    places = [(row["episode_id"], row["steps"] // 2) for row in rows if row["steps"]]
    batch = dataset.windows({camera: [0.0]}, image_size=size).at(places)
    seen = batch[f"{camera}_mask"][:, 0]
    pictures = {place[0]: _jpeg(batch[camera][i, 0]) for i, place in enumerate(places) if seen[i]}
    return [pictures.get(row["episode_id"]) for row in rows]


def middles_of(datasets: Callable[[str], Dataset]) -> Pictures:
    """The same of rows of several datasets, which name theirs in `dataset`."""

    def pictures(rows: Sequence[Row]) -> list[bytes | None]:
        parts = groupby(rows, key=lambda row: str(row["dataset"]))
        return [one for name, part in parts for one in middles(datasets(name), list(part))]

    return pictures


def with_dataset(dataset: Dataset) -> pa.Table:
    """A dataset's episodes, and where they are."""
    rows = dataset.episodes().select(_EPISODE_COLUMNS)
    rows = rows.append_column("dataset", pa.repeat(pa.scalar(dataset.name), len(rows)))
    return rows.append_column("version", pa.repeat(pa.scalar(dataset.version), len(rows)))


def _begun(rows: Sequence[Mapping[str, Any]], datasets: Mapping[str, Dataset]) -> list[bytes | None]:
    """What was seen in the middle of the episode that begins at each find."""
    times = pa.array({row["t_ns"] for row in rows}, pa.int64())
    parts = [with_dataset(dataset) for dataset in datasets.values()]
    begun = [one for part in parts for one in part.filter(pc.is_in(part["start_ns"], times)).to_pylist()]
    of = {(one["robot_id"], one["recording_id"], one["start_ns"]): one for one in begun}
    asked = {number: of.get((row["robot_id"], row["recording_id"], row["t_ns"])) for number, row in enumerate(rows)}
    there = {number: one for number, one in asked.items() if one is not None}
    seen = dict(zip(there, middles_of(datasets.__getitem__)(list(there.values())), strict=True))
    return [seen.get(number) for number in asked]


def _is_of_an_episode(table: str) -> bool:
    return table == "labels" or table.endswith(".episodes")


def _jpeg(rgb: Any) -> bytes:
    encoded: bytes = cv2.imencode(".jpg", rgb.transpose(1, 2, 0)[..., ::-1])[1].tobytes()
    return encoded
