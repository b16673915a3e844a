"""Real episodes of a G1, for correctness and sizes: a LeRobot dataset, imported, and encoded anew for training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow.compute as pc

from benchmarks.camera import Image
from benchmarks.feed_check import LEAST_DB, psnr_db, squared_error
from benchmarks.feed_footage import as_jpeg, scaled
from benchmarks.feed_lake import CODECS
from benchmarks.feed_packets import SIZE
from benchmarks.measure import BenchmarkFailed
from dataset_catalog import Catalog
from dataset_catalog.dataset import Dataset
from dataset_catalog.import_lerobot import import_lerobot

NAME = "g1"
EVERY = 10  # frames, of which one is compared
THEIRS = "JPEG q90"


@dataclass(frozen=True, slots=True)
class Weighed:
    """Of one way to store pictures at 224×224: mean bytes of a frame's, and PSNR in dB over RGB."""

    bytes_each: float
    psnr_db: float


def weigh(recordings: Path, lake: Path) -> dict[str, Weighed]:
    """Our renditions by name, and `THEIRS`: the same pictures as the other libraries store them."""
    import_lerobot(recordings, lake, name=NAME)
    dataset = Catalog.open(str(lake)).dataset(NAME)
    for codec in CODECS.values():
        dataset = dataset.materialize(image_size=(SIZE, SIZE), codec=codec, quiet=True)
    (camera,) = dataset.cameras
    pictures = list(_pictures(recordings))
    found = {label: _ours(dataset, camera, label, pictures) for label in CODECS}
    jpegs = [as_jpeg(picture) for picture in pictures]
    errors = [squared_error(_decoded(jpeg), picture) for jpeg, picture in zip(jpegs, pictures, strict=True)]
    return found | {THEIRS: Weighed(sum(map(len, jpegs)) / len(jpegs), psnr_db(errors))}


def payload_bytes(dataset: Dataset, rendition: str) -> float:
    """Mean bytes of a frame."""
    rows = dataset.table("gops").to_table(columns=["packet_bytes"], filter=f"rendition = '{rendition}'")
    return float(pc.mean(pc.list_flatten(rows["packet_bytes"])).as_py())


def _ours(dataset: Dataset, camera: str, rendition: str, pictures: list[Image]) -> Weighed:
    windows = dataset.windows({camera: [0.0]}, image_size=(SIZE, SIZE), rendition=rendition)
    delivered = [windows.batch(np.array([number]))[camera][0, 0] for number in range(0, len(windows), EVERY)]
    errors = [squared_error(ours, seen) for ours, seen in zip(delivered, pictures, strict=True)]
    if psnr_db([max(errors)]) < LEAST_DB:
        raise BenchmarkFailed(f"{rendition} of a G1's episodes shows other pictures ({psnr_db([max(errors)]):.1f} dB)")
    return Weighed(payload_bytes(dataset, rendition), psnr_db(errors))


def _pictures(recordings: Path) -> Iterator[Image]:
    """Every tenth frame of all episodes, in order, scaled by FFmpeg."""
    number = 0
    for path in sorted(recordings.glob("videos/**/*.mp4")):
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if number % EVERY == 0:
                    yield next(scaled([frame]))
                number += 1


def _decoded(jpeg: bytes) -> Image:
    """(3, H, W)"""
    import simplejpeg

    return np.ascontiguousarray(simplejpeg.decode_jpeg(jpeg, colorspace="RGB").transpose(2, 0, 1))
