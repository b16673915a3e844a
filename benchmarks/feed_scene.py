"""A hundred thousand pictures that differ, cheap to draw: an episode is a room of its own, a slow pan, an arm at work.

Any one of them can be drawn again by its number, so that what a feed delivers can be compared with what was seen. Where
`scene.py` stresses an encoder, these weigh what real recordings weigh: colours without sharp edges, as a sensor gives
them, and a little texture and grain. At 224×224 a JPEG of quality 90 takes about 12 kB, as those of a G1 do.
"""

from __future__ import annotations

from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.camera import HEIGHT, WIDTH, Image
from benchmarks.scene import draw_arm, draw_room

COLOUR_BLUR, COLOURS = 4.0, 0.6  # standard deviation in pixels; how much of the saturation stays
TEXTURE, GRAIN = 12.0, 1.5  # standard deviations of a pixel: of what stands still with the room, of what does not
PAN_PX, NOD_PX, PERIOD = 20, 10, 900  # pictures of one turn
_SHIFT = 64


def picture(episode: int, number: int) -> Image:
    """The picture `number` of an episode, (480, 640, 3) uint8 RGB."""
    turn = 2 * np.pi * number / PERIOD
    x, y = round(PAN_PX * (1 + np.sin(turn))), round(NOD_PX * (1 + np.sin(2 * turn)))
    view = _room(episode)[y : y + HEIGHT, x : x + WIDTH].copy()
    draw_arm(view, 3 * turn + episode)
    down, right = np.random.default_rng((episode, number)).integers(0, _SHIFT, 2)
    grain = _grain()[down : down + HEIGHT, right : right + WIDTH]
    seen: Image = cv2.add(view, grain, dtype=cv2.CV_8U)
    return seen


@lru_cache(maxsize=2)
def _room(episode: int) -> Image:
    noise = np.random.default_rng(episode)
    luma, *colours = cv2.split(cv2.cvtColor(draw_room(noise), cv2.COLOR_RGB2YCrCb))
    texture = cv2.GaussianBlur(noise.normal(0, TEXTURE, luma.shape).astype(np.float32), (0, 0), 1.2)
    soft = [cv2.GaussianBlur(one.astype(np.float32), (0, 0), COLOUR_BLUR) for one in colours]
    planes = [cv2.GaussianBlur(luma, (0, 0), 1.0) + texture, *(128 + COLOURS * (one - 128) for one in soft)]
    room: Image = cv2.cvtColor(np.clip(cv2.merge(planes), 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2RGB)
    return room


@cache
def _grain() -> NDArray[np.int16]:
    one = np.random.default_rng(3).normal(0, GRAIN, (HEIGHT + _SHIFT, WIDTH + _SHIFT, 1))
    return one.astype(np.int16).repeat(3, axis=2)
