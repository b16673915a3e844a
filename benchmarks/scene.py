"""What a robot's head camera could see: a room, a pan and a nod, an arm that moves, a sensor's noise.

The pictures are drawn before anything is measured; x264 at the recorder's settings makes about 5 kB of one.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.camera import HEIGHT, WIDTH, Image

PICTURES = 80  # then it begins again; every motion has a whole number of periods in it
NOISE = 1.5  # standard deviation of a pixel, of 255
_PAN_PX, _NOD_PX = 120, 30


def write_pictures(path: Path) -> None:
    """Draw every picture, RGB, one after the other into a file that `camera.read_pictures` reads."""
    noise = np.random.default_rng(7)
    room = draw_room(noise)
    with path.open("wb") as file:
        for number in range(PICTURES):
            file.write(_picture(room, number / PICTURES, noise).tobytes())


def draw_room(noise: np.random.Generator) -> Image:
    """A wall with a picture rail, shelves and books, and a tiled floor; larger than what the camera sees of it."""
    height, width = HEIGHT + 2 * _NOD_PX, WIDTH + 2 * _PAN_PX
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    horizon = height * 0.62
    depth = 60.0 / np.maximum(rows - horizon + 8, 1)
    tile = (np.floor(depth * 9) + np.floor((columns - width / 2) * depth / 26)) % 2
    floor = 120 + 45 * tile * np.clip(1.6 - depth, 0.15, 1)
    wall = 190 - 40 * rows / height + 6 * np.sin(columns / 90)
    grey = np.where(rows > horizon, floor, wall)
    room = np.clip(grey[..., None] * np.array([1.0, 0.97, 0.9], np.float32), 0, 255).astype(np.uint8)
    for shelf in range(3):
        _draw_shelf(room, top=60 + 75 * shelf, noise=noise)
    return np.ascontiguousarray(cv2.GaussianBlur(room, (3, 3), 0))


def _draw_shelf(room: Image, *, top: int, noise: np.random.Generator) -> None:
    left, right = 180, room.shape[1] - 160
    x = left + 6
    while x < right - 24:
        width, height = int(noise.integers(8, 22)), int(noise.integers(36, 62))
        colour = tuple(int(value) for value in noise.integers(40, 210, 3))
        cv2.rectangle(room, (x, top + 66 - height), (x + width, top + 66), colour, -1)
        x += width + int(noise.integers(1, 4))
    cv2.rectangle(room, (left, top + 66), (right, top + 72), (110, 84, 60), -1)


def _picture(room: Image, phase: float, noise: np.random.Generator) -> Image:
    """The view at `phase` of the loop, 0 to 1."""
    turn = 2 * np.pi * phase
    x = round(_PAN_PX * (1 + np.sin(turn)))
    y = round(_NOD_PX * (1 + np.sin(2 * turn)))
    view = room[y : y + HEIGHT, x : x + WIDTH].copy()
    draw_arm(view, turn)
    grain = noise.normal(0, NOISE, view.shape)
    return np.clip(view + grain, 0, 255).astype(np.uint8)


def draw_arm(view: Image, turn: float) -> None:
    """Upper arm, forearm and hand, from the lower right into the picture."""
    shoulder = np.array([560.0, 520.0])
    upper, fore = 2.2 + 0.25 * np.sin(2 * turn), 2.75 + 0.45 * np.sin(3 * turn)
    elbow = shoulder + 210 * np.array([np.cos(upper), -np.sin(upper)])
    hand = elbow + 170 * np.array([np.cos(fore), -np.sin(fore)])
    for start, end, width, colour in ((shoulder, elbow, 58, (70, 74, 82)), (elbow, hand, 42, (96, 100, 110))):
        cv2.line(view, _pixel(start), _pixel(end), colour, width, cv2.LINE_AA)
    cv2.circle(view, _pixel(hand), 30, (215, 170, 60), -1, cv2.LINE_AA)


def _pixel(point: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
