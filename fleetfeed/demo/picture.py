"""Draws capsules as a shaded picture with a pinhole camera and OpenCV: no GPU and no GL."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Camera:
    """A pinhole that looks at the robot from its front right; points are in m, pixels count from the top left."""

    width: int
    height: int

    @property
    def focal_px(self) -> float:
        return 1.55 * self.height

    def rays(self, pixels: Floats) -> Floats:
        """Directions in the world, of depth 1, through (..., 2) pixels: (..., 3)."""
        flat = (pixels - [self.width / 2, self.height / 2]) / self.focal_px
        return np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1) @ _AXES

    def see(self, points: Floats) -> tuple[Floats, Floats]:
        """Pixels (..., 2) and depths (...) of points (..., 3)."""
        seen = (points - _EYE) @ _AXES.T
        return seen[..., :2] / seen[..., 2:] * self.focal_px + [self.width / 2, self.height / 2], seen[..., 2]


def _look_at(eye: Floats, target: Floats) -> Floats:
    """The camera's axes in the world as rows: right, down, forward."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


_EYE = np.array([2.2, -2.2, 1.45])
_AXES = _look_at(_EYE, np.array([0.05, 0.0, 0.80]))
_LIGHT = np.array([0.35, -0.25, 1.0])  # towards it
_SKY_TOP, _SKY_LOW, _FLOOR, _LINES, _SHADOW, _STRAP = np.array(
    [(205, 170, 140), (240, 230, 222), (214, 212, 210), (170, 166, 162), (190, 182, 178), (110, 104, 100)], np.float64
)  # BGR


def draw(ends: Floats, *, radius: Floats, bgr: Floats, shoulders: Floats, camera: Camera) -> Picture:
    """Capsules by their end points (n, 2, 3) m, radii (n,) m and colours (n, 3), hung at `shoulders` (m, 3) m.

    Returns (height, width, 3) BGR.
    """
    picture = _background(camera).copy()
    _draw_shadow(picture, ends, radius, camera=camera)
    _draw_straps(picture, shoulders, camera=camera)
    _draw_capsules(picture, ends, radius, bgr, camera=camera)
    return picture


@lru_cache(maxsize=4)
def _background(camera: Camera) -> Picture:
    """Sky, and a floor with lines every half metre that fade into the distance."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = camera.rays(np.stack([columns, rows], axis=-1))
    rise = rays[..., 2:] / np.linalg.norm(rays, axis=-1, keepdims=True)
    sky = _SKY_LOW + (_SKY_TOP - _SKY_LOW) * np.clip(rise / 0.45, 0, 1)
    depth = -_EYE[2] / np.minimum(rays[..., 2:], -1e-3)
    where = (_EYE + rays * depth)[..., :2] / 0.5
    per_px = np.hypot(*np.gradient(where, axis=(0, 1)))
    line = np.clip(1.4 - np.abs(where - np.round(where)) / per_px, 0, 1) * np.clip(1.3 - 5 * per_px, 0, 1)
    line = line.max(axis=-1, keepdims=True)
    floor = _FLOOR + (_LINES - _FLOOR) * line
    near = np.clip(1.4 - depth / 8, 0, 1) * (rise < 0)
    picture: Picture = np.rint(sky + (floor - sky) * near).astype(np.uint8)
    picture.flags.writeable = False
    return picture


def _draw_shadow(picture: Picture, ends: Floats, radius: Floats, *, camera: Camera) -> None:
    """Soft: drawn at a quarter of the size, blurred, and multiplied in."""
    pixels, depth = camera.see(ends - ends[..., 2:] * _LIGHT / _LIGHT[2])
    light = np.full((camera.height // 4 + 1, camera.width // 4 + 1, 3), 255, np.uint8)
    thickness = 2 * radius * camera.focal_px / depth.mean(axis=1)
    _draw_lines(light, pixels / 4, np.tile(_SHADOW, (len(ends), 1)), thickness / 4)
    light = cv2.resize(cv2.GaussianBlur(light, (5, 5), 0), None, fx=4, fy=4)[: camera.height, : camera.width]
    cv2.multiply(picture, light, dst=picture, scale=1 / 255)


def _draw_straps(picture: Picture, shoulders: Floats, *, camera: Camera) -> None:
    overhead = shoulders * [0, 0.5, 0] + [0, 0, 2.4]
    pixels, _ = camera.see(np.stack([shoulders, overhead], axis=1))
    _draw_lines(picture, pixels, np.tile(_STRAP, (len(pixels), 1)), np.full(len(pixels), camera.height / 240))


def _draw_capsules(picture: Picture, ends: Floats, radius: Floats, bgr: Floats, *, camera: Camera) -> None:
    """Far ones first and darker; each an edge, a body, and two lighter stripes on the side of the light."""
    pixels, depth = camera.see(ends)
    away = depth.mean(axis=1)
    far_first = np.argsort(-away)
    pixels, away, radius, bgr = pixels[far_first], away[far_first], radius[far_first], bgr[far_first]

    share, extra_px, colour, white = np.array(
        [(1, 2, 0.45, 0), (1, 0, 1, 0), (0.62, 0, 0.88, 0.12), (0.25, 0, 0.65, 0.35)]
    ).T
    diameter = (2 * radius * camera.focal_px / away)[:, None]
    towards_light = (diameter * (1 - share))[:, :, None] * [-0.18, -0.22]
    shaded = bgr * np.clip(1 - 0.35 * (away - 2.8), 0.6, 1)[:, None]
    tones = shaded[:, None] * colour[:, None] + 255 * white[:, None]
    lines = pixels[:, None] + towards_light[:, :, None]
    _draw_lines(picture, lines.reshape(-1, 2, 2), tones.reshape(-1, 3), (diameter * share + extra_px).ravel())


def _draw_lines(picture: Picture, ends: Floats, bgr: Floats, thickness: Floats) -> None:
    """Round-ended lines, in order: ends (n, 2, 2) in pixels, colours (n, 3), thickness (n,) in pixels."""
    corners = np.rint(ends * 16).astype(int).tolist()
    whole_px = np.maximum(np.rint(thickness), 1).astype(int).tolist()
    for (start, end), colour, width in zip(corners, bgr.tolist(), whole_px, strict=True):
        cv2.line(picture, start, end, colour, width, cv2.LINE_AA, shift=4)
