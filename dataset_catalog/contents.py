"""What a version of a dataset holds: its tables, all its episodes, and what its columns and cameras mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dataset_catalog.sampling import Policy
from dataset_catalog.sql import View, query
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import DATASETS, Manifest

if TYPE_CHECKING:
    from dataset_catalog.video import Size

CAMERA_TOLERANCE_NS = 50_000_000  # of a camera that `episodes.columns` does not list

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
    """Read when asked for and kept, for all selections of the version together. Pickles as its address."""

    def __init__(self, storage: Storage, name: str, manifest: Manifest) -> None:
        self.storage, self.name, self.manifest = storage, name, manifest
        self._tables: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (Contents, (self.storage, self.name, self.manifest))

    def table(self, name: str) -> Any:
        """A `lance.LanceDataset` at this version. Raises `NotFound` for a table that it does not have."""
        if name not in self._tables:
            self._tables[name] = open_table(self.storage, f"{DATASETS}/{self.name}", self.manifest, name)
        return self._tables[name]

    @cached_property
    def episodes(self) -> pa.Table:
        """All rows of `episodes`, by (robot, start, id)."""
        order = [(name, "ascending") for name in ("robot_id", "start_ns", "episode_id")]
        return self.table("episodes").to_table().sort_by(order)

    @cached_property
    def camera_names(self) -> list[str]:
        names = self.table("steps").schema.names
        found = [name.removesuffix("_gop") for name in names if name.endswith("_gop")]
        return [name for name in found if f"{name}_k" in names]

    @cached_property
    def columns(self) -> dict[str, Column]:
        return {
            name: Column(it["size"], tuple(it["names"]) if it["names"] else None, it["policy"], it["tolerance_ns"])
            for name, it in self._declared.items()
            if name not in self.camera_names
        }

    @cached_property
    def cameras(self) -> dict[str, Camera]:
        renditions: dict[str, dict[str, Size]] = {name: {} for name in self.camera_names}
        if renditions and "gops" in self.manifest.tables:
            view = View("gops", self.table("gops"), columns=("camera", "rendition", "height", "width"))
            for row in query(_RENDITIONS, [view]).to_pylist():
                renditions.setdefault(row["camera"], {})[row["rendition"]] = (row["height"], row["width"])
        tolerance = {name: it["tolerance_ns"] for name, it in self._declared.items()}
        return {name: Camera(tolerance.get(name, CAMERA_TOLERANCE_NS), sizes) for name, sizes in renditions.items()}

    @cached_property
    def _declared(self) -> dict[str, Any]:
        """What the episodes say of their columns; where they differ the first that says something."""
        declared: dict[str, dict[str, Any]] = {}
        for text in self.episodes["columns"].drop_null().unique().to_pylist():
            for name, about in json.loads(text).items():
                declared[name] = about | {key: v for key, v in declared.get(name, {}).items() if v is not None}
        return declared
