"""What a training sample is made of: columns and cameras at offsets, checked against a dataset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataset_catalog.errors import WindowError
from dataset_catalog.sampling import Policy

if TYPE_CHECKING:
    from dataset_catalog.contents import Camera
    from dataset_catalog.dataset import Dataset
    from dataset_catalog.video import Size

_META = {"task", "episode_id", "t_ns", "sample_id"}  # keys of a batch that are no observation


@dataclass(frozen=True, slots=True)
class ColumnWindow:
    """A column at `offsets_ns` from the step's time, read from its series."""

    name: str
    offsets_ns: tuple[int, ...]
    is_action: bool
    size: int
    policy: Policy
    tolerance_ns: int


@dataclass(frozen=True, slots=True)
class CameraWindow:
    """A camera's frames nearest to `offsets_ns` from the step's time; of its renditions the first an episode has.

    size  (height, width) of the pictures that come out
    """

    name: str
    offsets_ns: tuple[int, ...]
    tolerance_ns: int
    renditions: tuple[str, ...]
    size: Size


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """All that decides what is in a sample, given the episode and the step. `image_size` is (height, width)."""

    columns: tuple[ColumnWindow, ...]
    cameras: tuple[CameraWindow, ...]
    image_size: Size | None = None


def horizon(seconds: float, hz: float) -> tuple[float, ...]:
    """Offsets 0, 1/hz, 2/hz … below `seconds`: `horizon(0.8, hz=10)` is the eight of 0.0 to 0.7.

    Raises `WindowError` unless both are positive.
    """
    if not (seconds > 0 and hz > 0):
        raise WindowError(f"a horizon needs seconds > 0 and hz > 0, got {seconds} and {hz}")
    return tuple(k / hz for k in range(max(1, round(seconds * hz))))


def plan(
    dataset: Dataset,
    observations: Mapping[str, Sequence[float]],
    actions: Mapping[str, Sequence[float]],
    *,
    image_size: Size | None = None,
    rendition: str | None = None,
) -> WindowSpec:
    """The spec of `Dataset.windows`' arguments. Raises `WindowError` for what does not fit the dataset."""
    _check_names(dataset, observations, actions)
    if image_size is not None and min(image_size) < 1:
        raise WindowError(f"image_size is (height, width) of at least 1, got {image_size}")
    return WindowSpec(
        tuple(
            _column(dataset, name, offsets, is_action=group is actions)
            for group in (observations, actions)
            for name, offsets in group.items()
            if name in dataset.columns
        ),
        tuple(
            _camera(name, dataset.cameras[name], offsets, image_size, rendition)
            for name, offsets in observations.items()
            if name in dataset.cameras
        ),
        image_size,
    )


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
    if {*observations, *actions} & _META:
        raise WindowError(f"a batch has keys of its own named {sorted(_META)}")


def _column(dataset: Dataset, name: str, offsets: Sequence[float], *, is_action: bool) -> ColumnWindow:
    column = dataset.columns[name]
    return ColumnWindow(name, _to_ns(name, offsets), is_action, column.size, column.policy, column.tolerance_ns)


def _camera(
    name: str, camera: Camera, offsets: Sequence[float], image_size: Size | None, rendition: str | None
) -> CameraWindow:
    renditions = prefer(name, camera, image_size, rendition)
    size = image_size or camera.renditions[renditions[0]]
    return CameraWindow(name, _to_ns(name, offsets), camera.tolerance_ns, renditions, size)


def _to_ns(name: str, offsets: Sequence[float]) -> tuple[int, ...]:
    if not offsets or not all(math.isfinite(offset) for offset in offsets):
        raise WindowError(f"{name} needs at least one finite offset in seconds, got {list(offsets)}")
    return tuple(round(offset * 1e9) for offset in offsets)


def prefer(name: str, camera: Camera, image_size: Size | None, rendition: str | None) -> tuple[str, ...]:
    """The renditions, the preferred first: large enough, the fewest pixels, a re-encoding (it decodes faster).

    Where none is large enough, or no size is asked for, the largest comes first.
    """
    if not camera.renditions or (rendition and rendition not in camera.renditions):
        raise WindowError(f"{name} has no video {rendition or ''}; its renditions: {sorted(camera.renditions)}")
    if rendition is not None:
        return (rendition,)

    def cost(item: tuple[str, Size]) -> tuple[bool, int, bool, str]:
        label, (height, width) = item
        large_enough = image_size is not None and height >= image_size[0] and width >= image_size[1]
        return not large_enough, height * width * (1 if large_enough else -1), label == "original", label

    return tuple(label for label, _ in sorted(camera.renditions.items(), key=cost))
