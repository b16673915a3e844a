"""Normalizing by the training split's statistics, and the way back from a policy's output to a robot's command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.episodes import EpisodeReader
from dataset_catalog.errors import WindowError
from dataset_catalog.gather import gather_columns, visits
from dataset_catalog.relative import Relative
from dataset_catalog.scaling import Measured, Scaling, Values
from dataset_catalog.whole_file import write_whole

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset
    from dataset_catalog.spec import WindowSpec

FORMAT = "fleetfeed/normalizer/1"
MEASURED = 16_384  # windows that are looked into at most: all, or so many evenly spread
_VALUES = 2**20  # and values of an element
_AT_ONCE = 1_024
_SERIES_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to a column: first made relative, then scaled."""

    scaling: Scaling | None = None
    relative: Relative | None = None


@dataclass(frozen=True)
class Normalizer:
    """What was done to each column of some windows, and how to undo it. Saved beside a checkpoint, it goes with it.

    windows.normalizer.save("checkpoint.json")
    normalizer = Normalizer.load("checkpoint.json")
    state = normalizer.apply("state", robot_state)
    command = normalizer.undo("action", policy(state), state=robot_state)
    """

    changes: Mapping[str, Change]

    @classmethod
    def of(cls, spec: WindowSpec) -> Normalizer:
        return cls({c.name: Change(c.scaling, c.relative) for c in spec.columns if c.scaling or c.relative})

    def apply(self, column: str, values: Any) -> Any:
        """Scale what was measured (…, D), an array or a tensor, as the windows did; a relative column once it is."""
        scaling = self._change(column).scaling
        return values if scaling is None else scaling.apply(values)

    def undo(self, column: str, values: Any, **reference: Any) -> Any:
        """What a policy gave, (…, K, D), as the robot takes it; NumPy arrays or tensors.

        reference  of a relative column: what it is relative to, (…, R), as it was recorded, `state=robot_state`

        Raises `WindowError` where that is not given.
        """
        change = self._change(column)
        values = values if change.scaling is None else change.scaling.undo(values)
        if change.relative is None:
            return values
        if set(reference) != {change.relative.to}:
            raise WindowError(f"{column} is relative to {change.relative.to}: undo takes it, got {sorted(reference)}")
        return change.relative.undo(values, reference[change.relative.to])

    def save(self, path: str | Path) -> Path:
        """Raises `CatalogError` where it cannot be written."""
        changes = {name: asdict(change) for name, change in self.changes.items()}
        return write_whole(path, json.dumps({"format": FORMAT, "changes": changes}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Normalizer:
        """Raises `WindowError` for a file that is no saved normalizer."""
        try:
            saved = json.loads(Path(path).read_text())
            form, changes = saved["format"], {name: _change(change) for name, change in saved["changes"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WindowError(f"{path} is no saved normalizer: {type(error).__name__}: {error}") from error
        if form != FORMAT:
            raise WindowError(f"{path} has the format {form}, expected {FORMAT}")
        return cls(changes)

    def _change(self, column: str) -> Change:
        return self.changes.get(column, Change())


def normalized(spec: WindowSpec, dataset: Dataset, asked: Mapping[str, str] | Normalizer) -> WindowSpec:
    """The spec with its columns normalized: by a method each, or as another windows' normalizer does it.

    Statistics are those of the training split: of a dataset that is a part of a split with a share `train`, that of
    `train`, else its own. Raises `WindowError` for a column that the windows do not have, and where that part is empty.
    """
    if not isinstance(asked, Mapping | Normalizer):
        raise WindowError(f"normalize is a method for each column, such as {{'state': 'mean_std'}}, got {asked!r}")
    columns = {column.name: column for column in spec.columns}
    unknown = set(asked.changes if isinstance(asked, Normalizer) else asked) - set(columns)
    if unknown:
        raise WindowError(f"{sorted(unknown)} cannot be normalized: no columns of these windows, {sorted(columns)} are")
    if isinstance(asked, Normalizer):
        differ = [name for name, change in asked.changes.items() if change.relative != columns[name].relative]
        if differ:
            raise WindowError(f"{differ} was normalized when it was relative to something else")
        return spec.scaled({name: change.scaling for name, change in asked.changes.items() if change.scaling})
    training = dataset.training
    if not len(training):
        raise WindowError("the training part of this selection is empty: give the normalizer of the training windows")
    measured = {name: _measure(training, spec, name, method) for name, method in asked.items()}
    return spec.scaled({name: Scaling.of(measured[name], method) for name, method in asked.items()})


def _measure(dataset: Dataset, spec: WindowSpec, name: str, method: str) -> Measured:
    """Of what is recorded in a column; of a relative one, and for quantiles, of the valid values that the windows hold.

    The dataset's own quantiles are within 1 % of a value's size: too coarse for a small range far from 0.
    """
    (column,) = (column for column in spec.columns if column.name == name)
    if column.relative is None and method != "q01_q99":
        return dataset.statistics(name)
    return Values(np.concatenate(list(_valid_values(dataset, replace(spec, columns=(column,), cameras=())))))


def _valid_values(dataset: Dataset, spec: WindowSpec) -> Iterator[NDArray[np.float32]]:
    """(n, D) of a single column's windows, some hundred at a time."""
    (column,) = spec.columns
    reader = EpisodeReader(dataset, columns=spec.series, cameras={}, max_bytes=_SERIES_BYTES)
    count = min(len(dataset), MEASURED, max(1, _VALUES // len(column.offsets)))
    windows = np.linspace(0, len(dataset) - 1, count).round().astype(np.int64)
    for first in range(0, count, _AT_ONCE):
        places = dataset.selection.locate(windows[first : first + _AT_ONCE])
        (got,) = gather_columns(spec, visits(places, reader)).values()
        yield got.values[got.valid]


def _change(saved: Mapping[str, Any]) -> Change:
    scaling, relative = saved["scaling"], saved["relative"]
    return Change(
        scaling and Scaling(tuple(scaling["middle"]), tuple(scaling["width"])),
        relative and Relative(relative["to"], tuple(relative["mask"])),
    )
