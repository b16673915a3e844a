"""Our feed, and the limit that it is measured against, each as a side of its own: one JSON object says which.

    python -m benchmarks.feed_loops ours  '{"lake": …, "form": …, …}'
    python -m benchmarks.feed_loops limit '{…}'

The limit decodes the same frames of the same batches, and does nothing else: packets lie in memory, each GOP is decoded
once a batch up to the last frame that is wanted, by one decoder on one thread that is kept from GOP to GOP, and each
frame is converted straight into planes and copied into the tensor that is delivered. Which frames: those of our own
loader's order, which it reads through a spec without pictures before any clock starts.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from benchmarks.camera import HEIGHT, WIDTH
from benchmarks.feed_footage import GOP
from benchmarks.feed_lake import CAMERA, DATASET
from benchmarks.feed_packets import FPS, HORIZON, ORIGINAL, PAIRS, SIZE
from benchmarks.feed_protocol import serve
from dataset_catalog import Catalog, horizon
from dataset_catalog.dataset import Dataset
from dataset_catalog.loader import Loader
from dataset_catalog.windows import Windows

GROUPED = 4
LIMIT_BATCHES = 400  # that the limit knows the frames of; then they come again
Batch = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What windows a side makes.

    frames_each  of an episode, by which frames are numbered
    rendition    pictures come as they are stored in it
    frames       K, that end with the window's own
    order        `random`: window by window; `grouped`: four neighbours together, all in one batch, by the block
                 shuffle; `sequential`: as they were recorded
    floats       pictures as float32 in [0, 1], which is what LeRobot gives; in one tensor that is used again, as a
                 training loop has it for its copies to a GPU
    """

    lake: str
    frames_each: int
    rendition: str
    frames: int = 1
    batch: int = 64
    order: Literal["random", "grouped", "sequential"] = "random"
    floats: bool = False

    @property
    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return (HEIGHT, WIDTH) if self.rendition in (ORIGINAL, PAIRS) else (SIZE, SIZE)

    def dataset(self) -> Dataset:
        return Catalog.open(self.lake).dataset(DATASET)

    def windows(self, *, pictures: bool = True) -> Windows:
        images = {CAMERA: [-k / FPS for k in reversed(range(self.frames))]} if pictures else {}
        return self.dataset().windows(
            observations={**images, "state": [0.0]},
            actions={"action": horizon(HORIZON / FPS, hz=FPS)},
            image_size=self.size,
            rendition=self.rendition if pictures else None,
        )

    def loader(self, windows: Windows) -> Loader:
        if self.order == "grouped":
            pool_bytes = self.batch * windows.sample_bytes
            return windows.loader(self.batch, shuffle="blocks", block=GROUPED, pool_bytes=pool_bytes, seed=1)
        return windows.loader(self.batch, shuffle=self.order == "random", seed=1)


def ours(asked: Asked) -> Iterator[Batch]:
    """Epoch after epoch."""
    loader, floats = asked.loader(asked.windows()), torch.empty(0)
    print(loader, file=sys.stderr)
    while True:
        for batch in loader:
            if asked.floats:
                if floats.shape != batch[CAMERA].shape:
                    floats = torch.empty(batch[CAMERA].shape)
                batch[CAMERA] = floats.copy_(batch[CAMERA]).div_(255)  # torch.div would make a copy of its own first
            yield batch


def look(batch: Batch, *, frames_each: int) -> dict[str, NDArray[Any]]:
    found = {"image": batch[CAMERA], "state": batch["state"][:, 0], "action": batch["action"]}
    return {name: value.numpy() for name, value in found.items()} | {"number": numbers_of(batch, frames_each)}


def numbers_of(batch: Batch, frames_each: int) -> NDArray[np.int64]:
    places = [one.removeprefix("episode-").split(":") for one in batch["sample_id"]]
    return np.array([int(episode) * frames_each + int(step) for episode, step in places])


class Limit:
    """One decoder, one scaler, everything in memory."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._packets = list(packets_of(asked.dataset(), asked.rendition))
        self._context: Any = av.CodecContext.create("h264", "r")
        self._context.thread_count = 1
        self._scaler = VideoReformatter()

    def batches(self) -> Iterator[Batch]:
        known = []
        for batch in self._asked.loader(self._asked.windows(pictures=False)):
            known.append(numbers_of(batch, self._asked.frames_each))
            if len(known) == LIMIT_BATCHES:
                break
        while True:
            for numbers in known:
                yield {"number": numbers, "image": torch.from_numpy(self._decode(numbers))}

    def _decode(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        out = np.empty((len(numbers), 1, 3, *self._asked.size), np.uint8)
        wanted: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for row, number in enumerate(numbers.tolist()):  # episodes are whole GOPs
            wanted[number - number % GOP][number % GOP].append(out[row, 0])
        for first, places in wanted.items():
            self._gop(first, places)
        return out

    def _gop(self, first: int, places: dict[int, list[Any]]) -> None:
        for k in range(max(places) + 1):
            (frame,) = self._context.decode(av.Packet(self._packets[first + k]))
            if k in places:
                planar = self._scaler.reformat(frame, format="gbrp", threads=1)
                green, blue, red = map(_pixels, planar.planes)
                for image in places[k]:
                    image[0], image[1], image[2] = red, green, blue
        self._context.flush_buffers()


def packets_of(dataset: Dataset, rendition: str) -> Iterator[bytes]:
    """Every frame's packet, in the order of the frames' numbers."""
    gops = dataset.table("gops")
    columns = ["episode_id", "gop", "packet_bytes"]
    rows = gops.to_table(columns=columns, filter=f"rendition = '{rendition}'", with_row_id=True)
    rows = rows.sort_by([("episode_id", "ascending"), ("gop", "ascending")])
    payloads = gops.read_blobs("payload", ids=rows["_rowid"].to_pylist(), preserve_order=True)
    for sizes, (_, payload) in zip(rows["packet_bytes"].to_pylist(), payloads, strict=True):
        ends = np.cumsum(sizes).tolist()
        yield from (payload[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))


def _pixels(plane: Any) -> NDArray[np.uint8]:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def main(words: list[str]) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    asked = Asked(**json.loads(words[1]))
    if words[0] == "limit":
        serve(Limit(asked).batches(), lambda batch: {name: np.asarray(value) for name, value in batch.items()})
    else:
        serve(ours(asked), lambda batch: look(batch, frames_each=asked.frames_each))


if __name__ == "__main__":
    main(sys.argv[1:])
