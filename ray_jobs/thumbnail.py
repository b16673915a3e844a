"""A small picture that stands for a segment: the sharpest of its middle third, as a JPEG of a few kB."""

from __future__ import annotations

from typing import Any

import cv2

from dataset_catalog.video import to_rgb

MAX_SIDE = 160  # pixels
MAX_BYTES = 6_000  # what the coarsest quality still exceeds is kept all the same
QUALITIES = (75, 60, 45, 30, 15)  # of a JPEG, 0..100


class Chooser:
    """Takes a segment's frames in presentation order, of which there will be `count`, and keeps one."""

    def __init__(self, count: int) -> None:
        self._middle = range(count // 3, count - count // 3)
        self._seen, self._best, self._sharpness = 0, None, -1.0

    def add(self, frame: Any, *, sharpness: float) -> None:
        """`sharpness`: see `picture_quality`."""
        if self._seen in self._middle and sharpness > self._sharpness:
            self._best, self._sharpness = frame, sharpness
        self._seen += 1

    def jpeg(self) -> bytes:
        """The chosen frame; `ValueError` where none was seen."""
        if self._best is None:
            raise ValueError("no frame was seen")
        return to_jpeg(self._best)


def to_jpeg(frame: Any) -> bytes:
    """An `av.VideoFrame`, scaled down to at most 160 pixels across and down."""
    scale = min(1.0, MAX_SIDE / max(frame.width, frame.height))
    size = (max(round(frame.height * scale), 1), max(round(frame.width * scale), 1))
    picture = cv2.cvtColor(to_rgb(frame, size), cv2.COLOR_RGB2BGR)
    for quality in QUALITIES:
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if encoded.size <= MAX_BYTES:
            break
    return encoded.tobytes()
