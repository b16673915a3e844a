"""Which episodes a recording holds, and whether all of one has arrived. Pure; rows are those of lake/segments."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_jobs.texts import storable

EPISODE_TOPIC = "/episode"
CLOSED_TOPIC = "/recording/closed"
EVENTS_STREAM = "_events"  # where labels are; in older recordings they are in `telemetry`


@dataclass(frozen=True, slots=True)
class Label:
    """One message of `/episode`; its time is the boundary."""

    t_ns: int
    episode_id: str
    event: str  # start | end
    task: str
    success: bool | None
    notes: str | None

    @classmethod
    def parse(cls, t_ns: int, message: Any) -> Label | None:
        """None for a message that is no label."""
        fields = message if isinstance(message, dict) else {}
        identity, event, success, notes = (fields.get(name) for name in ("episode_id", "event", "success", "notes"))
        if not isinstance(identity, str) or not identity or event not in ("start", "end"):
            return None
        if identity != storable(identity):
            return None
        return cls(
            t_ns,
            identity,
            event,
            task=storable(str(fields.get("task") or "")),
            success=success if isinstance(success, bool) else None,
            notes=storable(notes) if isinstance(notes, str) else None,
        )


@dataclass(frozen=True, slots=True)
class Episode:
    """A labelled range of a recording, or a whole recording without labels (then its id is the recording's)."""

    episode_id: str
    robot_id: str
    recording_id: str
    task: str
    success: bool | None
    notes: str | None
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Recording:
    """What has been indexed of a recording. `last_seq`: stream → last seq as its closing word says, or None."""

    robot_id: str
    recording_id: str
    rows: Sequence[Mapping[str, Any]]
    labels: Sequence[Label] = ()
    last_seq: Mapping[str, int] | None = None

    @property
    def is_complete(self) -> bool:
        """Closed, and every stream indexed up to its last segment. Rows of a stream have no hole but their gaps'."""
        if self.last_seq is None:
            return False
        reached: dict[str, int] = {}
        for row in self.rows:
            last = row["seq"] if row["last_seq"] is None else row["last_seq"]
            reached[row["stream"]] = max(last, reached.get(row["stream"], -1))
        return all(reached.get(stream, -1) >= last for stream, last in self.last_seq.items())

    @property
    def until_ns(self) -> dict[str, int]:
        """Data stream → the end of what is indexed of it, gaps included. Streams with an underscore are our own: they
        are sparse, and say nothing for long."""
        found: dict[str, int] = {}
        for row in self.rows:
            if not row["stream"].startswith("_") and row["end_ns"] is not None:
                found[row["stream"]] = max(row["end_ns"], found.get(row["stream"], 0))
        return found

    @property
    def topics(self) -> set[str]:
        """Every topic that it is known to have, be it that it has gone missing."""
        return {topic["name"] for row in self.rows for topic in row["topics"] or ()}

    @property
    def lost_labels(self) -> list[Mapping[str, Any]]:
        """Rows of gaps and of damage that had labels in them, or may have had. What came late is not lost."""
        lost = [row for row in self.rows if row["state"] != "ok"]
        told = [row for row in lost if has_topic(row, (EPISODE_TOPIC,)) or _may_be_labels(row)]
        return [row for row in told if not self._is_filled(row)]

    def _is_filled(self, gap: Mapping[str, Any]) -> bool:
        """Whether all that a hole was named for has come."""
        if gap["last_seq"] is None:
            return False
        seqs = range(gap["seq"], gap["last_seq"] + 1)
        stored = (row for row in self.rows if row["stream"] == gap["stream"] and row["state"] == "ok")
        return sum(row["seq"] in seqs for row in stored) == len(seqs)


def episodes_of(recording: Recording) -> list[Episode]:
    """The recording's episodes whose both ends are known, in order of time.

    That there is no label, or no end to a start, is known once the recording is complete: labels come in a stream of
    their own, and may come last. Then an episode that was started and never ended ends where the next one starts, or
    with the recording; and a recording without labels is one episode.
    """
    complete = recording.is_complete
    until_ns = max(recording.until_ns.values(), default=0)
    if not recording.labels:
        return [_whole(recording)] if complete and until_ns else []
    labels = sorted(recording.labels, key=lambda label: label.t_ns)
    starts = {label.episode_id: label for label in reversed(labels) if label.event == "start"}
    ends = {label.episode_id: label for label in labels if label.event == "end"}
    found = []
    for start in sorted(starts.values(), key=lambda label: label.t_ns):
        following = (other.t_ns for other in starts.values() if other.t_ns > start.t_ns)
        open_end = replace(start, t_ns=min(following, default=until_ns)) if complete else None
        end = ends.get(start.episode_id, open_end)
        if end and start.t_ns < end.t_ns:
            found.append(_labelled(recording, start, end))
    return found


def is_ready(
    episode: Episode, recording: Recording, *, cameras: Sequence[str], topics: Collection[str], reach_ns: int
) -> bool:
    """Whether nothing can arrive any more that belongs to the episode or lies within `reach_ns` of it.

    Labels may come before any telemetry: until every camera and topic asked for was seen, the recording must be
    complete.
    """
    if recording.is_complete:
        return True
    until_ns = recording.until_ns
    known = all(camera in until_ns for camera in cameras) and recording.topics.issuperset(topics)
    return known and all(end_ns >= episode.end_ns + reach_ns for end_ns in until_ns.values())


def lost_label(episode: Episode, recording: Recording) -> Mapping[str, Any] | None:
    """The row that had the episode's label in it, maybe: where no end of it was told, and labels after its start are
    lost. Nobody knows then where it ends, or whether it is one episode."""
    if any(label.episode_id == episode.episode_id and label.event == "end" for label in recording.labels):
        return None
    later = (row for row in recording.lost_labels if row["end_ns"] is None or row["end_ns"] > episode.start_ns)
    return next(later, None)


def has_topic(row: Mapping[str, Any], topics: Collection[str]) -> bool:
    return any(topic["name"] in topics for topic in row["topics"] or ())


def overlaps(row: Mapping[str, Any], start_ns: int, end_ns: int) -> bool:
    return bool(row["start_ns"] < end_ns and row["end_ns"] > start_ns)


def _may_be_labels(row: Mapping[str, Any]) -> bool:
    return row["stream"] == EVENTS_STREAM and not row["topics"]


def _whole(recording: Recording) -> Episode:
    """From the first to the last thing that arrived: a gap at its edge has nothing to align."""
    rows = [row for row in recording.rows if row["stream"] in recording.until_ns and row["start_ns"] is not None]
    rows = [row for row in rows if row["state"] != "gap"] or rows
    name = (recording.recording_id, recording.robot_id, recording.recording_id)
    start_ns, end_ns = min(row["start_ns"] for row in rows), max(row["end_ns"] for row in rows)
    return Episode(*name, "", None, None, start_ns, end_ns)


def _labelled(recording: Recording, start: Label, end: Label) -> Episode:
    return Episode(
        start.episode_id,
        recording.robot_id,
        recording.recording_id,
        task=end.task or start.task,
        success=end.success,
        notes=end.notes or start.notes,
        start_ns=start.t_ns,
        end_ns=end.t_ns,
    )
