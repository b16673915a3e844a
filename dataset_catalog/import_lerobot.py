"""A LeRobot dataset into a lake: no S3, no Ray, no cluster. The same rows as the jobs make, and the same commit.

Packets are kept as they are; where they are slow to train from (another codec than H.264, long GOPs, B-frames) there is
a rendition beside them. An episode that is there already is left as it is, so that a second run adds what is new.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa

from dataset_catalog import publish, versions
from dataset_catalog.errors import FormatError
from dataset_catalog.lerobot_episode import Layout, Made, Rounded, episode_id_of, layout_of, make_rows
from dataset_catalog.lerobot_files import LeRobotFiles, SourceEpisode
from dataset_catalog.rendition import H264_G10, Fidelity
from dataset_catalog.schema import EPISODES, GOPS, SERIES, STATISTICS
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest

PER_VERSION = 500  # episodes that are published together
FACT = "lerobot"  # of a manifest: `meta/info.json`

Progress = Callable[[int, int], None]  # episodes done, of so many


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of it. `version` is None where nothing was new; `notes` are for people."""

    name: str
    version: int | None
    episodes: int
    steps: int
    notes: tuple[str, ...] = ()


def import_lerobot(
    source: str | Path,
    lake: str | Path,
    *,
    name: str | None = None,
    robot: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Imported:
    """The episodes of a LeRobot dataset (v2.1 or v3) as dataset `name` of a lake, a folder or `s3://…`.

    name, robot  else those of the folder and of the dataset's `robot_type`

    Numbers are kept as float32: every one that it holds is exact, whatever its type, and goes out again as it was.
    `notes` names each feature that has others, and those that are no numbers.
    Raises `FormatError` for what cannot be read, or where `name` is another dataset already, and `StorageError` where
    the lake cannot be written. Then nothing more is published, and the next run goes on.
    """
    files, storage = LeRobotFiles.open(source), Storage.open(str(lake))
    name = _name(name or Path(os.path.abspath(files.folder)).name)
    robot = _name(robot or str(files.info.get("robot_type") or name))
    chain, layout = f"{versions.DATASETS}/{name}", layout_of(files)
    published = versions.newest(storage, chain)
    _check_same(name, files, published)
    there = set(_known(storage, chain, published))
    new = [one for one in files.episodes if episode_id_of(name, one) not in there]
    result = Imported(name, None, 0, 0, _told(files))
    for first in range(0, len(new), PER_VERSION):
        part = new[first : first + PER_VERSION]
        with storage.reaching():
            done = _import(storage, chain, files, layout, part, published, robot, _from(progress, first, len(new)))
        published, result = done[0], _joined(result, done[1])
    return result


def _import(
    storage: Storage,
    chain: str,
    files: LeRobotFiles,
    layout: Layout,
    episodes: Sequence[SourceEpisode],
    published: Manifest | None,
    robot: str,
    progress: Progress,
) -> tuple[Manifest, Imported]:
    """Bring these episodes in and publish them together."""
    name = chain.rsplit("/", 1)[-1]
    schemas = {
        "steps": layout.steps_schema,
        "series": SERIES,
        "gops": GOPS,
        "statistics": STATISTICS,
        "episodes": EPISODES,
    }
    base = publish.begin(storage, chain, planned_on=published, schemas=schemas)
    done: list[Made] = []
    made = _in_threads(partial(make_rows, files, layout, one, name, robot) for one in episodes)
    written = {"gops": publish.write(storage, chain, "gops", GOPS, _gops(made, done, progress, len(episodes)))}
    rows = {
        "steps": [one.steps for one in done],
        "series": [one.series for one in done],
        "statistics": [one.statistics for one in done],
        "episodes": [pa.RecordBatch.from_pylist([one.row for one in done], schema=EPISODES)],
    }
    written |= {table: publish.write(storage, chain, table, schemas[table], batches) for table, batches in rows.items()}
    facts = {"spec": {"imported": "lerobot"}, FACT: dict(files.info)}
    manifest = publish.commit(base, written, positions={}, facts=facts, now_ns=time.time_ns())
    return manifest, Imported(name, manifest.n, len(done), written["steps"].rows, tuple(_notes(done)))


def _gops(made: Iterable[Made], done: list[Made], progress: Progress, total: int) -> Iterator[pa.RecordBatch]:
    """The rows of `gops` one after the other; the rest of each episode is kept in `done`."""
    for number, one in enumerate(made, 1):
        yield from one.gops
        done.append(replace(one, gops=[]))
        progress(number, total)


def _in_threads(jobs: Iterator[Callable[[], Made]]) -> Iterator[Made]:
    """In order, a few ahead: libav works without the interpreter's lock."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cpus) as pool:
        ahead: deque[Future[Made]] = deque(pool.submit(job) for job in islice(jobs, cpus + 1))
        try:
            while ahead:
                one = ahead.popleft().result()
                ahead.extend(pool.submit(job) for job in islice(jobs, 1))
                yield one
        finally:
            for future in ahead:
                future.cancel()


def _name(text: str) -> str:
    """Of a dataset or robot: what the lake's names may be."""
    name = re.sub(r"[^a-z0-9._-]+", "_", text.lower()).strip("._-")[:63]
    if not name:
        raise FormatError(f"{text!r} cannot be a name: it needs a letter or a digit")
    return name


def _known(storage: Storage, chain: str, published: Manifest | None) -> list[str]:
    if published is None:
        return []
    rows = open_table(storage, chain, published, "episodes").to_table(columns=["episode_id"])
    return [str(one) for one in rows["episode_id"].to_pylist()]


def _check_same(name: str, files: LeRobotFiles, published: Manifest | None) -> None:
    if published is None:
        return
    before = published.facts.get(FACT)
    if before is None or before["features"] != json.loads(json.dumps(files.features)):
        raise FormatError(f"{name} is another dataset already: give this one another name")


def _told(files: LeRobotFiles) -> tuple[str, ...]:
    return (f"left out, no numbers: {', '.join(files.left_out)}",) if files.left_out else ()


def _notes(done: Sequence[Made]) -> Iterator[str]:
    rounded: dict[str, Rounded] = {}
    for one in done:
        rounded |= {name: it.joined(rounded[name]) if name in rounded else it for name, it in one.rounded.items()}
    for name, it in rounded.items():
        if it.numbers:
            yield (
                f"{name}: {it.numbers:,} of {it.of:,} numbers are rounded to float32, by {it.worst:.3g} at most; "
                "an export has them rounded"
            )
    total = Fidelity.join(one.fidelity for one in done)
    if total.frames:
        weights = f"{total.source_bytes / total.frames:,.0f} → {total.bytes / total.frames:,.0f} bytes a frame"
        yield f"{H264_G10}: {total.frames:,} frames, {weights}, PSNR {total.psnr_db:.1f} dB (luma)"


def _joined(result: Imported, more: Imported) -> Imported:
    notes = tuple(dict.fromkeys((*result.notes, *more.notes)))
    return Imported(result.name, more.version, result.episodes + more.episodes, result.steps + more.steps, notes)


def _from(progress: Progress, first: int, total: int) -> Progress:
    return lambda done, _: progress(first + done, total)
