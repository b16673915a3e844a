"""The delivery ledger of a demonstration: what was recorded, what is stored, what is indexed. They must be equal."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import av

from dataset_catalog import Catalog
from edge.segment import read_messages
from edge.topics import AGENT_STREAM
from edge.wire import GAP_TYPE, MP4_TYPE, SegmentId
from ingest_serve.raw_store import RawObject, RawStore


@dataclass(frozen=True, slots=True)
class Tally:
    """Telemetry messages and camera frames, at one place on the way."""

    place: str
    telemetry: int
    frames: int

    def agrees_with(self, other: Tally) -> bool:
        return (self.telemetry, self.frames) == (other.telemetry, other.frames)


def recorded(counts: Iterable[Mapping[str, int]], cameras: Iterable[str]) -> Tally:
    """What the recorders say that they wrote, by topic."""
    camera_topics = {f"/{camera}" for camera in cameras}
    pairs = [pair for one in counts for pair in one.items()]
    frames = sum(n for topic, n in pairs if topic in camera_topics)
    return Tally("recorded", sum(n for _, n in pairs) - frames, frames)


def stored(store: RawStore, recordings: Collection[str]) -> Tally:
    """What the bucket's objects of these recordings hold: every one is read, its messages and frames are counted."""
    sums = {"telemetry": 0, "video": 0}
    with ThreadPoolExecutor(4) as pool:
        for kind, n in pool.map(lambda name: _count(*store.read(name)), _segments(store, recordings)):
            sums[kind] += n
    return Tally("stored", sums["telemetry"], sums["video"])


def indexed(catalog: Catalog, recordings: Collection[str]) -> Tally:
    """What the jobs found whole of these recordings."""
    whole = f"state = 'ok' AND stream <> '{AGENT_STREAM}' AND recording_id IN {among(recordings)}"
    found = catalog.sql(
        "SELECT coalesce(sum(messages) FILTER (kind = 'telemetry'), 0)::BIGINT AS telemetry, "
        f"coalesce(sum(frames) FILTER (kind = 'video'), 0)::BIGINT AS frames FROM segments WHERE {whole}"
    ).to_pylist()[0]
    return Tally("indexed", found["telemetry"], found["frames"])


def among(names: Collection[str]) -> str:
    """An SQL list of ids, which hold no quote."""
    return "(" + ", ".join(f"'{name}'" for name in sorted(names)) + ")"


def _segments(store: RawStore, recordings: Collection[str]) -> Iterable[SegmentId]:
    for robot, recording, stream in store.list_streams():
        if stream != AGENT_STREAM and recording in recordings:
            for seq in store.list_after(robot, recording, stream, -1):
                yield SegmentId(robot, recording, stream, seq)


def _count(raw: RawObject, body: bytes) -> tuple[str, int]:
    if raw.content_type == GAP_TYPE:
        return raw.kind, 0  # tells of what did not arrive
    if raw.content_type != MP4_TYPE:
        return raw.kind, sum(1 for _ in read_messages(io.BytesIO(body)))
    with av.open(io.BytesIO(body), format="mp4") as container:
        return raw.kind, sum(1 for packet in container.demux(video=0) if packet.pts is not None)
