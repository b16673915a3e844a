"""What align_frames has yet to do: which episodes are whole and not yet in the dataset, and the segments of each."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table
from dataset_catalog.versions import Manifest
from edge.segment import read_messages
from ingest_serve.raw_store import RawStore
from ray_jobs.align_spec import AlignSpec
from ray_jobs.episodes import (
    CLOSED_TOPIC,
    EPISODE_TOPIC,
    Episode,
    Label,
    Recording,
    episodes_of,
    is_ready,
    overlaps,
)
from ray_jobs.segments_table import Row, rows_after, rows_of, segment_of

_NEEDED = ("robot_id", "recording_id", "stream", "seq", "key", "sha256", "start_ns", "end_ns", "width", "height")

_TELLING = frozenset((EPISODE_TOPIC, CLOSED_TOPIC))


@dataclass(frozen=True, slots=True)
class Work:
    """One episode to align and the rows of its segments."""

    episode: Episode
    segments: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        segments = [{name: row[name] for name in _NEEDED} for row in self.segments]
        return {"episode": asdict(self.episode), "segments": segments}


@dataclass(frozen=True, slots=True)
class Plan:
    """`work` in order of robot and episode; `waiting`: episodes whose data have not all arrived."""

    work: tuple[Work, ...]
    waiting: int


def make_plan(
    storage: Storage, spec: AlignSpec, *, indexed: Manifest, published: Manifest | None, position: int, threads: int
) -> Plan:
    """Look at every recording that has rows later than `position`."""
    touched = sorted({row["recording_id"] for row in rows_after(storage, indexed, position)})
    if not touched:
        return Plan((), 0)
    recordings = list(_read_recordings(storage, rows_of(storage, indexed, touched), threads))
    done = _aligned(storage, spec, published, touched)
    work, waiting = [], 0
    for recording in recordings:
        for episode in episodes_of(recording):
            if episode.episode_id in done:
                continue
            if not is_ready(episode, recording, cameras=tuple(spec.cameras), reach_ns=spec.reach_ns):
                waiting += 1
                continue
            work.append(Work(episode, tuple(_segments(episode, recording, spec))))
    work.sort(key=lambda one: (one.episode.robot_id, one.episode.episode_id))
    return Plan(tuple(work), waiting)


def _segments(episode: Episode, recording: Recording, spec: AlignSpec) -> Iterator[Row]:
    """Sound segments that overlap the episode, its tolerances included, and hold something the spec asks for."""
    start_ns, end_ns = episode.start_ns - spec.reach_ns, episode.end_ns + spec.reach_ns
    for row in recording.rows:
        wanted = row["stream"] in spec.cameras if row["kind"] == "video" else _has_topic(row, spec.topics)
        if row["state"] == "ok" and wanted and overlaps(row, start_ns, end_ns):
            yield dict(row)


def _has_topic(row: Any, topics: frozenset[str]) -> bool:
    return any(topic["name"] in topics for topic in row["topics"] or ())


def _aligned(storage: Storage, spec: AlignSpec, published: Manifest | None, recordings: Sequence[str]) -> set[str]:
    if published is None:
        return set()
    table = open_table(storage, f"{versions.DATASETS}/{spec.name}", published, "episodes")
    found = table.to_table(columns=["episode_id"], filter=contains("recording_id", recordings))
    return set(found["episode_id"].to_pylist())


def _read_recordings(storage: Storage, rows: Sequence[Row], threads: int) -> Iterator[Recording]:
    """Recordings of rows in their order, with the labels and the closing word that stand in their segments."""
    store = RawStore.open(storage)
    telling = [
        row for row in rows if row["state"] == "ok" and _has_topic(row, frozenset((EPISODE_TOPIC, CLOSED_TOPIC)))
    ]
    with ThreadPoolExecutor(threads) as pool:
        told = dict(zip((row["key"] for row in telling), pool.map(lambda row: _told(store, row), telling), strict=True))
    for (robot, recording), group in groupby(rows, key=lambda row: (row["robot_id"], row["recording_id"])):
        own = list(group)
        messages = [message for row in own for message in told.get(row["key"], ())]
        labels = [Label.parse(t_ns, value) for topic, t_ns, value in messages if topic == EPISODE_TOPIC]
        words = (value.get("last_seq") for topic, _, value in messages if topic == CLOSED_TOPIC)
        closed = [word for word in words if _is_last_seq(word)]
        yield Recording(robot, recording, own, [label for label in labels if label], closed[-1] if closed else None)


def _is_last_seq(word: Any) -> bool:
    """Whether a closing word names the last seq of each stream."""
    return isinstance(word, dict) and all(isinstance(seq, int) and not isinstance(seq, bool) for seq in word.values())


def _told(store: RawStore, row: Row) -> list[tuple[str, int, dict[str, Any]]]:
    """(topic, time, value) of a segment's labels and closing word; what is no JSON object is no word of ours."""
    found = []
    for message in read_messages(io.BytesIO(store.get(segment_of(row)))):
        if message.topic.name in _TELLING and message.topic.encoding == "json":
            try:
                value = json.loads(message.data)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                found.append((message.topic.name, message.t_ns, value))
    return found
