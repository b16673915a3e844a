"""The pictures of a benchmark's camera: drawn beforehand (`scene.py`), read one by one as from a driver.

Each read gives a fresh array and holds no more memory than this one picture. Nothing heavy is imported here, since
this runs in the process whose memory and time are measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 480, 640
FPS = 20
BYTES = HEIGHT * WIDTH * 3

Image = NDArray[np.uint8]


def read_pictures(path: Path) -> Iterator[Image]:
    """The pictures of a file, (480, 640, 3) uint8 RGB, round and round; each a fresh array."""
    with path.open("rb", buffering=0) as file:
        while True:
            image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
            if file.readinto(image.data.cast("B")) < BYTES:
                file.seek(0)
            else:
                yield image
