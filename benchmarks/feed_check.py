"""That every side delivers the same: the same frames, to a stated PSNR, and the same numbers, to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import feed_footage, feed_scene
from benchmarks.camera import Image
from benchmarks.feed_packets import ORIGINAL, SIZE, Footage, chunks, values
from benchmarks.feed_sides import Side
from benchmarks.measure import BenchmarkFailed, console

LEAST_DB = 30.0  # a neighbouring frame comes to 28 dB, one of another place to less
SAME_DB = 0.5  # by so much one of two sides may be better
THEIRS = ("litdata", "webdataset", "mosaic", "lerobot")


def tell_quality(sides: Mapping[str, Side], footage: Footage) -> None:
    """The PSNR of what each side delivers; all of them show the same frames, or this fails."""
    psnr = {name: check(one, footage) for name, one in sides.items()}
    console.print("  dB over RGB: " + ", ".join(f"{name} {value:.1f}" for name, value in psnr.items()))
    best = max((value for name, value in psnr.items() if name in THEIRS), default=0.0)
    for name, value in psnr.items():
        if value < best - SAME_DB:
            console.print(f"  [red]{name} is {best - value:.1f} dB below the others: not within {SAME_DB} dB[/red]")


def check(side: Side, footage: Footage) -> float:
    """The PSNR in dB, over RGB, of a batch of the side's to what was seen.

    At 640×480 that is the camera's picture, at 224×224 the decoded original, scaled. `BenchmarkFailed` for a frame that
    is another one, and for numbers that differ.
    """
    batch = side.look()
    errors = []
    for number, images, state, action in zip(
        *(batch[name] for name in ("number", "image", "state", "action")), strict=True
    ):
        episode, step = divmod(int(number), footage.frames)
        _same(side, "state", state, values("state", episode, footage.frames)[step])
        _same(side, "action", action, chunks(values("action", episode, footage.frames))[step])
        for back, image in enumerate(reversed(images)):
            error = squared_error(image, seen(footage, episode, max(step - back, 0), high=image.shape[1]))
            if psnr_db([error]) < LEAST_DB:
                raise BenchmarkFailed(
                    f"{side.name} gave another picture than frame {number} ({psnr_db([error]):.1f} dB)"
                )
            errors.append(error)
    return psnr_db(errors)


def _same(side: Side, name: str, found: NDArray[Any], expected: NDArray[Any]) -> None:
    if not np.array_equal(found, expected):
        raise BenchmarkFailed(f"{side.name} gave other numbers of {name} than were recorded")


def seen(footage: Footage, episode: int, step: int, *, high: int) -> Image:
    """(H, W, 3) uint8 RGB: what a form of this height is to look like."""
    if high != SIZE:
        return feed_scene.picture(episode, step)
    first = step - step % feed_footage.GOP
    gop = footage.packets(ORIGINAL, episode)[first : step + 1]
    return list(feed_footage.scaled(feed_footage.decoded(gop)))[-1]


def squared_error(image: NDArray[Any], expected: Image) -> float:
    """The mean over all pixels and colours of (3, H, W) uint8, or float32 of 0 to 1, against (H, W, 3) uint8."""
    scale = 255.0 if image.dtype == np.float32 else 1.0
    difference = image.transpose(1, 2, 0) * scale - expected.astype(np.float32)
    return float((difference * difference).mean())


def psnr_db(squared_errors: Iterable[float]) -> float:
    """Infinite for equal pictures."""
    mean = float(np.mean(list(squared_errors)))
    return 10 * math.log10(255**2 / mean) if mean else math.inf
