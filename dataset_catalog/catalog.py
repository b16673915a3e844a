"""What is in a lake: robots, recordings, videos, datasets, and SQL over all of it.

Everything is read at the Lance version that the newest manifest of its chain names, never at "latest": rows that a job
has written and not yet published are not seen, and two reads of one manifest give the same rows.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataset_catalog import labels, schema, versions
from dataset_catalog.clip import Clip
from dataset_catalog.contents import LONG, Contents
from dataset_catalog.cut import check_length, check_one_piece
from dataset_catalog.dataset import Dataset
from dataset_catalog.errors import NotFound, NoVideo, QueryError
from dataset_catalog.found import Found
from dataset_catalog.pinned import PinnedSet
from dataset_catalog.predicate import bracketed
from dataset_catalog.published import Published, chain_of
from dataset_catalog.search import Wanted, find_words
from dataset_catalog.settings import StorageSettings
from dataset_catalog.sights import middles_of, seen_at, with_dataset
from dataset_catalog.sql import View, query
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table
from dataset_catalog.thumbnails import find_thumbnails, segment_pictures, write_sheet
from dataset_catalog.times import Time, to_ns
from dataset_catalog.topic_names import table_name, topic_name
from dataset_catalog.versions import Manifest
from dataset_catalog.video_rows import find_cut, overlapping

_ROBOTS = """
SELECT robot_id, count(DISTINCT recording_id) AS recordings, count(*) FILTER (state <> 'gap') AS segments,
       sum(bytes)::BIGINT AS bytes, min(start_ns) AS start_ns, max(end_ns) AS end_ns, max(received_ns) AS received_ns,
       count(*) FILTER (state = 'quarantined') AS quarantined, count(*) FILTER (state = 'gap') AS gaps
FROM segments GROUP BY robot_id ORDER BY robot_id
"""
_RECORDINGS = """
SELECT robot_id, recording_id, min(start_ns) AS start_ns, max(end_ns) AS end_ns,
       list_sort(list(DISTINCT stream)) AS streams, count(*) FILTER (state <> 'gap') AS segments,
       sum(bytes)::BIGINT AS bytes, count(*) FILTER (state = 'quarantined') AS quarantined,
       count(*) FILTER (state = 'gap') AS gaps
FROM segments WHERE ? IS NULL OR robot_id = ?
GROUP BY robot_id, recording_id ORDER BY robot_id, start_ns, recording_id
"""
_VIDEOS = """
SELECT * FROM segments WHERE kind = 'video' AND state <> 'gap' AND (? IS NULL OR robot_id = ?)
AND (? IS NULL OR end_ns > ?) AND (? IS NULL OR start_ns < ?) AND {where} ORDER BY robot_id, start_ns, stream, seq
"""
_DATASETS = pa.schema(
    [
        ("name", pa.string()),
        ("version", pa.int64()),
        ("created_ns", pa.int64()),
        ("robots", pa.int64()),
        ("episodes", pa.int64()),
        ("steps", pa.int64()),
        ("cameras", pa.list_(pa.string())),
    ]
)
_EPISODES = """
SELECT dataset, version, * EXCLUDE (dataset, version) FROM episodes
WHERE (? IS NULL OR robot_id = ?) AND (? IS NULL OR task = ?) AND (? IS NULL OR end_ns > ?)
AND (? IS NULL OR start_ns < ?) AND {where} ORDER BY robot_id, start_ns, dataset, episode_id
"""
_NO_EPISODES = pa.schema(
    [
        *(field for field in schema.EPISODES if field.name not in LONG),
        ("labels", labels.MAP),
        ("dataset", pa.string()),
        ("version", pa.int64()),
    ]
).empty_table()


class Catalog:
    """One lake. Cheap to make; keeps no connection and no cache, so it always answers with what is published now.

    `pinned`: chains that are read at this manifest instead (None: as if nothing were published).
    """

    def __init__(self, storage: Storage, *, pinned: Mapping[str, Manifest | None] | None = None) -> None:
        self.storage = storage
        self._published = Published(storage, pinned=pinned)

    @classmethod
    def open(cls, url: str | None = None, *, settings: StorageSettings | None = None) -> Catalog:
        """The lake at `url` (`s3://bucket[/prefix]` or a folder), or where the settings say.

        Raises `StorageError` for another kind of URL.
        """
        return cls(Storage.open(url, settings=settings))

    def __repr__(self) -> str:
        return f"<Catalog {self.storage.url}>"

    def robots(self) -> pa.Table:
        """One row a robot: recordings, segments, bytes, quarantined, gaps, start_ns, end_ns, received_ns (newest)."""
        return query(_ROBOTS, [self._published.segments()])

    def recordings(self, robot: str | None = None) -> pa.Table:
        """One row a recording, oldest first: its time range, streams, segments, bytes, quarantined segments, gaps."""
        return query(_RECORDINGS, [self._published.segments()], [robot, robot])

    def videos(
        self, robot: str | None = None, *, start: Time | None = None, end: Time | None = None, where: str | None = None
    ) -> Found:
        """The rows of `segments` that are video (no gaps), overlap `[start, end)` and satisfy `where`.

        start, end  int nanoseconds, a datetime, or ISO 8601 text; without a zone it is UTC
        where       an SQL predicate on the columns of `segments`, such as `luma_mean < 40 AND state = 'ok'`

        Raises `QueryError` for a predicate that cannot be run.
        """
        start_ns, end_ns = (None if time is None else to_ns(time) for time in (start, end))
        sql = _VIDEOS.format(where=bracketed(where or "true"))
        segments = overlapping(self._published.segments(), robot, start_ns, end_ns)
        rows = query(sql, [segments], [robot, robot, start_ns, start_ns, end_ns, end_ns])
        return Found(rows, lambda shown: self._pictures([row["key"] for row in shown]), title="videos")

    def episodes(
        self,
        robot: str | None = None,
        *,
        start: Time | None = None,
        end: Time | None = None,
        task: str | None = None,
        where: str | None = None,
    ) -> Found:
        """The episodes of all datasets, at their newest versions, that overlap `[start, end)`, by robot and time.

        Labels are applied, and stand in a map `labels`; `dataset` and `version` say where to find an episode.

        where  an SQL predicate on these columns, such as `success AND labels['grip'] = 'firm'`
        """
        start_ns, end_ns = (None if time is None else to_ns(time) for time in (start, end))
        found = self._datasets()
        rows = [with_dataset(dataset) for dataset in found.values()] or [_NO_EPISODES]
        parameters = [robot, robot, task, task, start_ns, start_ns, end_ns, end_ns]
        views = [View("episodes", pa.concat_tables(rows))]
        return Found(
            query(_EPISODES.format(where=bracketed(where or "true")), views, parameters), middles_of(found.__getitem__)
        )

    def telemetry(
        self,
        topic: str,
        *,
        robot: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The messages of a topic in `[start, end)`, by robot and time, as the robots sent them.

        Arrow: `.to_pandas()`, or `polars.from_arrow(…)`. `columns` are those wanted beside `robot_id` and `t_ns`.
        Raises `NotFound` for a topic or a column that there is not.
        """
        manifest, name = self._published.newest(versions.TELEMETRY), table_name(topic)
        if manifest is None or name not in manifest.tables:
            there = sorted(map(topic_name, manifest.tables)) if manifest else []
            raise NotFound(f"no topic {topic!r} was recorded; there are {there}")
        table = open_table(self.storage, versions.TELEMETRY, manifest, name)
        unknown = set(columns or ()) - set(table.schema.names)
        if unknown:
            raise NotFound(f"{topic} has no column {sorted(unknown)}; it has {table.schema.names}")
        wanted = None if columns is None else list(dict.fromkeys(["robot_id", "t_ns", *columns]))
        conditions = [contains("robot_id", [robot])] if robot is not None else []
        conditions += [f"t_ns >= {to_ns(start)}"] if start is not None else []
        conditions += [f"t_ns < {to_ns(end)}"] if end is not None else []
        rows = table.to_table(columns=wanted, filter=" AND ".join(conditions) or None)
        return rows.sort_by([("robot_id", "ascending"), ("t_ns", "ascending")])

    def thumbnails(
        self,
        robot: str | None = None,
        *,
        start: Time | None = None,
        end: Time | None = None,
        where: str | None = None,
        limit: int = 100,
    ) -> pa.Table:
        """What `videos` finds, as pictures: robot_id, recording_id, stream, seq, start_ns, end_ns and `thumbnail`, a
        JPEG of a sharp picture from the segment's middle. Where there are more than `limit`, evenly chosen ones.
        """
        rows = self.videos(robot, start=start, end=end, where=f"state = 'ok' AND {bracketed(where or 'true')}")
        manifest = self._published.newest(versions.SEGMENTS)
        return find_thumbnails(self.storage, manifest, rows.table, limit=limit)

    def contact_sheet(
        self,
        path: str | Path,
        robot: str | None = None,
        *,
        start: Time | None = None,
        end: Time | None = None,
        where: str | None = None,
        limit: int = 48,
    ) -> Path:
        """The same as one PNG, each picture with its robot, camera and time. `NoVideo` where there is none."""
        found = self.thumbnails(robot, start=start, end=end, where=where, limit=limit)
        return write_sheet(found, Path(path))

    def search(
        self,
        words: str,
        *,
        robot: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        limit: int = 100,
    ) -> Found:
        """Where all these words were logged, noted or labelled: texts of telemetry (`message`, `msg`, `text`, `task`,
        `notes`), the tasks and notes of the datasets' episodes, and the values of labels.

        One row a find, in order of time, the `limit` best of them: robot_id, recording_id, t_ns (of an episode its
        start), `table` (as SQL names it), `column`, `text`. Case does not matter. Where `maintain` has made an index, a
        word is found in its other forms (`slips` finds "slipped"), elsewhere every text with these letters in it.
        """
        start_ns, end_ns = (None if time is None else to_ns(time) for time in (start, end))
        wanted = Wanted(words, robot=robot, start_ns=start_ns, end_ns=end_ns, limit=limit)
        views = [*self._published.others(), View("labels", self.labels())]
        return Found(find_words(views, wanted), self._seen, title=words)

    def clip(self, robot: str, stream: str, start: Time, end: Time, *, recording: str | None = None) -> Clip:
        """A camera's video of `[start, end)`, at most ten minutes, copied as it was encoded: `.write(file)` gives an
        MP4, `.frames()` pictures with their capture times. It begins with the GOP that holds `start`.

        start, end  int nanoseconds, a datetime, or ISO 8601 text; without a zone it is UTC
        recording   where two recordings overlap in time, of which one

        Raises `NoVideo` where there is none, and a `ClipError` where it cannot be one clip.
        """
        start_ns, end_ns = to_ns(start), to_ns(end)
        if start_ns >= end_ns:
            raise QueryError(f"end must be later than start, got {start_ns} and {end_ns} ns")
        check_length(start_ns, end_ns)
        manifest = self._published.newest(versions.SEGMENTS)
        if manifest is None:
            raise NoVideo(
                f"no segment is indexed in {self.storage.url}: run the job index_segments; of a dataset that was "
                "imported see Dataset.windows, Dataset.frame or Dataset.contact_sheet"
            )
        cut = find_cut(self.storage, manifest, robot, stream, start_ns=start_ns, end_ns=end_ns, recording=recording)
        check_one_piece(cut)
        return Clip(self.storage, cut, cut.start_ns)

    def sql(self, sql: str) -> pa.Table:
        """The result of one SELECT (DuckDB's dialect) over every published table.

        `segments`; `labels` (those that count now); `telemetry.<topic>` with the topic's slashes as dots, as in
        `telemetry.joint_states` for `/joint_states` and `telemetry."arm.left"` for `/arm/left`; and, for each dataset,
        `"<dataset>".steps`, `.episodes`, `.series` and `.gops` (without the video itself). `SHOW ALL TABLES` lists
        them. A topic's character that a table name cannot hold is written `~` and its hex code (`/observation.state`:
        `observation~2Estate`).

        The SQL can reach nothing but these tables. Raises `QueryError` with one sentence if it cannot be run.
        """
        return query(sql, [self._published.segments(), View("labels", self.labels()), *self._published.others()])

    def datasets(self) -> pa.Table:
        """One row a dataset: name, newest version, created_ns, and how many robots, episodes, steps it has."""
        published = self._published.datasets().items()
        rows = [_describe(Contents(self.storage, name, manifest)) for name, manifest in published]
        return pa.Table.from_pylist(rows, schema=_DATASETS)

    def dataset(self, name: str, version: int | str | None = None, *, label_version: int | None = None) -> Dataset:
        """A dataset at its newest version, at version `7`, also written `"v7"`, or at that of a tag.

        label_version  which labels its episodes are read with; None takes the newest, 0 none

        Raises `NotFound` for a dataset, version, tag or version of labels that has not been published.
        """
        chain = chain_of(name)
        number = None if version is None else versions.resolve(self.storage, chain, version)
        manifest = self._published.newest(chain) if number is None else self._published.read(chain, number)
        if manifest is None:
            raise self._unknown(name)
        return Dataset(Contents(self.storage, name, manifest, self._labels_at(label_version)))

    def pinned(self, source: str | Path | Mapping[str, Any]) -> Dataset:
        """What a pinned set names: a file, its JSON, or what was parsed of it.

        Raises `PinError` where it cannot be had any more exactly as it was pinned, and says what differs.
        """
        return PinnedSet.read(source).open(self)

    def tag(self, name: str, tag: str, version: int | str | None = None) -> int:
        """Give a version of a dataset, the newest if none is named, a human name; the version's number.

        Raises `VersionConflict` where the tag names another version: `untag` it first.
        """
        dataset = self.dataset(name, version)
        versions.create_tag(self.storage, chain_of(name), tag, dataset.version)
        return dataset.version

    def tags(self, name: str) -> dict[str, int]:
        """The tags of a dataset, and the version that each names. `NotFound` for a dataset that there is not."""
        if self._published.newest(chain_of(name)) is None:
            raise self._unknown(name)
        return versions.list_tags(self.storage, chain_of(name))

    def untag(self, name: str, tag: str) -> None:
        """Take a tag away; its version stays. `NotFound` where there is no such tag."""
        versions.delete_tag(self.storage, chain_of(name), tag)

    def label(
        self, episodes: str | Iterable[str] | Dataset, *, author: str | None = None, **values: labels.Value
    ) -> int:
        """Say something of episodes: `catalog.label(["e1", "e2"], success=False, grip="firm")`.

        episodes  their ids, or a dataset: all of its selection
        values    `task`, `success` and `notes` stand in for what the robot said, every other name is your own; a text,
                  a number, True or False, and None takes a label back
        author    who says so; else the user of this process

        Gives the version of the labels that has them. Datasets that are opened from then on have them, those that are
        open or pinned do not. Raises `NotFound` for an episode that no dataset has, `QueryError` for a value that
        cannot be.
        """
        rows = self._episodes_to_label(episodes)
        return labels.write(self.storage, rows, values, author=author or getpass.getuser())

    def labels(self, version: int | None = None) -> pa.Table:
        """The labels that count now, or counted at a version: one row an episode and label, with value and author."""
        return labels.current(self.storage, self._labels_at(version))

    def _episodes_to_label(self, episodes: str | Iterable[str] | Dataset) -> pa.Table:
        if isinstance(episodes, Dataset):
            return episodes.episodes()
        ids = [episodes] if isinstance(episodes, str) else list(dict.fromkeys(episodes))
        tables = [self.dataset(name).table("episodes") for name in self._published.datasets()]
        found: dict[str, Any] = {}
        for table in tables:
            rows = labels.keys_of(table, contains("episode_id", ids)).to_pylist()
            found = {row["episode_id"]: row for row in rows} | found
        unknown = [name for name in ids if name not in found]
        if unknown:
            raise NotFound(f"no dataset has an episode {unknown[0]!r}")
        return pa.Table.from_pylist([found[name] for name in ids], schema=labels.KEYS)

    def _unknown(self, name: str) -> NotFound:
        return NotFound(f"no dataset named {name!r}; there are {self._published.begun()} in {self.storage.url}")

    def _labels_at(self, version: int | None) -> Manifest | None:
        if version is None:
            return self._published.newest(versions.LABELS)
        return self._published.read(versions.LABELS, version) if version else None

    def _pictures(self, keys: list[str | None]) -> list[bytes | None]:
        return segment_pictures(self.storage, self._published.newest(versions.SEGMENTS), keys)

    def _seen(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes | None]:
        return seen_at(rows, segments=self._published.segments(), pictures=self._pictures, datasets=self._datasets)

    def _datasets(self) -> dict[str, Dataset]:
        return {name: self.dataset(name) for name in self._published.datasets()}


def _describe(contents: Contents) -> dict[str, object]:
    return {
        "name": contents.name,
        "version": contents.manifest.n,
        "created_ns": contents.manifest.created_ns,
        "robots": len(contents.episodes["robot_id"].unique()),
        "episodes": len(contents.episodes),
        "steps": sum(contents.episodes["steps"].to_pylist()),
        "cameras": contents.camera_names,
    }
