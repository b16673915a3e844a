"""What one task of align_frames does: the rows of its episodes for all tables, written as fragments."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from dataset_catalog import publish, versions
from dataset_catalog.align import Frames, Series, series_batch, statistics_batch, steps_batch
from dataset_catalog.publish import Written
from dataset_catalog.rendition import Fidelity
from dataset_catalog.schema import EPISODES, GOPS, SERIES, STATISTICS
from dataset_catalog.storage import Storage
from dataset_catalog.tracks import Track
from edge.segment_reader import read_topics
from ingest_serve.raw_store import RawStore
from ray_jobs.align_spec import AlignSpec
from ray_jobs.cluster import Item, Part
from ray_jobs.episodes import Episode, overlaps
from ray_jobs.errors import SegmentLost, SpecError
from ray_jobs.gop_rows import camera_batches, check_order
from ray_jobs.lost import read_indexed
from ray_jobs.media import read_track
from ray_jobs.messages import UNDECODED, decode_each
from ray_jobs.poison import blamed_on
from ray_jobs.segments_table import Row, segment_of
from ray_jobs.series import Readings

_UNUSABLE = "the episode's telemetry cannot be used"
MAX_EPISODE_NS = 24 * 3600 * 1_000_000_000
TOGETHER_BYTES = 64 << 20  # of readings, about
TABLES = ("gops", "series", "statistics", "steps", "episodes")


class EpisodeReader:
    """Reads the raw segments of one episode and keeps none of them."""

    def __init__(self, store: RawStore, spec: AlignSpec, item: Item) -> None:
        self._store = store
        self._spec = spec
        self.episode = Episode(**item["episode"])
        self._segments: list[Row] = item["segments"]
        self._unusable: str = item["unusable"]

    def video(self, camera: str) -> list[Row]:
        return [row for row in self._segments if row["stream"] == camera]

    @property
    def sources(self) -> list[dict[str, str]]:
        return [{"key": row["key"], "sha256": row["sha256"]} for row in self._segments]

    def read_track(self, row: Mapping[str, Any]) -> Track:
        raw, body = read_indexed(self._store, segment_of(dict(row)), sha256=row["sha256"])
        return read_track(body, content_type=raw.content_type, start_ns=raw.start_ns, is_sound=True)

    def check(self) -> None:
        """`SpecError` where the episode cannot be a part of this dataset."""
        if self._unusable:
            raise SpecError(self._unusable)
        length_ns = self.episode.end_ns - self.episode.start_ns
        if length_ns > MAX_EPISODE_NS:
            raise SpecError(f"an episode of {length_ns / 3.6e12:.0f} hours: did the robot's clock step?")
        reference = self._spec.reference
        if reference is not None and not any(self._has_frame(row) for row in self.video(reference)):
            raise SpecError(f"no picture of the reference camera {reference}")
        for camera in self._spec.cameras:
            check_order(camera, self.video(camera))

    def _has_frame(self, row: Row) -> bool:
        """Whether a picture of this segment lies in the episode; it is read only where its ends don't tell."""
        start_ns, end_ns = self.episode.start_ns, self.episode.end_ns
        if any(start_ns <= t_ns < end_ns for t_ns in (row["start_ns"], row["end_ns"] - 1)):
            return True
        if not overlaps(row, start_ns, end_ns):
            return False
        return any(start_ns <= packet.t_ns < end_ns for packet in self.read_track(row).packets)

    def series(self) -> dict[str, Series]:
        """Every column's series in the episode, extended by its tolerance on both sides.

        One segment at a time is in memory, and of the others their readings.
        """
        readings = {name: Readings(name, column) for name, column in self._spec.columns.items()}
        start_ns, end_ns = self.episode.start_ns, self.episode.end_ns
        for row in self._segments:
            if row["stream"] not in self._spec.cameras:
                self._collect(row, readings)
        with blamed_on(SpecError, _UNUSABLE):
            return {
                name: readings[name].series().within(start_ns - column.tolerance_ns, end_ns + column.tolerance_ns)
                for name, column in self._spec.columns.items()
            }

    def _collect(self, row: Row, readings: Mapping[str, Readings]) -> None:
        """A segment's readings; messages that cannot be decoded are none. The store compares the bytes' digest."""
        body = io.BytesIO(read_indexed(self._store, segment_of(row), sha256=row.get("sha256"))[1])
        found: dict[str, list[tuple[int, Any]]] = {}
        for topic, messages in read_topics(body, check_crcs=False, wanted=self._spec.topics).items():
            pairs = zip(messages.t_ns.tolist(), decode_each(messages, self._spec.fields_of(topic.name)), strict=True)
            decoded = [(t_ns, value) for t_ns, value in pairs if value is not UNDECODED]
            found.setdefault(topic.name, []).extend(decoded)
        with blamed_on(SpecError, _UNUSABLE):
            for name, column in self._spec.columns.items():
                readings[name].add(found.get(column.topic, ()))


Aligned = tuple[EpisodeReader, dict[str, Series]]


def align_batch(storage: Storage, spec: AlignSpec, items: Sequence[Item]) -> Part:
    """Align each episode. One that does not fit the spec is left out of all tables and named with its reason."""
    store = RawStore.open(storage)  # which takes as long as reading three segments
    skipped: dict[str, str] = {}
    readers = (EpisodeReader(store, spec, item) for item in items)
    parts = [_write_whole(storage, spec, found, skipped) for found in _together(readers, skipped)]
    written = {table: Written.join(part[table] for part, _ in parts) for table in TABLES}
    fidelity = Fidelity.join(one for _, one in parts)
    return Part(written, {"skipped": skipped, "fidelity": asdict(fidelity)})


def _together(readers: Iterable[EpisodeReader], skipped: dict[str, str]) -> Iterator[list[Aligned]]:
    """Episodes that are written together, since a file takes longer than an episode's rows: as many as memory holds."""
    found: list[Aligned] = []
    size = 0
    for reader in readers:
        try:
            reader.check()
            series = reader.series()
        except (SpecError, SegmentLost) as error:
            skipped[reader.episode.episode_id] = str(error)
            continue
        found.append((reader, series))
        size += sum(one.values.nbytes + one.t_ns.nbytes for one in series.values())
        if size >= TOGETHER_BYTES:
            yield found
            found, size = [], 0
    if found:
        yield found


def _write_whole(
    storage: Storage, spec: AlignSpec, found: list[Aligned], skipped: dict[str, str]
) -> tuple[dict[str, Written], Fidelity]:
    """The fragments of these episodes, but for those whose video turns out to be lost while it is copied.

    What was written before that is part of no version, and is written again without them.
    """
    fidelity = Fidelity()
    try:
        return _write(storage, spec, found, fidelity), fidelity
    except SegmentLost as lost:
        gone = {one.episode.episode_id for one, _ in found if lost.key in {source["key"] for source in one.sources}}
        if not gone:
            raise
        skipped |= dict.fromkeys(gone, str(lost))
        left = [one for one in found if one[0].episode.episode_id not in gone]
        return _write_whole(storage, spec, left, skipped)


def _write(storage: Storage, spec: AlignSpec, found: Sequence[Aligned], fidelity: Fidelity) -> dict[str, Written]:
    """The fragments of all tables; video first, as steps point to its frames."""
    write = partial(publish.write, storage, f"{versions.DATASETS}/{spec.name}")
    frames: dict[str, dict[str, Frames]] = {}
    gops = write("gops", GOPS, _gop_batches(spec, [reader for reader, _ in found], frames, fidelity))
    steps, episodes = [], []
    for reader, series in found:
        own = frames[reader.episode.episode_id]
        steps.append(steps_batch(reader.episode, spec, series, own))
        episodes.append(_episode_row(spec, reader, series, own, steps[-1].num_rows))
    return {
        "gops": gops,
        "series": write("series", SERIES, [series_batch(SERIES, reader.episode, series) for reader, series in found]),
        "statistics": write("statistics", STATISTICS, [statistics_batch(one.episode, series) for one, series in found]),
        "steps": write("steps", spec.steps_schema, steps),
        "episodes": write("episodes", EPISODES, pa.Table.from_pylist(episodes, schema=EPISODES).to_batches()),
    }


def _gop_batches(
    spec: AlignSpec, readers: Sequence[EpisodeReader], frames: dict[str, dict[str, Frames]], fidelity: Fidelity
) -> Iterator[pa.RecordBatch]:
    for reader in readers:
        found = frames.setdefault(reader.episode.episode_id, {})
        for name, camera in spec.cameras.items():
            yield from camera_batches(
                reader.episode,
                name,
                reader.video(name),
                read=reader.read_track,
                tolerance_ns=camera.tolerance_ns,
                found=found,
                fidelity=fidelity,
            )


def _episode_row(
    spec: AlignSpec, reader: EpisodeReader, series: Mapping[str, Series], frames: Mapping[str, Frames], steps: int
) -> dict[str, Any]:
    columns: dict[str, Any] = {
        name: {
            "size": column.size,
            "names": series[name].names,
            "policy": column.policy,
            "tolerance_ns": column.tolerance_ns,
            "topic": column.topic,
            "field": column.field,
        }
        for name, column in spec.columns.items()
    }
    for name, camera in spec.cameras.items():
        rendition = frames[name].rendition if frames[name].times else None
        columns[name] = {"camera": True, "tolerance_ns": camera.tolerance_ns, "rendition": rendition}
    return {**asdict(reader.episode), "steps": steps, "columns": json.dumps(columns), "sources": reader.sources}
