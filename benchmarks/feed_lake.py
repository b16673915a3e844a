"""The footage as a dataset of ours, and datasets of numbers alone; committed as the jobs do it.

`feed` has the original video, and renditions: those at 224×224 as `Dataset.materialize` makes them, or the one at
640×480 that the footage holds already. 26 joints and as many actions come with every frame. `numbers` is made in two
sizes, to see what opening costs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.camera import HEIGHT, WIDTH
from benchmarks.feed_footage import GOP
from benchmarks.feed_packets import DOF, FPS, ORIGINAL, PAIRS, SIZE, Footage, values
from dataset_catalog import Catalog, publish, versions
from dataset_catalog.encoding import Codec
from dataset_catalog.schema import EPISODES, GOPS, SERIES, STATISTICS, steps_schema
from dataset_catalog.storage import Storage
from ray_jobs import upkeep

DATASET, CAMERA = "feed", "head"
SMALL, PICTURES = "h264-g10-224x224", "jpeg-224x224"
GOPS_OF = {ORIGINAL: GOP, PAIRS: 2}  # frames
CODECS: dict[str, Codec] = {SMALL: "h264-g10", PICTURES: "jpeg"}
START_NS = 1_760_000_000_000_000_000
TOLERANCE_NS = 10_000_000
STEPS_OF_ONE, EPISODES_AT_ONCE = 1_000, 100  # of `numbers`


def write_footage(
    storage: Storage,
    footage: Footage,
    renditions: Sequence[str] = (SMALL, PICTURES),
    *,
    forms: Sequence[str] = (ORIGINAL,),
) -> None:
    """The dataset `feed` in a lake of its own, with these forms of the video, and these renditions of the original."""
    sizes, named = {"state": DOF, "action": DOF}, list(range(footage.episodes))
    batches = {
        "steps": (_steps(sizes, episode, footage.frames, cameras=[CAMERA]) for episode in named),
        "series": (_series(sizes, episode, footage.frames) for episode in named),
        "gops": (_gops(footage, form, episode) for episode in named for form in forms),
        "statistics": iter(()),
        "episodes": iter([_episodes(sizes, named, footage.frames, cameras=[CAMERA])]),
    }
    _commit(storage, DATASET, steps_schema(sizes, [CAMERA]), batches)
    for rendition in renditions:
        dataset = Catalog(storage).dataset(DATASET)
        dataset.materialize(image_size=(SIZE, SIZE), codec=CODECS[rendition], quiet=True)


def write_numbers(storage: Storage, name: str, *, steps: int) -> None:
    """A dataset of so many steps with one column of two numbers."""
    sizes, named = {"state": 2}, range(steps // STEPS_OF_ONE)
    together = in_groups(named, EPISODES_AT_ONCE)
    batches = {
        "steps": (pa.concat_batches([_steps(sizes, one, STEPS_OF_ONE) for one in some]) for some in together),
        "series": (pa.concat_batches([_series(sizes, one, STEPS_OF_ONE) for one in some]) for some in together),
        "gops": iter(()),
        "statistics": iter(()),
        "episodes": iter([_episodes(sizes, list(named), STEPS_OF_ONE)]),
    }
    _commit(storage, name, steps_schema(sizes, []), batches)


def _commit(storage: Storage, name: str, steps: pa.Schema, batches: dict[str, Iterator[pa.RecordBatch]]) -> None:
    """One version with the rows, and one with the indices that `maintain` makes."""
    chain = f"{versions.DATASETS}/{name}"
    schemas = {"steps": steps, "series": SERIES, "gops": GOPS, "statistics": STATISTICS, "episodes": EPISODES}
    base = publish.begin(storage, chain, planned_on=None, schemas={table: schemas[table] for table in batches})
    written = {table: publish.write(storage, chain, table, schemas[table], rows) for table, rows in batches.items()}
    manifest = publish.commit(base, written, positions={}, now_ns=START_NS)
    upkeep.keep_up(storage, chain, manifest, upkeep.needs(storage, chain, manifest))


def episode_id(episode: int) -> str:
    return f"episode-{episode:05d}"


def times(episode: int, frames: int) -> NDArray[np.int64]:
    """Of every frame, reading and step: each episode is an hour after the one before."""
    return START_NS + episode * 3_600_000_000_000 + np.round(np.arange(frames) * 1e9 / FPS).astype(np.int64)


def _steps(sizes: dict[str, int], episode: int, frames: int, *, cameras: list[str] | None = None) -> pa.RecordBatch:
    schema, zero = steps_schema(sizes, cameras or []), np.zeros(frames, np.int64)
    columns: dict[str, Any] = {
        "robot_id": pa.repeat("g1", frames),
        "recording_id": pa.repeat(f"01J{episode:023d}", frames),
        "episode_id": pa.repeat(episode_id(episode), frames),
        "step": np.arange(frames),
        "t_ns": times(episode, frames),
    }
    for name, size in sizes.items():
        vectors = pa.array(values(name, episode, frames)[:, :size].ravel())
        columns |= {name: pa.FixedSizeListArray.from_arrays(vectors, size), f"{name}_age_ns": zero}
    for camera in cameras or []:
        number = np.arange(frames, dtype=np.int32)
        columns |= {f"{camera}_gop": number // GOP, f"{camera}_k": number % GOP, f"{camera}_age_ns": zero}
    return _batch(schema, columns)


def _series(sizes: dict[str, int], episode: int, frames: int) -> pa.RecordBatch:
    sizes = dict(sorted(sizes.items()))
    of_each = [values(name, episode, frames)[:, :size] for name, size in sizes.items()]
    ends = np.cumsum([0, *(size for size in sizes.values() for _ in range(frames))]).astype(np.int32)
    flat = pa.array(np.concatenate([one.ravel() for one in of_each]))
    columns = {
        "episode_id": pa.repeat(episode_id(episode), frames * len(sizes)),
        "column": pa.concat_arrays([pa.repeat(name, frames) for name in sizes]),
        "t_ns": np.tile(times(episode, frames), len(sizes)),
        "value": pa.ListArray.from_arrays(pa.array(ends), flat),
    }
    return _batch(SERIES, columns)


def _gops(footage: Footage, form: str, episode: int) -> pa.RecordBatch:
    packets, at = footage.packets(form, episode), times(episode, footage.frames).tolist()
    length = GOPS_OF[form]
    gops = in_groups(packets, length)
    count = len(gops)
    same = {
        "episode_id": episode_id(episode),
        "robot_id": "g1",
        "camera": CAMERA,
        "rendition": form,
        "codec": "h264",
        "width": WIDTH,
        "height": HEIGHT,
        "extradata": b"",
        "source_key": f"raw/g1/{episode:05d}",
        "source_sha256": "00",
    }
    columns: dict[str, Any] = {name: [value] * count for name, value in same.items()}
    columns |= {
        "gop": list(range(count)),
        "start_ns": at[::length],
        "packet_bytes": [[len(packet) for packet in gop] for gop in gops],
        "frame_t_ns": in_groups(at, length),
        "payload": lance.blob_array([b"".join(gop) for gop in gops]),
    }
    return _batch(GOPS, columns)


def _episodes(
    sizes: dict[str, int], episodes: list[int], frames: int, *, cameras: list[str] | None = None
) -> pa.RecordBatch:
    about: dict[str, Any] = {
        name: {"size": size, "names": None, "policy": "nearest", "tolerance_ns": TOLERANCE_NS}
        for name, size in sizes.items()
    }
    about |= {camera: {"camera": True, "tolerance_ns": TOLERANCE_NS} for camera in cameras or []}
    starts = [int(times(episode, 1)[0]) for episode in episodes]
    count, length_ns = len(episodes), int(times(0, frames)[-1]) - START_NS + 1
    columns: dict[str, Any] = {
        "episode_id": [episode_id(episode) for episode in episodes],
        "robot_id": ["g1"] * count,
        "recording_id": [f"01J{episode:023d}" for episode in episodes],
        "task": ["tidy the shelf"] * count,
        "success": [True] * count,
        "notes": [None] * count,
        "start_ns": starts,
        "end_ns": [start + length_ns for start in starts],
        "steps": [frames] * count,
        "columns": [json.dumps(about)] * count,
        "sources": [[]] * count,
    }
    return _batch(EPISODES, columns)


def _batch(schema: pa.Schema, columns: dict[str, Any]) -> pa.RecordBatch:
    """Columns that a later release adds to a table are null."""
    first = len(next(iter(columns.values())))
    arrays = [
        pa.nulls(first, field.type)
        if field.name not in columns
        else columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def in_groups(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
