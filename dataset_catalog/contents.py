"""What a version of a dataset holds: its tables, all its episodes, and what its columns and cameras mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dataset_catalog.labels import applied, current
from dataset_catalog.sampling import Policy
from dataset_catalog.sql import View, query
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table, read
from dataset_catalog.versions import DATASETS, Manifest

if TYPE_CHECKING:
    from dataset_catalog.video import Size

CAMERA_TOLERANCE_NS = 50_000_000  # of a camera that `episodes.columns` does not list

_ASKED = 1024  # episodes that are asked what their columns mean
LONG = ("columns", "sources")  # of `episodes`: most of its bytes, and seldom asked for
ORDER = [(name, "ascending") for name in ("robot_id", "start_ns", "episode_id")]
_RENDITIONS = "SELECT camera, rendition, min(height) AS height, min(width) AS width FROM gops GROUP BY ALL ORDER BY ALL"


@dataclass(frozen=True, slots=True)
class Column:
    """A numeric column: vectors of `size`, the names of their elements, and how they are aligned."""

    size: int
    names: tuple[str, ...] | None
    policy: Policy
    tolerance_ns: int


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera: how far a frame may be from the time asked for, and the smallest (height, width) of each rendition."""

    tolerance_ns: int
    renditions: Mapping[str, Size]


class Contents:
    """Read when asked for and kept, for all selections of the version together. Pickles as its address.

    `labels`: the version of the labels that its episodes are read with; None: as the robots told them.
    """

    def __init__(self, storage: Storage, name: str, manifest: Manifest, labels: Manifest | None = None) -> None:
        self.storage, self.name, self.manifest, self.labels = storage, name, manifest, labels
        self._tables: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (Contents, (self.storage, self.name, self.manifest, self.labels))

    def table(self, name: str) -> Any:
        """A `lance.LanceDataset` at this version. Raises `NotFound` for a table that it does not have."""
        if name not in self._tables:
            self._tables[name] = open_table(self.storage, f"{DATASETS}/{self.name}", self.manifest, name)
        return self._tables[name]

    @cached_property
    def episodes(self) -> pa.Table:
        """All rows of `episodes` with the labels applied, by (robot, start, id), without the long columns."""
        names = [name for name in self.table("episodes").schema.names if name not in LONG]
        rows = read(self.table("episodes"), columns=names)
        labels = current(self.storage, self.labels)
        if not len(labels):
            return rows.sort_by(ORDER).append_column("labels", _no_maps(len(rows)))
        return applied(rows, labels)

    def long(self, episode_ids: pa.Array | None = None) -> pa.Table:
        """The long columns of these episodes, or of all, with `episode_id`; in any order."""
        where = None if episode_ids is None else contains("episode_id", episode_ids.to_pylist())
        return read(self.table("episodes"), columns=["episode_id", *LONG], filter=where)

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted({task or "" for task in self.episodes["task"].unique().to_pylist()}))

    @cached_property
    def camera_names(self) -> list[str]:
        names = self.table("steps").schema.names
        found = [name.removesuffix("_gop") for name in names if name.endswith("_gop")]
        return [name for name in found if f"{name}_k" in names]

    @cached_property
    def columns(self) -> dict[str, Column]:
        return {
            name: Column(it["size"], tuple(it["names"]) if it["names"] else None, it["policy"], it["tolerance_ns"])
            for name, it in self.declared.items()
            if name not in self.camera_names
        }

    @cached_property
    def cameras(self) -> dict[str, Camera]:
        renditions: dict[str, dict[str, Size]] = {name: {} for name in self.camera_names}
        if renditions and "gops" in self.manifest.tables:
            view = View("gops", self.table("gops"), columns=("camera", "rendition", "height", "width"))
            for row in query(_RENDITIONS, [view]).to_pylist():
                renditions.setdefault(row["camera"], {})[row["rendition"]] = (row["height"], row["width"])
        tolerance = {name: it["tolerance_ns"] for name, it in self.declared.items()}
        return {name: Camera(tolerance.get(name, CAMERA_TOLERANCE_NS), sizes) for name, sizes in renditions.items()}

    @cached_property
    def declared(self) -> dict[str, Any]:
        """What the episodes say of their columns; where they differ the first of them that says something."""
        declared: dict[str, dict[str, Any]] = {}
        for text in self._told().drop_null().unique().to_pylist():
            for name, about in json.loads(text).items():
                declared[name] = about | {key: v for key, v in declared.get(name, {}).items() if v is not None}
        return declared

    def _told(self) -> Any:
        """`columns` of all episodes, or of evenly chosen ones where there are so many that it would take long: those
        of one spec say the same."""
        table = self.table("episodes")
        count = table.count_rows()
        if count <= _ASKED:
            return read(table, columns=["columns"])["columns"]
        chosen = np.unique(np.linspace(0, count - 1, _ASKED).round().astype(np.int64))
        return table.take(chosen.tolist(), columns=["columns"])["columns"]


def _no_maps(count: int) -> Any:
    """So many empty maps."""
    nothing = pa.array([], pa.string())
    return pa.MapArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), nothing, nothing)
