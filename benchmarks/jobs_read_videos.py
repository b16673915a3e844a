"""Ray Data's own reader, `ray.data.read_videos`, over the same pictures as mp4 files in the same bucket.

It wants decord, which is put into a folder of its own beside the checkout, where nothing else finds it. Its frames are
counted block by block in Ray's workers, which is the least that one can do with them.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import obstore

from benchmarks.camera import FPS
from benchmarks.jobs_lake import Put
from benchmarks.measure import BenchmarkFailed
from dataset_catalog.storage import Storage
from edge.wire import MCAP_TYPE
from ingest_serve.bucket import Bucket
from ray_jobs.media import read_track

DECORD = "decord==0.6.0"
MP4S = "mp4"


def offer_decord(folder: Path) -> None:
    """Put decord into `folder`, once, and let Ray's workers find it there; so this comes before Ray is started.

    `BenchmarkFailed` with pip's last words where that is not possible.
    """
    if not (folder / "decord").is_dir():
        _install(folder)
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(folder))))


def _install(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), DECORD]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"{DECORD} cannot be installed: {' '.join(done.stderr.split()[-20:])}")


def store_mp4s(storage: Storage, puts: Sequence[Put]) -> int:
    """The lake's video as mp4 files, packets copied; how many files."""
    bucket = Bucket.open(storage)
    films = [one for one in puts if one.kind == "video"]
    for number, one in enumerate(films):
        obstore.put(bucket._store, f"{MP4S}/{number:06d}.mp4", as_mp4(packets_of(one)))
    return len(films)


def packets_of(put: Put) -> list[bytes]:
    """A video segment's access units."""
    return [packet.data for packet in read_track(put.body, content_type=MCAP_TYPE, start_ns=0).packets]


def as_mp4(packets: Sequence[bytes], *, fps: int = FPS) -> bytes:
    """H.264 access units (Annex B, `fps` a second) as an mp4 file with the same pictures."""
    file = io.BytesIO()
    with (
        av.open(io.BytesIO(b"".join(packets)), format="h264") as source,
        av.open(file, "w", format="mp4") as target,
    ):
        stream: Any = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux() if packet.size):
            packet.stream, packet.time_base = stream, Fraction(1, fps)
            packet.pts, packet.dts, packet.duration = number, number, 1
            target.mux(packet)
    return file.getvalue()


def reader(storage: Storage) -> Callable[[], int]:
    """A call that reads every mp4 of the lake once, and returns how many frames there were."""
    import ray
    from pyarrow.fs import S3FileSystem

    secret = storage.settings.secret_access_key
    endpoint = urlsplit(storage.settings.endpoint_url or "")
    filesystem = S3FileSystem(
        access_key=storage.settings.access_key_id,
        secret_key=secret.get_secret_value() if secret else None,
        endpoint_override=endpoint.netloc,
        scheme=endpoint.scheme,
        region=storage.settings.region,
    )

    def read() -> int:
        frames = ray.data.read_videos(storage.path(MP4S), filesystem=filesystem)
        counted = frames.map_batches(_count, batch_size=None, batch_format="pyarrow")
        return sum(row["frames"] for row in counted.iter_rows())

    return read


def _count(block: Any) -> dict[str, Any]:
    import numpy as np

    return {"frames": np.array([block.num_rows])}
