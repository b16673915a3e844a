"""One raw object's row in the index: what it is and what is in it, what a gap covers, or why it is quarantined."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from dataset_catalog.topic_names import table_name
from edge.errors import GapError, SegmentError
from edge.segment import Topic, read_messages
from edge.wire import GAP_TYPE, MAX_TIME_NS, MCAP_TYPE, RobotClock, SegmentId
from ingest_serve.errors import DamagedObject
from ingest_serve.raw_store import RawObject, RawStore
from ray_jobs.errors import MediaError
from ray_jobs.gaps import parse_gap
from ray_jobs.media import read_track, topics_of
from ray_jobs.opening import opening_of, software_version
from ray_jobs.picture_check import check_pictures
from ray_jobs.poison import blamed_on
from ray_jobs.sandbox import Sandbox, SandboxDied
from ray_jobs.unpacked import MESSAGE_BYTES, check_memory, check_unpacked_size

MAX_TABLE_NAME = 255 - len(".lance")  # what a file system takes for its folder
MAX_TOPICS = 1000  # of one segment: each is a table, which every later run opens
TRIES = 2  # the first may have met a machine without memory
MIN_PICTURE = 2  # pixels, across and down

Row = dict[str, Any]  # a row of schema.SEGMENTS; columns that are not named are null


@dataclass(frozen=True, slots=True)
class Stored:
    """A raw object and its verified bytes; `body` is None where they are not what was stored, `reason` says why."""

    segment: SegmentId
    raw: RawObject | None
    body: bytes | None
    reason: str = ""
    opening: bytes | None = None  # the recording's opening record, where it has come already


def fetch(store: RawStore, segment: SegmentId) -> Stored:
    """Read one segment. What is damaged in the store is told, not raised: the others must go on."""
    opening = opening_of(store, segment)
    try:
        raw, body = store.read(segment)
    except DamagedObject as error:
        return Stored(segment, _head(store, segment), None, str(error), opening)
    return Stored(segment, raw, body, opening=opening)


def _head(store: RawStore, segment: SegmentId) -> RawObject | None:
    try:
        return store.head(segment)
    except DamagedObject:
        return None


def examine(stored: Stored, *, index_version: int) -> Row:
    """The object's row. Whatever is wrong with its content makes it a quarantined row with the reason in words."""
    row = {**_identity(stored), "index_version": index_version, "software_version": software_version(stored.opening)}
    if stored.raw is None or stored.body is None:
        return {**row, "state": "quarantined", "reason": stored.reason}
    try:
        with blamed_on(MediaError, "the segment cannot be read"):
            return {**row, **_content(stored.raw, stored.body)}
    except (GapError, MediaError, SegmentError) as error:
        return {**row, "state": "quarantined", "reason": str(error)}


def examine_apart(stored: Stored, sandbox: Sandbox, *, index_version: int) -> Row:
    """`examine` in the sandbox: what ends it twice is quarantined too."""
    reason = ""
    for _ in range(TRIES):
        try:
            return dict(sandbox.run(examine, stored, index_version=index_version))
        except SandboxDied as died:
            reason = f"looking into it failed {TRIES} times: {died}"
    return {**_identity(stored), "index_version": index_version, "state": "quarantined", "reason": reason}


def _identity(stored: Stored) -> Row:
    name = stored.segment
    row: Row = {"robot_id": name.robot, "recording_id": name.recording, "stream": name.stream, "seq": name.seq}
    row["key"] = name.key
    if stored.raw is not None:
        for column in ("kind", "content_type", "start_ns", "end_ns", "bytes", "sha256", "received_ns"):
            row[column] = getattr(stored.raw, column)
        row |= _clock(stored.raw.robot_clock)
    return row


def _clock(field: str | None) -> Row:
    """What the robot knew of its clock when it uploaded this, if it told."""
    if field is None:
        return {}
    try:
        clock = RobotClock.parse_field(field)
    except ValueError:
        return {}  # an older release may have taken another form
    return {
        "clock_offset_ns": clock.offset_ns,
        "clock_uncertainty_ns": clock.uncertainty_ns,
        "clock_drift_ppb": clock.drift_ppb,
    }


def _content(raw: RawObject, body: bytes) -> Row:
    if raw.content_type == GAP_TYPE:
        return {**_gap(raw, body), "state": "gap"}
    if raw.content_type == MCAP_TYPE:
        check_unpacked_size(body)
    read = _video if raw.kind == "video" else _telemetry
    return {**read(raw, body), "state": "ok"}


def _gap(raw: RawObject, body: bytes) -> Row:
    """What the robot says that the gap had in it, as far as it knows."""
    gap = parse_gap(raw.segment, body)
    topics = [
        {"name": name, "encoding": "", "schema_name": "", "count": count} for name, count in sorted(gap.counts.items())
    ]
    return {
        "last_seq": gap.last_seq,
        "start_ns": gap.start_ns,
        "end_ns": gap.end_ns,
        "reason": f"{gap.cause}: {gap.reason}",
        "messages": sum(gap.counts.values()),
        "topics": topics,
    }


def _telemetry(raw: RawObject, body: bytes) -> Row:
    if raw.content_type != MCAP_TYPE:
        raise SegmentError(f"telemetry must be {MCAP_TYPE}, got {raw.content_type!r}")
    counts: Counter[Topic] = Counter()
    start_ns, end_ns, size = 2**63 - 1, 0, 0
    for message in read_messages(io.BytesIO(body)):
        counts[message.topic] += 1
        size += len(message.data) + MESSAGE_BYTES
        check_memory(size)
        start_ns, end_ns = min(start_ns, message.t_ns), max(end_ns, message.t_ns + 1)
    if not counts:
        raise SegmentError("the segment holds no message")
    names = {topic.name for topic in counts}
    if len(names) > MAX_TOPICS:
        raise SegmentError(f"the segment has {len(names)} topics, at most {MAX_TOPICS} become tables")
    longest = max(names, key=lambda name: len(table_name(name)))
    if len(table_name(longest)) > MAX_TABLE_NAME:
        raise SegmentError(f"the topic {longest[:80]}… is longer than what can name a table")
    return {"start_ns": start_ns, "end_ns": end_ns, "messages": counts.total(), "topics": _topics(counts)}


def _topics(counts: Counter[Topic]) -> list[Row]:
    return [
        {"name": topic.name, "encoding": topic.encoding, "schema_name": topic.schema_name, "count": count}
        for topic, count in sorted(counts.items(), key=lambda item: (item[0].name, item[0].schema_name))
    ]


def _video(raw: RawObject, body: bytes) -> Row:
    track = read_track(body, content_type=raw.content_type, start_ns=raw.start_ns)
    pictures = check_pictures(track)
    times = [packet.t_ns for packet in track.packets]
    if min(times) < 0 or max(times) >= MAX_TIME_NS:
        raise MediaError(f"capture times must be within 0..{MAX_TIME_NS - 1} ns, got {min(times)}..{max(times)}")
    if min(pictures.width, pictures.height) < MIN_PICTURE:
        raise MediaError(f"pictures of {pictures.width}x{pictures.height} are no video, {MIN_PICTURE} pixels at least")
    return {
        "start_ns": min(times),
        "end_ns": max(times) + 1,
        "messages": len(track.packets),
        "topics": topics_of(track),
        "frames": pictures.frames,
        "codec": track.codec,
        "width": pictures.width,
        "height": pictures.height,
        "fps": pictures.fps,
        **asdict(pictures.quality),
        "thumbnail": pictures.thumbnail,
        "gops": [{"start_ns": gop.start_ns, "frames": len(gop.packets), "bytes": gop.bytes} for gop in track.gops],
    }
