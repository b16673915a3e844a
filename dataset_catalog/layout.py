"""Which keys a batch has, of what shapes; and padding, so that different datasets can stand in one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dataset_catalog.errors import WindowError

if TYPE_CHECKING:
    from dataset_catalog.spec import CameraWindow, ColumnWindow, WindowSpec

Kind = Literal["observation", "action", "camera"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One column or camera of a batch: `count` offsets, None for a single one without axis, of arrays of `shape`."""

    name: str
    kind: Kind
    count: int | None
    shape: tuple[int, ...]


def entries(spec: WindowSpec) -> tuple[Entry, ...]:
    """What the batches of a spec hold."""
    if spec.padded:
        return spec.padded
    columns = [_entry(c, "action" if c.is_action else "observation", (c.size,)) for c in spec.columns]
    return (*columns, *(_entry(c, "camera", (3, *c.size)) for c in spec.cameras))


def sample_bytes(spec: WindowSpec) -> int:
    """How much the columns and pictures of one window take, decoded."""
    return sum((e.count or 1) * math.prod(e.shape) * (1 if e.kind == "camera" else 4) for e in entries(spec))


def together(specs: Sequence[WindowSpec]) -> tuple[Entry, ...]:
    """The entries that hold those of all specs: every key that one of them has, each as wide as its widest.

    Raises `WindowError` where offsets or pictures of one name differ in number or size: those are not padded.
    """
    if len({spec.naming for spec in specs}) > 1:
        raise WindowError(f"windows that are mixed have the same names, got {[spec.naming for spec in specs]}")
    found: dict[str, Entry] = {}
    for entry in (entry for spec in specs for entry in entries(spec)):
        other = found.setdefault(entry.name, entry)
        wide = replace(other, shape=max(other.shape, entry.shape)) if entry.kind != "camera" else other
        if replace(entry, shape=wide.shape) != wide or (entry.kind == "camera" and entry != other):
            raise WindowError(f"{entry.name} is {other} in one dataset and {entry} in another")
        found[entry.name] = wide
    return tuple(found.values())


def pad(batch: dict[str, Any], spec: WindowSpec, count: int) -> None:
    """Add what the padded entries have more than the spec itself: masked keys, elements of 0, and which elements are.

    name_dim_mask  bool (B, D), for every column: the elements that this dataset has
    """
    for entry in spec.padded:
        if entry.name not in batch:
            batch |= _missing(entry, count)
        if entry.kind != "camera":
            _widen(batch, entry)


def squeeze(batch: dict[str, Any], spec: WindowSpec) -> None:
    """Take the axis of offsets away where there is a single one."""
    for entry in entries(spec):
        if entry.count is None:
            for key in keys(entry):
                batch[key] = batch[key][:, 0]


def keys(entry: Entry) -> tuple[str, str, str]:
    """An entry's keys that have an axis of offsets: its values, which of them hold, and their age."""
    mask = "is_pad" if entry.kind == "action" else "mask"
    return entry.name, f"{entry.name}_{mask}", f"{entry.name}_age_ns"


def _entry(window: ColumnWindow | CameraWindow, kind: Kind, shape: tuple[int, ...]) -> Entry:
    offsets = window.offsets
    return Entry(window.name, kind, None if offsets.is_single else len(offsets), shape)


def _missing(entry: Entry, count: int) -> dict[str, Any]:
    shape, is_action = (count, entry.count or 1), entry.kind == "action"
    value, mask, age = keys(entry)
    dtype, size = (np.uint8, entry.shape) if entry.kind == "camera" else (np.float32, (0,))
    return {value: np.zeros((*shape, *size), dtype), mask: np.full(shape, is_action), age: np.zeros(shape, np.int64)}


def _widen(batch: dict[str, Any], entry: Entry) -> None:
    values, (wide,) = batch[entry.name], entry.shape
    size = values.shape[-1]
    batch[entry.name] = np.pad(values, ((0, 0), (0, 0), (0, wide - size)))
    batch[f"{entry.name}_dim_mask"] = np.broadcast_to(np.arange(wide) < size, (len(values), wide)).copy()
