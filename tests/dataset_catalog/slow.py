"""What a window is, written as slowly and as plainly as possible: look through every value and every frame.

Nothing of `dataset_catalog` is used but `Steps`, which is how ticks are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from dataset_catalog.spec import Steps


@dataclass(frozen=True)
class Asked:
    """What one calls `Dataset.windows` with. `absolute`: elements that stay as they are; `scaling`: (middle, width)."""

    observations: Mapping[str, Any]
    actions: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, str] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    relative: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    scaling: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


def sample(episode: Any, step: int, asked: Asked, columns: Mapping[str, Any], cameras: Mapping[str, Any]) -> Any:
    """The window of a step as a dict: name → values, `name_valid`, `name_age_ns`, every one with an axis of offsets.

    columns  name → `size`, `policy`, `tolerance_ns`;  cameras  name → `size`, `tolerance_ns`
    """
    found: dict[str, Any] = {"t_ns": episode.steps[step], "task": episode.task or ""}
    for name, offsets in {**asked.observations, **asked.actions}.items():
        if name in columns:
            rows = [_value(episode, name, columns[name], *when) for when in _times(episode, step, offsets)]
            rows = _changed(episode, step, name, rows, asked, columns)
        else:
            rows = [_picture(episode, name, cameras[name], asked, *when) for when in _times(episode, step, offsets)]
        values, valid, age_ns = zip(*rows, strict=True)
        found |= {name: np.array(values), f"{name}_valid": list(valid), f"{name}_age_ns": list(age_ns)}
    return found


def _times(episode: Any, step: int, offsets: Any) -> list[tuple[int, bool]]:
    """Each time asked for, moved to the episode's edge where it lies outside, and whether it lies inside."""
    if isinstance(offsets, Steps):
        last = len(episode.steps) - 1
        ticks = [step + tick for tick in offsets.ticks]
        return [(episode.steps[min(max(tick, 0), last)], 0 <= tick <= last) for tick in ticks]
    times = [episode.steps[step] + round(1e9 * s) for s in (offsets if isinstance(offsets, list) else [offsets])]
    start, end = episode.start_ns, episode.end_ns
    return [(min(max(t, start), end - 1), start <= t < end) for t in times]


def _value(episode: Any, name: str, about: Any, at: int, inside: bool) -> tuple[np.ndarray, bool, int]:
    """(value, valid, age) of a column at a time."""
    series, tolerance = episode.series[name], about["tolerance_ns"]
    if about["policy"] == "nearest":
        t, value = min(series, key=lambda item: (abs(item[0] - at), item[0]))
        return value, inside and abs(at - t) <= tolerance, at - t
    before = [item for item in series if item[0] <= at]
    after = [item for item in series if item[0] >= at]
    if not before:
        return series[0][1], False, at - series[0][0]
    t0, v0 = before[-1]
    if about["policy"] == "previous" or not after:
        return v0, inside and about["policy"] == "previous" and at - t0 <= tolerance, at - t0
    t1, v1 = after[0]
    w = 0.0 if t1 == t0 else (at - t0) / (t1 - t0)
    mixed = arc(v0, v1, w) if about["policy"] == "slerp" else v0.astype(float) * (1 - w) + v1.astype(float) * w
    return mixed.astype(np.float32), inside and max(at - t0, t1 - at) <= tolerance, at - t0


def arc(a: np.ndarray, b: np.ndarray, w: float) -> np.ndarray:
    """By bisection: the middle of two unit quaternions is their normalized sum."""
    low, high, a, b = 0.0, 1.0, a.astype(float), b.astype(float)
    b = -b if a @ b < 0 else b
    for _ in range(40):
        middle = (a + b) / np.linalg.norm(a + b)
        if w < (low + high) / 2:
            b, high = middle, (low + high) / 2
        else:
            a, low = middle, (low + high) / 2
    return (a + b) / np.linalg.norm(a + b)


def _changed(
    episode: Any, step: int, name: str, rows: list[Any], asked: Asked, columns: Mapping[str, Any]
) -> list[Any]:
    """The rows of a column, relative and normalized where that is asked for."""
    if name in asked.relative:
        other, absolute = asked.relative[name]
        reference, is_known, _ = _value(episode, other, columns[other], episode.steps[step], True)
        taken = np.array([0 if i in absolute else reference[i] for i in range(columns[name]["size"])], np.float32)
        rows = [(value - taken, valid and is_known, age) for value, valid, age in rows]
    if name in asked.scaling:
        middle, width = (np.array(one) for one in asked.scaling[name])
        rows = [((value - middle) / width, valid, age) for value, valid, age in rows]
    return rows


def _picture(episode: Any, name: str, about: Any, asked: Asked, at: int, inside: bool) -> tuple[Any, bool, int]:
    """(pixels, valid, age) of the nearest frame; black where the episode does not have the camera."""
    size = asked.image_size or about["size"]
    if name not in episode.frames:
        return np.zeros((3, *size), np.uint8), False, 0
    t, frame = min(episode.frames[name], key=lambda item: (abs(item[0] - at), item[0]))
    image = fitted(frame, size, asked.fit.get(name, "stretch")).transpose(2, 0, 1)
    return image, inside and abs(at - t) <= about["tolerance_ns"], at - t


def fitted(frame: Any, size: tuple[int, int], fit: str, scale: Any = None) -> np.ndarray:
    """(height, width, 3) RGB: scaled, and then the middle of it pixel by pixel."""
    factors = [want / have for want, have in zip(size, (frame.height, frame.width), strict=True)]
    one = {"stretch": None, "crop": max(factors), "letterbox": min(factors)}[fit]
    high, wide = (
        int(have * (one or own) + 0.5) for have, own in zip((frame.height, frame.width), factors, strict=True)
    )
    image = (scale or by_libswscale)(frame, high, wide)
    (y, from_y), (x, from_x) = _middle(size[0], high), _middle(size[1], wide)
    out = np.zeros((*size, 3), np.uint8)
    out[np.ix_(y, x)] = image[np.ix_(from_y, from_x)]
    return out


def _middle(outer: int, inner: int) -> tuple[list[int], list[int]]:
    """Which of `outer` pixels show one of `inner`, and which, where the middles meet; an odd rest is larger behind."""
    away = (outer - inner) // 2 if inner <= outer else -((inner - outer) // 2)
    here = [pixel for pixel in range(outer) if 0 <= pixel - away < inner]
    return here, [pixel - away for pixel in here]


def by_libswscale(frame: Any, high: int, wide: int) -> np.ndarray:
    """Scaled by its filter AREA, colour at full resolution."""
    planar = frame.reformat(width=wide, height=high, format="gbrp", interpolation="AREA", threads=1)
    return np.asarray(planar.to_ndarray())


def by_area_mean(frame: Any, high: int, wide: int) -> np.ndarray:
    """Each plane's mean over the area that a pixel covers, then BT.601, limited range, in floating point."""
    raw, (h, w) = frame.to_ndarray().reshape(-1), (frame.height, frame.width)
    luma, rest = raw[: h * w].reshape(h, w), raw[h * w :].reshape(2, h // 2, w // 2)
    y, u, v = (cv2.resize(one.astype(float), (wide, high), interpolation=cv2.INTER_AREA) for one in (luma, *rest))
    y, u, v = (y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
