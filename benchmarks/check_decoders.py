"""Compares every decoder that works here with PyAV on the same GOPs: the largest pixel difference, and frames/s.

    python -m benchmarks.check_decoders

Footage is encoded on the spot, H.264 in closed GOPs of ten as `Dataset.materialize` makes it. Each decoder is asked
for single frames anywhere in a GOP, as training does, and for whole GOPs, and must give PyAV's frames: within
`TOLERANCE` on average, as a GPU rounds colours differently, and nearer to them than to their neighbours in time, as a
frame too early or too late is no rounding. Exit code 1 if one does not; a decoder that is not there is passed over.

Also as `PYTHONPATH=. python benchmarks/check_decoders.py`, where there is no more than PyAV, NumPy and the decoders.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import av
import numpy as np
from numpy.typing import NDArray


def _stand_in_for_what_lacks() -> None:
    """Modules that decoding itself does not need: the lake's, OpenCV, JPEG."""
    if find_spec("lance") is None:
        package = ModuleType("dataset_catalog")
        package.__path__ = [str(Path(__file__).parents[1] / "dataset_catalog")]
        sys.modules["dataset_catalog"] = package
    if find_spec("cv2") is None:
        sys.modules["cv2"] = ModuleType("cv2")
    if find_spec("simplejpeg") is None:
        sys.modules["simplejpeg"] = ModuleType("simplejpeg")


_stand_in_for_what_lacks()

from dataset_catalog.decoders import NAMES, Coded, Decoder, decoder  # noqa: E402
from dataset_catalog.encoding import Encoding  # noqa: E402
from dataset_catalog.errors import WindowError  # noqa: E402

SIZES = ((224, 224), (480, 640))
FRAMES, GOP = 200, 10
TOLERANCE = 3.0  # mean absolute difference, of 255
Pictures = dict[tuple[int, int], NDArray[np.uint8]]  # (GOP, frame) → (3, height, width)


@dataclass(frozen=True, slots=True)
class Found:
    """What one decoder gave beside PyAV. `moved`: frames that are nearer to a neighbour of the right one."""

    largest: int
    mean: float
    moved: int
    single_per_s: float
    whole_per_s: float

    @property
    def is_right(self) -> bool:
        return self.mean <= TOLERANCE and not self.moved


def film(size: tuple[int, int]) -> list[Coded]:
    """GOPs of a scene with texture in which everything moves."""
    height, width = size
    noise = np.random.default_rng(1).integers(0, 60, (height // 8, width // 8 + FRAMES, 3))
    texture = np.kron(noise, np.ones((8, 8, 1))).astype(np.uint8)
    encoding, encoder, packets = Encoding("h264-g10"), None, []
    for number in range(FRAMES):
        picture = texture[:, 3 * number : 3 * number + width] + np.uint8(60)
        at = 5 * number % (width - 40)
        picture[height // 3 : height // 2, at : at + 40] = (250, 4 * number % 256, 30)
        frame = encoding.fitted(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        encoder = encoder or encoding.h264(frame)
        frame.pts = number
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    packets += [bytes(packet) for packet in encoder.encode(None)]
    return [Coded("h264", b"", packets[first : first + GOP]) for first in range(0, FRAMES, GOP)]


def asked(gops: Sequence[Coded], *, single: bool) -> Iterator[tuple[int, Coded, list[int]]]:
    """Each GOP's number, the prefix that is needed, and the wanted frames: one somewhere, or all."""
    draw = np.random.default_rng(2)
    for number, gop in enumerate(gops):
        k = int(draw.integers(GOP))
        yield (number, gop._replace(packets=gop.packets[: k + 1]), [k]) if single else (number, gop, list(range(GOP)))


def decode(by: Decoder, gops: Sequence[Coded], *, single: bool) -> Pictures:
    return {
        (number, k): np.stack(picture) if isinstance(picture, tuple) else picture.transpose(2, 0, 1)
        for number, coded, wanted in asked(gops, single=single)
        for k, picture in by.pictures(coded, wanted, size=None, fit="stretch")
    }


def rate(by: Decoder, gops: Sequence[Coded], *, single: bool) -> float:
    """Frames a second, on one thread, of a decoder that has decoded before."""
    decode(by, gops, single=single)
    started = time.perf_counter()
    return len(decode(by, gops, single=single)) / (time.perf_counter() - started)


def compare(by: Decoder, gops: Sequence[Coded], truth: Pictures) -> Found:
    found = decode(by, gops, single=False)
    singles = decode(by, gops, single=True)
    if found.keys() != truth.keys() or len(singles) != len(gops):
        raise SystemExit(f"{len(found)} and {len(singles)} frames came, expected {len(truth)} and {len(gops)}")
    pairs = [(one, truth[key]) for several in (found, singles) for key, one in several.items()]
    errors = [np.abs(one.astype(np.int16) - right) for one, right in pairs]
    largest, mean = max(int(error.max()) for error in errors), float(np.mean([error.mean() for error in errors]))
    whole, single = (rate(by, gops, single=single) for single in (False, True))
    return Found(largest, mean, _moved(found, truth) + _moved(singles, truth), single, whole)


def _moved(found: Pictures, truth: Pictures) -> int:
    """How many frames are nearer to the one before or behind the right one."""
    order = sorted(truth)
    beside: dict[tuple[int, int], list[tuple[int, int]]] = {key: [] for key in order}
    for earlier, later in pairwise(order):
        beside[earlier].append(later)
        beside[later].append(earlier)

    def away(key: tuple[int, int], other: tuple[int, int]) -> float:
        return float(np.abs(found[key].astype(np.int16) - truth[other]).mean())

    return sum(any(away(key, other) <= away(key, key) for other in beside[key]) for key in found)


def main() -> int:
    wrong = 0
    print(f"{'size':>9}  {'decoder':<12} {'largest':>8} {'mean':>6} {'moved':>6} {'single/s':>9} {'whole/s':>9}")
    for size in SIZES:
        gops = film(size)
        truth = decode(decoder("pyav"), gops, single=False)
        for name in NAMES:
            shape = f"{size[0]}x{size[1]}"
            try:
                found = compare(decoder(name), gops, truth)
            except WindowError as error:
                print(f"{shape:>9}  {name:<12} not here: {error}")
                continue
            wrong += not found.is_right
            verdict = "" if found.is_right else "  WRONG"
            print(
                f"{shape:>9}  {name:<12} {found.largest:>8} {found.mean:>6.2f} {found.moved:>6} "
                f"{found.single_per_s:>9,.0f} {found.whole_per_s:>9,.0f}{verdict}",
                flush=True,
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
