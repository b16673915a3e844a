"""Renditions at training resolution: a dataset's video encoded anew and published as its next version.

Only rows of `gops` are added. A rendition's frames have the capture times of the frames they were made from, so windows
read it as they read the original.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from dataset_catalog import publish, versions
from dataset_catalog.align import Frames
from dataset_catalog.encoding import Encoding
from dataset_catalog.errors import DecodeError, NotFound, VersionConflict
from dataset_catalog.gop_rows import gop_batch
from dataset_catalog.publish import Written
from dataset_catalog.rendition import ORIGINAL, Fidelity, encode, made_of
from dataset_catalog.schema import GOPS
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table
from dataset_catalog.tracks import Gop, Packet, Track
from dataset_catalog.versions import DATASETS, Manifest

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset

VIDEOS_PER_COMMIT = 200  # a killed run loses at most what it made of so many
VIDEOS_PER_FRAGMENT = 8
_COLUMNS = [name for name in GOPS.names if name != "payload"]
_ABOUT = ("episode_id", "robot_id", "camera", "source_key", "source_sha256")
_SAME = ("source_key", "codec", "extradata", "width", "height")  # within a piece that is encoded in one go


class Source(NamedTuple):
    """One camera's video of an episode, and the rendition of it that is encoded anew."""

    episode_id: str
    camera: str
    rendition: str


@dataclass(frozen=True)
class Lake:
    """The dataset that gets the rendition, at the version that the work is planned on. Pickles as its address."""

    storage: Storage
    name: str
    manifest: Manifest

    @property
    def chain(self) -> str:
        return f"{DATASETS}/{self.name}"

    @property
    def gops(self) -> Any:
        return open_table(self.storage, self.chain, self.manifest, "gops")


@dataclass(frozen=True, slots=True)
class Made:
    """What a run came to: the newest manifest, the versions it published, how near the rendition is to its source."""

    rendition: str
    manifest: Manifest
    versions: tuple[int, ...]
    videos: int
    fidelity: Fidelity


def newest_of(dataset: Dataset) -> Lake:
    """Where a dataset lies that is at its newest version. Raises `VersionConflict` if it is not."""
    storage, newest = dataset.storage, versions.newest(dataset.storage, f"{DATASETS}/{dataset.name}")
    if newest != dataset.manifest:
        found = newest.n if newest else 0
        raise VersionConflict(f"{dataset.name} is at v{found} now, this is v{dataset.version}: materialize the newest")
    return Lake(storage, dataset.name, dataset.manifest)


def due(lake: Lake, encoding: Encoding, episode_ids: Sequence[str]) -> list[Source]:
    """The videos that lack this rendition, in order; each is made from the original, or else the largest there is.

    Raises `NotFound` where the episodes have no video at all.
    """
    wanted = contains("episode_id", episode_ids)
    rows = lake.gops.to_table(columns=["episode_id", "camera", "rendition", "height", "width"], filter=wanted)
    stored: dict[tuple[str, str], dict[str, int]] = {}
    sizes = rows.group_by(["episode_id", "camera", "rendition"]).aggregate([("height", "max"), ("width", "max")])
    for row in sizes.to_pylist():
        renditions = stored.setdefault((row["episode_id"], row["camera"]), {})
        renditions[row["rendition"]] = row["height_max"] * row["width_max"]
    if not stored:
        raise NotFound(f"{lake.name} v{lake.manifest.n} has no video of these {len(episode_ids)} episodes")
    return [
        Source(episode_id, camera, ORIGINAL if ORIGINAL in found else max(found, key=found.__getitem__))
        for (episode_id, camera), found in sorted(stored.items())
        if encoding.label not in found
    ]


def write_renditions(
    lake: Lake, encoding: Encoding, sources: Sequence[Source], *, tick: Callable[[], None] = lambda: None
) -> tuple[Written, Fidelity]:
    """Encode each video and write its rows as fragments that no version has yet; `tick` is called behind each.

    A piece of a video is in memory at a time.
    """
    fidelity, gops = Fidelity(), lake.gops

    def batches() -> Iterator[pa.RecordBatch]:
        for source in sources:
            yield from rendition_batches(gops, source, encoding, fidelity)
            tick()

    return publish.write(lake.storage, lake.chain, "gops", GOPS, batches()), fidelity


def rendition_batches(gops: Any, source: Source, encoding: Encoding, fidelity: Fidelity) -> Iterator[pa.RecordBatch]:
    """Rows of `gops` for one video, a batch for each raw object that it came from. Raises `DecodeError`, naming it."""
    frames = Frames(encoding.label)
    for rows in _pieces(gops, source):
        first = rows[0]
        track = Track(first["codec"], first["extradata"] or b"", (), "")
        try:
            made = encode(track, [_gop(row) for row in rows], fidelity, encoding)
        except DecodeError as error:
            raise DecodeError(f"{source.camera} of episode {source.episode_id}, {source.rendition}: {error}") from error
        height, width = encoding.size or (first["height"], first["width"])
        about = {name: first[name] for name in _ABOUT} | {"height": height, "width": width}
        yield gop_batch(about, made_of(encoding), made, frames)


def publish_renditions(lake: Lake, written: Written) -> Manifest:
    """The next version, with these rows. Raises `VersionConflict` or `CommitLost` where another writer was faster."""
    base = publish.begin(lake.storage, lake.chain, planned_on=lake.manifest, schemas={})
    manifest = lake.manifest
    return publish.commit(
        base, {"gops": written}, positions=manifest.positions, facts=manifest.facts, now_ns=time.time_ns()
    )


def materialize(
    lake: Lake, encoding: Encoding, episode_ids: Sequence[str], *, progress: Callable[[int, int], None]
) -> Made:
    """Make what is due in this process, on every CPU, and publish it; `progress` is told videos done and all of them.

    A run that is killed has published whole versions, and running it again makes the rest.
    """
    sources = due(lake, encoding, episode_ids)
    fidelity, ticks = Fidelity(), count(1)
    published: tuple[int, ...] = ()
    progress(0, len(sources))
    for first in range(0, len(sources), VIDEOS_PER_COMMIT):
        piece = sources[first : first + VIDEOS_PER_COMMIT]
        written, quality = _in_threads(lake, encoding, piece, lambda: progress(next(ticks), len(sources)))
        lake = Lake(lake.storage, lake.name, publish_renditions(lake, written))
        fidelity, published = Fidelity.join([fidelity, quality]), (*published, lake.manifest.n)
    return Made(encoding.label, lake.manifest, published, len(sources), fidelity)


def _in_threads(
    lake: Lake, encoding: Encoding, sources: Sequence[Source], tick: Callable[[], None]
) -> tuple[Written, Fidelity]:
    """A thread a CPU, as libav and x264 work without the interpreter lock; each writes fragments of several videos."""
    cpus = len(os.sched_getaffinity(0))
    size = max(1, min(VIDEOS_PER_FRAGMENT, len(sources) // (2 * cpus)))
    parts = [sources[first : first + size] for first in range(0, len(sources), size)]
    with ThreadPoolExecutor(cpus) as pool:
        made = list(pool.map(partial(write_renditions, lake, encoding, tick=tick), parts))
    return Written.join(written for written, _ in made), Fidelity.join(fidelity for _, fidelity in made)


def _pieces(gops: Any, source: Source) -> Iterator[list[dict[str, Any]]]:
    """The stored rows in order, each with its payload, cut where they come of another object or are coded otherwise."""
    wanted = " AND ".join(contains(name, [value]) for name, value in source._asdict().items())
    rows = gops.to_table(columns=_COLUMNS, filter=wanted, with_row_id=True).sort_by("gop").to_pylist()
    for _, group in groupby(rows, key=lambda row: [row[name] for name in _SAME]):
        piece = list(group)
        payloads = gops.read_blobs("payload", ids=[row["_rowid"] for row in piece], preserve_order=True)
        yield [{**row, "payload": payload} for row, (_, payload) in zip(piece, payloads, strict=True)]


def _gop(row: Mapping[str, Any]) -> Gop:
    """Its packets, in decoding order, with its frames' times in presentation order: `encode` asks for no more."""
    packets, at = [], 0
    for number, (t_ns, size) in enumerate(zip(row["frame_t_ns"], row["packet_bytes"], strict=True)):
        packets.append(Packet(t_ns, row["payload"][at : at + size], number == 0))
        at += size
    return Gop(tuple(packets))
