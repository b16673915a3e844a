"""A run of steps on its way to another format: its numbers as their features had them, its task and its films."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.errors import FormatError
from dataset_catalog.export_film import OutFilm, StoredFilm
from dataset_catalog.selection import Run
from dataset_catalog.tables import contains

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset

_PREFIXES = {"action": "action"}  # columns whose feature has no `observation.` before it


@dataclass(frozen=True)
class Features:
    """Column or camera → the feature's name, and what `meta/info.json` says of it."""

    names: Mapping[str, str]
    about: Mapping[str, dict[str, Any]]

    @classmethod
    def of(cls, dataset: Dataset) -> Features:
        """As they were, of an imported dataset; else LeRobot's names, and float32."""
        names, about = {}, {}
        for name, column in dataset.columns.items():
            known = dataset.declared(name).get("lerobot")
            names[name] = known["name"] if known else _PREFIXES.get(name, f"observation.{name}")
            element = list(column.names) if column.names else None
            about[names[name]] = _told(known) or {"dtype": "float32", "shape": [column.size], "names": element}
        for name in dataset.cameras:
            known = dataset.declared(name).get("lerobot")
            names[name] = known["name"] if known else f"observation.images.{name}"
        return cls(names, about)


@dataclass(frozen=True)
class OutRun:
    """Consecutive steps of one episode. `t_ns` (n,); `numbers` feature → (n, …) in the feature's dtype and shape."""

    run: Run
    task: str
    t_ns: NDArray[np.int64]
    numbers: dict[str, NDArray[Any]]
    frame_t_ns: dict[str, NDArray[np.int64]]
    nulls: dict[str, int]

    def __len__(self) -> int:
        return len(self.t_ns)


def runs_of(dataset: Dataset, features: Features) -> Iterator[OutRun]:
    """Every run of the selection, with its numbers. A value that a step does not have is NaN, and counted.

    Raises `FormatError` where such a feature has no NaN.
    """
    tasks = dict(zip(*(dataset.episodes()[name].to_pylist() for name in ("episode_id", "task")), strict=True))
    for run in dataset.selection.runs:
        where = f"{contains('episode_id', [run.episode_id])} AND step >= {run.first} AND step < {run.end}"
        rows = dataset.table("steps").to_table(filter=where).sort_by("step")
        t_ns = rows["t_ns"].to_numpy()
        numbers, nulls = {}, {}
        for name in dataset.columns:
            feature = features.names[name]
            numbers[feature], nulls[name] = _numbers(name, rows[name], features.about[feature])
        ages = {name: rows[f"{name}_age_ns"].to_numpy() for name in dataset.cameras}
        frames = {
            name: np.where(np.isnan(age), -1, t_ns - np.nan_to_num(age).astype(np.int64)) for name, age in ages.items()
        }
        yield OutRun(run, tasks[run.episode_id] or "", t_ns, numbers, frames, {n: c for n, c in nulls.items() if c})


def film_of(dataset: Dataset, run: OutRun, camera: str) -> tuple[StoredFilm, OutFilm]:
    """A camera's pictures of a run: what is stored, and what to write."""
    stored = StoredFilm(dataset.table("gops"), run.run.episode_id, camera)
    return stored, stored.out(run.frame_t_ns[camera].astype(np.int64))


def _told(known: dict[str, Any] | None) -> dict[str, Any] | None:
    return {name: value for name, value in known.items() if name != "name"} if known else None


def _numbers(name: str, column: Any, about: Mapping[str, Any]) -> tuple[NDArray[Any], int]:
    missing = column.null_count
    dtype = np.dtype(about["dtype"])
    if missing and dtype.kind != "f":
        raise FormatError(f"{missing} steps have no {name}, and {dtype} has nothing that says so")
    size = int(np.prod(about["shape"], dtype=np.int64))
    values = np.full((len(column), size), np.nan, np.float32)
    known = np.array(column.is_valid())
    values[known] = column.drop_null().combine_chunks().flatten().to_numpy().reshape(-1, size)
    return values.astype(dtype).reshape(len(column), *about["shape"]), missing
