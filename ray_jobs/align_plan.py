"""What align_frames has yet to do: which episodes are whole and new, or have changed, and the segments of each.

An episode has changed where late data lie in it, or its labels came late: it is made from other segments than its rows
in the dataset, or says otherwise what it is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
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
    has_topic,
    is_ready,
    lost_label,
    overlaps,
)
from ray_jobs.errors import SegmentLost
from ray_jobs.lost import read_indexed
from ray_jobs.segments_table import GONE, Row, rows_after, rows_of, segment_of

_NEEDED = ("robot_id", "recording_id", "stream", "seq", "key", "sha256", "start_ns", "end_ns", "width", "height")

_TELLING = frozenset((EPISODE_TOPIC, CLOSED_TOPIC))


@dataclass(frozen=True, slots=True)
class Work:
    """One episode to align and the rows of its segments; `unusable`: why it must be left out, or empty; `replaces`: the
    episodes of the dataset whose rows go for it."""

    episode: Episode
    segments: tuple[Row, ...]
    unusable: str = ""
    replaces: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        segments = [{name: row[name] for name in _NEEDED} for row in self.segments]
        return {"episode": asdict(self.episode), "segments": segments, "unusable": self.unusable}

    @property
    def told(self) -> dict[str, Any]:
        """What its row in `episodes` must say, if it is that of this work."""
        return {**asdict(self.episode), "sources": {(row["key"], row["sha256"]) for row in self.segments}}


@dataclass(frozen=True, slots=True)
class Plan:
    """`work` in order of robot and episode; `waiting`: episodes whose data have not all arrived; `gone`: recordings
    whose segments are kept no longer, and whose episodes stay as they are."""

    work: tuple[Work, ...]
    waiting: int
    gone: int = 0


def make_plan(
    storage: Storage, spec: AlignSpec, *, indexed: Manifest, published: Manifest | None, position: int, threads: int
) -> Plan:
    """Look at every recording that has rows later than `position`, for episodes that are new or have changed."""
    touched = sorted({row["recording_id"] for row in rows_after(storage, indexed, position)})
    return _plan(storage, spec, indexed, published, touched, threads, has_changed)


def plan_again(
    storage: Storage,
    spec: AlignSpec,
    *,
    indexed: Manifest,
    published: Manifest,
    robot: str | None,
    start_ns: int,
    end_ns: int,
    threads: int,
) -> Plan:
    """Every episode of the robot (None: of all) that overlaps `[start_ns, end_ns)`, be it unchanged."""
    where = f"end_ns > {start_ns} AND start_ns < {end_ns}"
    where += f" AND {contains('robot_id', [robot])}" if robot is not None else ""
    recordings = sorted({row["recording_id"] for row in rows_after(storage, indexed, 0, where=where)})

    def is_asked_for(work: Work, _: Told | None) -> bool:
        episode = work.episode
        return robot in (None, episode.robot_id) and episode.start_ns < end_ns and episode.end_ns > start_ns

    return _plan(storage, spec, indexed, published, recordings, threads, is_asked_for)


Key = tuple[str, str, str]  # of an episode: robot, recording, id
Told = Mapping[str, Any]  # what a row of `episodes` says, as `Work.told`


def has_changed(work: Work, before: Told | None) -> bool:
    """Whether the episode is not in the dataset as it is now."""
    return before is None or any(before[name] != value for name, value in work.told.items())


def _plan(
    storage: Storage,
    spec: AlignSpec,
    indexed: Manifest,
    published: Manifest | None,
    recordings: Sequence[str],
    threads: int,
    is_wanted: Callable[[Work, Told | None], bool],
) -> Plan:
    if not recordings:
        return Plan((), 0)
    done = _aligned(storage, spec, published, recordings)
    work, waiting = [], 0
    rows = rows_of(storage, indexed, recordings)
    gone = {row["recording_id"] for row in rows if row["state"] in GONE}
    kept = [row for row in rows if row["recording_id"] not in gone]
    found = [
        (one, recording) for recording in _read_recordings(storage, kept, threads) for one in episodes_of(recording)
    ]
    owners = _owners(storage, spec, published, [episode.episode_id for episode, _ in found])
    for episode, recording in found:
        one = replace(work_on(episode, recording, spec), replaces=_replaced(episode, done))
        if not is_wanted(one, done.get(_key(episode))):
            continue
        if is_ready(episode, recording, cameras=tuple(spec.cameras), topics=spec.topics, reach_ns=spec.reach_ns):
            work.append(_unless_owned(one, owners))
        else:
            waiting += 1
    work.sort(key=lambda one: (one.episode.robot_id, one.episode.episode_id))
    return Plan(tuple(work), waiting, len(gone))


def _key(episode: Episode) -> Key:
    return episode.robot_id, episode.recording_id, episode.episode_id


def _replaced(episode: Episode, done: Mapping[Key, Told]) -> tuple[str, ...]:
    """Its own rows of before; and those of the whole recording, which was one episode until its labels came."""
    *owner, own = _key(episode)
    return tuple(name for name in dict.fromkeys((own, episode.recording_id)) if (*owner, name) in done)


def _owners(storage: Storage, spec: AlignSpec, published: Manifest | None, ids: Sequence[str]) -> dict[str, Key]:
    """Episode id → whose rows the dataset has under it."""
    if published is None or not ids:
        return {}
    table = open_table(storage, f"{versions.DATASETS}/{spec.name}", published, "episodes")
    names = ["robot_id", "recording_id", "episode_id"]
    found = table.to_table(columns=names, filter=contains("episode_id", sorted(set(ids)))).to_pylist()
    return {row["episode_id"]: (row["robot_id"], row["recording_id"], row["episode_id"]) for row in found}


def _unless_owned(work: Work, owners: dict[str, Key]) -> Work:
    """Rows are named by their episode's id alone: the first recording that comes with an id keeps it."""
    robot, recording, name = owners.setdefault(work.episode.episode_id, _key(work.episode))
    if (robot, recording, name) == _key(work.episode):
        return work
    return replace(work, unusable=f"{robot}'s recording {recording} has an episode of the same id", replaces=())


def work_on(episode: Episode, recording: Recording, spec: AlignSpec) -> Work:
    """The sound segments that overlap the episode, its tolerances included, and hold something the spec asks for."""
    start_ns, end_ns = episode.start_ns - spec.reach_ns, episode.end_ns + spec.reach_ns
    near = [dict(row) for row in _asked_for(recording, spec, "ok") if overlaps(row, start_ns, end_ns)]
    return Work(episode, tuple(near), _unusable(episode, recording, spec))


def _asked_for(recording: Recording, spec: AlignSpec, state: str) -> Iterator[Mapping[str, Any]]:
    """Rows of one state that hold something the spec asks for; or may have, where a gap does not tell."""
    for row in recording.rows:
        told = row["topics"] or row["stream"].startswith("_") or state != "gap"
        wanted = row["stream"] in spec.cameras if row["kind"] == "video" else has_topic(row, spec.topics) or not told
        if row["state"] == state and wanted:
            yield row


def _unusable(episode: Episode, recording: Recording, spec: AlignSpec) -> str:
    """Why nothing is left of the episode but gaps (of its reference camera, if it has one), or its label is lost."""
    label = lost_label(episode, recording)
    if label is not None:
        return f"its labels are lost: {_named(label)}"
    sound, gaps = (
        [
            row
            for row in _asked_for(recording, spec, state)
            if overlaps(row, episode.start_ns, episode.end_ns) and spec.reference in (None, row["stream"])
        ]
        for state in ("ok", "gap")
    )
    return f"all of it lies in gaps: {_named(gaps[0])}" if gaps and not sound else ""


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['key']}, {row['reason']}"


def _aligned(
    storage: Storage, spec: AlignSpec, published: Manifest | None, recordings: Sequence[str]
) -> dict[Key, Told]:
    """What the dataset says of the recordings' episodes."""
    if published is None:
        return {}
    table = open_table(storage, f"{versions.DATASETS}/{spec.name}", published, "episodes")
    columns = [field.name for field in fields(Episode)]
    found = table.to_table(columns=[*columns, "sources"], filter=contains("recording_id", recordings)).to_pylist()
    return {
        (row["robot_id"], row["recording_id"], row["episode_id"]): row
        | {"sources": {(one["key"], one["sha256"]) for one in row["sources"]}}
        for row in found
    }


def _read_recordings(storage: Storage, rows: Sequence[Row], threads: int) -> Iterator[Recording]:
    """Recordings of rows in their order, with the labels and the closing word that stand in their segments."""
    store = RawStore.open(storage)
    telling = [row for row in rows if row["state"] == "ok" and has_topic(row, _TELLING)]
    with ThreadPoolExecutor(threads) as pool:
        found = list(zip(telling, pool.map(lambda row: _told(store, row), telling), strict=True))
    lost = {row["key"]: str(one) for row, one in found if isinstance(one, SegmentLost)}
    told = {row["key"]: one for row, one in found if not isinstance(one, SegmentLost)}
    rows = [row | {"state": "quarantined", "reason": lost[row["key"]]} if row["key"] in lost else row for row in rows]
    for (robot, recording), group in groupby(rows, key=lambda row: (row["robot_id"], row["recording_id"])):
        own = list(group)
        sound = (row for row in own if row["state"] == "ok")  # a hole that was named has the key of its first seq
        messages = [message for row in sound for message in told.get(row["key"], ())]
        labels = [Label.parse(t_ns, value) for topic, t_ns, value in messages if topic == EPISODE_TOPIC]
        words = (value.get("last_seq") for topic, _, value in messages if topic == CLOSED_TOPIC)
        closed = [word for word in words if _is_last_seq(word)]
        yield Recording(robot, recording, own, [label for label in labels if label], closed[-1] if closed else None)


def _is_last_seq(word: Any) -> bool:
    """Whether a closing word names the last seq of each stream."""
    return isinstance(word, dict) and all(isinstance(seq, int) and not isinstance(seq, bool) for seq in word.values())


def _told(store: RawStore, row: Row) -> list[tuple[str, int, dict[str, Any]]] | SegmentLost:
    """(topic, time, value) of a segment's labels and closing word; what is no JSON object is no word of ours."""
    found = []
    try:
        _, body = read_indexed(store, segment_of(row))
    except SegmentLost as lost:
        return lost
    for message in read_messages(io.BytesIO(body)):
        if message.topic.name in _TELLING and message.topic.encoding == "json":
            try:
                value = json.loads(message.data)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                found.append((message.topic.name, message.t_ns, value))
    return found
