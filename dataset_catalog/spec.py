"""What a training sample is made of: columns and cameras at offsets, checked against a dataset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from dataset_catalog.encoding import is_for
from dataset_catalog.errors import WindowError
from dataset_catalog.fit import FITS, Fit, Size, scaled
from dataset_catalog.names import NAMINGS, Naming, check_keys
from dataset_catalog.relative import Relative, RelativeTo, plan_relative
from dataset_catalog.sampling import Policy
from dataset_catalog.scaling import Scaling
from dataset_catalog.transform import Transform, name_of

if TYPE_CHECKING:
    from dataset_catalog.contents import Camera
    from dataset_catalog.dataset import Dataset
    from dataset_catalog.layout import Entry


@dataclass(frozen=True, slots=True)
class Steps:
    """Offsets in ticks of the dataset's reference clock: see `steps`."""

    ticks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Offsets:
    """Where a window looks: `values` are nanoseconds from the step's time, or ticks of the reference clock.

    A single one has no axis of its own in the batch.
    """

    values: tuple[int, ...]
    unit: Literal["ns", "ticks"] = "ns"
    is_single: bool = False

    def __len__(self) -> int:
        return len(self.values)


NOW = Offsets((0,))
MOST = 10_000  # offsets of a horizon
FARTHEST = 2**30  # seconds, or ticks, from a step: its time in ns stays an int64
LARGEST = 16_384  # pixels of a side
_NUMBER = (int, float, np.integer, np.floating)
Asked = float | Sequence[float] | Steps  # seconds from the step's time, one or several, or ticks


@dataclass(frozen=True, slots=True)
class ColumnWindow:
    """A column at offsets from the step, read from its series; `relative` and then `scaling` are applied to it."""

    name: str
    offsets: Offsets
    is_action: bool
    size: int
    policy: Policy
    tolerance_ns: int
    relative: Relative | None = None
    scaling: Scaling | None = None


@dataclass(frozen=True, slots=True)
class CameraWindow:
    """A camera's frames nearest to offsets from the step; of its renditions the first that an episode has.

    size  (height, width) of the pictures that come out
    fit   how frames of other proportions become that
    """

    name: str
    offsets: Offsets
    tolerance_ns: int
    renditions: tuple[str, ...]
    size: Size
    fit: Fit = "stretch"


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """All that decides what is in a sample, given the episode and the step.

    image_size  (height, width) that frames are scaled to; None leaves them as they are
    references  the columns that others are relative to, at the step itself
    naming      what the keys of a batch are called
    padded      of a mixture of datasets: all keys, and the shapes that they are padded to
    transform   the name of the function that each sample goes through at last
    """

    columns: tuple[ColumnWindow, ...]
    cameras: tuple[CameraWindow, ...]
    image_size: Size | None = None
    references: tuple[ColumnWindow, ...] = ()
    naming: Naming = "fleetfeed"
    padded: tuple[Entry, ...] = ()
    transform: str | None = None

    @property
    def series(self) -> dict[str, int]:
        """The columns to read, and the size of their vectors."""
        return {column.name: column.size for column in (*self.columns, *self.references)}

    def scaled(self, scaling: Mapping[str, Scaling]) -> WindowSpec:
        """With columns normalized."""
        return replace(self, columns=tuple(replace(c, scaling=scaling.get(c.name)) for c in self.columns))


def horizon(seconds: float, hz: float) -> tuple[float, ...]:
    """Offsets 0, 1/hz, 2/hz … below `seconds`: `horizon(0.8, hz=10)` is the eight of 0.0 to 0.7.

    Raises `WindowError` unless both are positive, and for more offsets than a window can have.
    """
    if not (seconds > 0 and hz > 0 and seconds * hz <= MOST):
        raise WindowError(f"a horizon needs seconds > 0, hz > 0 and at most {MOST} offsets, got {seconds} and {hz}")
    return tuple(k / hz for k in range(max(1, round(seconds * hz))))


def steps(*ticks: int) -> Steps:
    """Offsets in ticks of the reference clock: `steps(-1, 0)` is the step before and the step itself.

    A column is read at the tick's own time, as the row of `steps` has it. Raises `WindowError` for what is no integer.
    """
    if not ticks or not all(type(tick) is int and abs(tick) < FARTHEST for tick in ticks):
        raise WindowError(f"steps takes at least one integer, none beyond {FARTHEST}, got {list(ticks)}")
    return Steps(ticks)


def plan(
    dataset: Dataset,
    observations: Mapping[str, Asked],
    actions: Mapping[str, Asked],
    *,
    image_size: Size | None = None,
    rendition: str | None = None,
    fit: Fit | Mapping[str, Fit] = "stretch",
    relative: Mapping[str, str | RelativeTo] | None = None,
    naming: Naming = "fleetfeed",
    transform: Transform | None = None,
) -> WindowSpec:
    """The spec of `Dataset.windows`' arguments, not yet normalized. Raises `WindowError` for what does not fit."""
    _check_kinds(observations, actions, relative or {}, transform)
    _check_names(dataset, observations, actions)
    _check_choices(image_size, naming)
    differences = _relatives(dataset, {*observations, *actions}, relative or {})
    fits = _fits(fit, [name for name in observations if name in dataset.cameras])
    spec = WindowSpec(
        tuple(
            replace(_column(dataset, name, offsets, is_action=group is actions), relative=differences.get(name))
            for group in (observations, actions)
            for name, offsets in group.items()
            if name in dataset.columns
        ),
        tuple(
            _camera(name, dataset.cameras[name], observations[name], image_size, fit, rendition)
            for name, fit in fits.items()
        ),
        image_size,
        tuple(
            _column(dataset, name, [0.0], is_action=False) for name in sorted({one.to for one in differences.values()})
        ),
        naming,
        transform=transform and name_of(transform),
    )
    check_keys(spec)
    return spec


def _check_kinds(observations: object, actions: object, relative: object, transform: object) -> None:
    """What a person mistakes for something else, told before it is looked into."""
    for what, asked in {"observations": observations, "actions": actions, "relative": relative}.items():
        if not isinstance(asked, Mapping) or not all(isinstance(name, str) for name in asked):
            raise WindowError(f"{what} are given by name, such as {{'state': ...}}, got {asked!r}")
    if transform is not None and not callable(transform):
        raise WindowError(f"a transform is a function of a sample and a generator, got {transform!r}")


def _is_size(asked: object) -> bool:
    def fits(side: object) -> bool:
        return isinstance(side, int | np.integer) and not isinstance(side, bool) and 1 <= int(side) <= LARGEST

    return isinstance(asked, tuple | list) and len(asked) == 2 and all(map(fits, asked))


def _check_names(dataset: Dataset, observations: Iterable[str], actions: Iterable[str]) -> None:
    columns, cameras = set(dataset.columns), set(dataset.cameras)
    unknown = (set(observations) - columns - cameras) | (set(actions) - columns)
    if unknown:
        raise WindowError(
            f"no column or camera {sorted(unknown)}; columns: {sorted(columns)}, "
            f"cameras (for observations only): {sorted(cameras)}"
        )
    if set(observations) & set(actions):
        raise WindowError(
            f"{sorted(set(observations) & set(actions))} cannot be observation and action: one key a batch"
        )


def _check_choices(image_size: Size | None, naming: str) -> None:
    if image_size is not None and not _is_size(image_size):
        raise WindowError(f"image_size is (height, width) of at least 1 and at most {LARGEST}, got {image_size!r}")
    if naming not in NAMINGS:
        raise WindowError(f"names is one of {', '.join(NAMINGS)}, got {naming!r}")


def _relatives(dataset: Dataset, selected: set[str], relative: Mapping[str, str | RelativeTo]) -> dict[str, Relative]:
    unknown = set(relative) - (selected & set(dataset.columns))
    if unknown:
        raise WindowError(f"{sorted(unknown)} cannot be relative: no column of these windows")
    return {name: plan_relative(name, asked, dataset.columns) for name, asked in relative.items()}


def _fits(fit: Fit | Mapping[str, Fit], cameras: Sequence[str]) -> dict[str, Fit]:
    """How each camera's pictures are fitted."""
    fits: dict[str, Fit] = dict(fit) if isinstance(fit, Mapping) else dict.fromkeys(cameras, fit)
    if set(fits) - set(cameras) or set(fits.values()) - set(FITS):
        raise WindowError(f"fit is one of {', '.join(FITS)}, for all cameras or each of {list(cameras)}, got {fit!r}")
    return {name: fits.get(name, "stretch") for name in cameras}


def _column(dataset: Dataset, name: str, offsets: Asked, *, is_action: bool) -> ColumnWindow:
    column = dataset.columns[name]
    return ColumnWindow(name, _offsets(name, offsets), is_action, column.size, column.policy, column.tolerance_ns)


def _camera(
    name: str, camera: Camera, offsets: Asked, image_size: Size | None, fit: Fit, rendition: str | None
) -> CameraWindow:
    renditions = prefer(name, camera, image_size, rendition, fit)
    size = image_size or camera.renditions[renditions[0]]
    return CameraWindow(name, _offsets(name, offsets), camera.tolerance_ns, renditions, size, fit)


def _offsets(name: str, asked: Asked) -> Offsets:
    if isinstance(asked, Steps):
        return Offsets(asked.ticks, "ticks")
    is_single = isinstance(asked, _NUMBER)
    seconds = [asked] if isinstance(asked, _NUMBER) else list(asked) if isinstance(asked, Iterable) else []
    if not seconds or not all(isinstance(offset, _NUMBER) and abs(offset) < FARTHEST for offset in seconds):
        raise WindowError(f"{name} needs at least one finite offset in seconds, got {asked!r}")
    return Offsets(tuple(round(float(offset) * 1e9) for offset in seconds), is_single=is_single)


def prefer(
    name: str, camera: Camera, image_size: Size | None, rendition: str | None, fit: Fit = "stretch"
) -> tuple[str, ...]:
    """The renditions, the preferred first: large enough, the fewest pixels, a re-encoding (it decodes faster).

    Where none is large enough, or no size is asked for, the largest comes first.
    """
    if not camera.renditions or (rendition and rendition not in camera.renditions):
        raise WindowError(f"{name} has no video {rendition or ''}; its renditions: {sorted(camera.renditions)}")
    if rendition is not None:
        return (rendition,)
    fitting = {label: size for label, size in camera.renditions.items() if is_for(label, size=image_size, fit=fit)}
    if not fitting:
        raise WindowError(
            f"{name} has only renditions of another size or fit: {sorted(camera.renditions)}; name one, or its size"
        )

    def cost(item: tuple[str, Size]) -> tuple[bool, int, bool, str]:
        label, (height, width) = item
        needed = scaled((height, width), image_size, fit) if image_size else (math.inf, math.inf)
        large_enough = height >= needed[0] and width >= needed[1]
        return not large_enough, height * width * (1 if large_enough else -1), label == "original", label

    return tuple(label for label, _ in sorted(fitting.items(), key=cost))
