"""One dataset at one version: its tables, what its columns mean, and the part of it that a training run wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dataset_catalog.contents import Camera, Column, Contents
from dataset_catalog.errors import NotFound, QueryError
from dataset_catalog.filters import between, matching
from dataset_catalog.labels import version_of
from dataset_catalog.selection import Selection, part_of
from dataset_catalog.statistics import Statistics
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, read
from dataset_catalog.times import Time, to_ns
from dataset_catalog.versions import DATASETS, Manifest

if TYPE_CHECKING:
    from dataset_catalog.encoding import Codec
    from dataset_catalog.fit import Fit, Size
    from dataset_catalog.names import Naming
    from dataset_catalog.normalize import Normalizer
    from dataset_catalog.pinned import Condition, PinnedSet
    from dataset_catalog.relative import RelativeTo
    from dataset_catalog.spec import Asked
    from dataset_catalog.transform import Transform
    from dataset_catalog.windows import Windows

FRAME_BYTES = 32 * 2**20  # neighbours of the last batches; the rest of a worker takes half a gigabyte already
_EVER = 2**63 - 1
_NAMED = 1000  # episodes that a filter names one by one
_SPLIT_BY = {"episode": "episode_id", "robot": "robot_id"}


class Dataset:
    """A dataset at one version, or a selection of it. Immutable; pickles as its address, so workers get it as it is.

    Steps and windows are numbered over the selection: episodes by (robot, start, id), steps by time.
    """

    def __init__(
        self, contents: Contents, selection: Selection | None = None, conditions: tuple[Condition, ...] = ()
    ) -> None:
        """`conditions`: how the selection was come to, one after the other."""
        self._contents, self._narrowed, self.conditions = contents, selection, conditions

    def __reduce__(self) -> tuple[Any, ...]:
        return (Dataset, (self._contents, self._narrowed, self.conditions))

    def __len__(self) -> int:
        """How many steps are selected."""
        return len(self.selection)

    def __repr__(self) -> str:
        return f"<Dataset {self.name} v{self.version}: {len(self)} steps of {len(self.selection.ids)} episodes>"

    def _repr_html_(self) -> str:
        """For a notebook: a few of its episodes, each with a picture of its middle."""
        from dataset_catalog.sights import episodes_of

        return episodes_of(self, title=repr(self)[1:-1])._repr_html_()

    @property
    def name(self) -> str:
        return self._contents.name

    @property
    def manifest(self) -> Manifest:
        return self._contents.manifest

    @property
    def version(self) -> int:
        return self.manifest.n

    @property
    def label_version(self) -> int:
        """The version of the labels that its episodes are read with; 0 where nobody has labelled anything."""
        return version_of(self._contents.labels)

    @property
    def storage(self) -> Storage:
        return self._contents.storage

    @property
    def uri(self) -> str:
        return self._contents.storage.uri(f"{DATASETS}/{self.name}")

    @property
    def columns(self) -> dict[str, Column]:
        """The numeric columns by name."""
        return self._contents.columns

    @property
    def cameras(self) -> dict[str, Camera]:
        """The cameras by name."""
        return self._contents.cameras

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of all episodes of the version, in alphabetical order; "" is that of an episode without one."""
        return self._contents.tasks

    @property
    def training(self) -> Dataset:
        """What statistics are to come from: of a part of a split that has a part `train` that one; else this itself."""
        from dataset_catalog.pinned import apply

        found = [one | {"part": "train"} if "train" in one.get("shares", ()) else one for one in self.conditions]
        if found == list(self.conditions):
            return self
        part = Dataset(self._contents)
        for condition in found:
            part = apply(part, condition)
        return part

    def declared(self, name: str) -> dict[str, Any]:
        """What the episodes say of a column or camera, with what is for people: its topic, or LeRobot's feature."""
        about: dict[str, Any] = self._contents.declared.get(name, {})
        return about

    def table(self, name: str) -> Any:
        """A whole table of the dataset, such as `steps`, as a `lance.LanceDataset` at this version."""
        return self._contents.table(name)

    @cached_property
    def selection(self) -> Selection:
        """The selected steps; all of them at first."""
        if self._narrowed is not None:
            return self._narrowed
        rows = self._contents.episodes
        steps = rows["steps"].to_numpy()
        return Selection.from_columns(rows["episode_id"].combine_chunks(), np.zeros(len(steps), np.int64), steps)

    def episodes(self) -> pa.Table:
        """The selected episodes' rows, in order, with the labels applied and in a map `labels`.

        Without `columns` and `sources`, which are long: see `columns`, `cameras` and `lineage`.
        """
        table = self._contents.episodes
        return table.filter(pc.is_in(table["episode_id"], self.selection.ids))

    def steps(self) -> pa.Table:
        """The selected rows of `steps`, in order. Reads all columns of them into memory."""
        rows = self._rows_of(self.table("steps"), None)
        place = pc.index_in(rows["episode_id"], self.selection.ids).to_numpy().astype(np.int64)
        step = rows["step"].to_numpy()
        order = np.lexsort((step, place))
        return rows.take(order[self.selection.covers(place[order], step[order])])

    def to_ray(self) -> Any:
        """The same rows as a `ray.data.Dataset`, read by Ray's workers. Needs Ray."""
        from dataset_catalog.ray_data import steps_to_ray

        return steps_to_ray(self)

    def statistics(self, column: str) -> Statistics:
        """Of a numeric column over the selected episodes, whole: each element's mean, std, least, greatest, quantiles.

        Of the train split's they are what to normalize by. Raises `NotFound` for another name, for a selection
        without an episode, and for episodes that an older release aligned.
        """
        if column not in self.columns:
            raise NotFound(f"{self.name} v{self.version} has no column {column!r}; it has {sorted(self.columns)}")
        ids = self.selection.ids
        rows = self._rows_of(self.table("statistics"), contains("column", [column])).sort_by("episode_id")
        if len(rows) != len(ids) or not len(rows):
            raise NotFound(
                f"{self.name} v{self.version} has statistics of {len(rows)} of {len(ids)} episodes: align anew"
            )
        return Statistics.from_table(rows)

    def select(
        self,
        *,
        where: str | None = None,
        robots: str | Sequence[str] | None = None,
        episodes: str | Sequence[str] | None = None,
        tasks: str | Sequence[str] | None = None,
        time: tuple[Time | None, Time | None] | None = None,
    ) -> Dataset:
        """The steps of this selection that satisfy every condition given.

        where  an SQL predicate on the columns of `episodes` (`success AND labels['grip'] = 'firm'`), or else on those
               of `steps` with the episode's `task`, `success`, `notes`, `labels`, `start_ns`, `end_ns`
               (`state[3] > 0.2 AND success`)
        time   from and until when, half-open; None leaves an end open

        Raises `QueryError` for a predicate that cannot be run, `NotFound` for a name that the version does not have.
        """
        robots, episodes, tasks = ([one] if isinstance(one, str) else one for one in (robots, episodes, tasks))
        kept, condition = self.selection, _condition(where, robots, episodes, tasks, time)
        for column, wanted in {"robot_id": robots, "episode_id": episodes, "task": tasks}.items():
            if wanted is not None:
                kept = kept.only(self._episodes_with(column, wanted))
        rows, steps = self._contents.episodes, self.table("steps")
        if "time" in condition:
            start_ns, end_ns = condition["time"]
            kept = kept.intersect(between(start_ns, end_ns, episodes=rows, steps=steps))
        if where is not None:
            kept = kept.intersect(matching(where, episodes=rows, steps=steps))
        return Dataset(self._contents, kept, (*self.conditions, condition))

    def split(self, *, by: str = "episode", seed: int = 0, **shares: float) -> dict[str, Dataset]:
        """Parts of the selection by a hash of the episode id, `train=0.9, val=0.1` if nothing else is said.

        An episode stays in its part when the dataset grows; with few episodes a part can be far from its share.

        by  `episode`: each goes to a part by itself; `robot`: all of a robot's go together

        Raises `QueryError` if a share is negative or they add up to more than 1.
        """
        shares = shares or {"train": 0.9, "val": 0.1}
        if not all(_is_share(share) for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
            raise QueryError(f"shares must be >= 0 and add up to at most 1, got {shares}")
        if by not in _SPLIT_BY:
            raise QueryError(f"a split is by one of {', '.join(_SPLIT_BY)}, got {by!r}")
        rows = self.episodes()
        whose = rows[_SPLIT_BY[by]].to_pylist()
        part = {name: part_of(name, shares=shares, seed=seed) for name in dict.fromkeys(whose)}
        found = pa.array([part[name] for name in whose], pa.string())
        return {name: self._part(rows["episode_id"], found, name, by=by, seed=seed, shares=shares) for name in shares}

    def pin(self) -> PinnedSet:
        """What gives these very steps again: `pin().save("set.json")`, and then `Catalog.pinned("set.json")`."""
        from dataset_catalog.pinned import PinnedSet

        return PinnedSet.of(self)

    def lineage(self, row: int | tuple[str, int]) -> pa.Table:
        """From which raw objects a step's values and frames came, by a window's number or (episode id, step).

        One row a column or camera and object: `name`, `t_ns` (capture time of the value or frame taken), `key`,
        `sha256`. See `dataset_catalog.lineage`. Raises `NotFound` for a step that is not there.
        """
        from dataset_catalog.lineage import trace

        return trace(self._contents, self._place(row))

    def windows(
        self,
        observations: Mapping[str, Asked],
        actions: Mapping[str, Asked] | None = None,
        *,
        image_size: Size | None = None,
        fit: Fit | Mapping[str, Fit] = "stretch",
        rendition: str | None = None,
        relative: Mapping[str, str | RelativeTo] | None = None,
        normalize: Mapping[str, str] | Normalizer | None = None,
        names: Naming = "fleetfeed",
        transform: Transform | None = None,
        frame_bytes: int = FRAME_BYTES,
        decoder: str = "pyav",
    ) -> Windows:
        """Training samples, one for each selected step: see `docs/FEED.md`.

        observations  column or camera → offsets: seconds from the step's time, `{"state": [-0.1, 0.0]}`, or
                      `steps(-1, 0)`, ticks of the reference clock; a single number has no axis in the batch
        actions       column → offsets, usually `horizon(0.8, hz=10)`
        image_size    (height, width) of the pictures; None leaves them as they are
        fit           `stretch`, `crop` or `letterbox`, for all cameras or by camera
        rendition     which encoding to decode; None takes the smallest that is not smaller than needed
        relative      column → the column whose value at the step is subtracted, or `RelativeTo` with exceptions
        normalize     column → `mean_std`, `min_max` or `q01_q99`, by the training split's statistics; or the
                      `normalizer` of other windows
        names         what the keys are called: `fleetfeed`, as the columns, or `lerobot`
        transform     `transform(sample, generator) -> sample`, the last thing that each sample goes through
        frame_bytes   how much memory each process may use to keep decoded frames for later batches
        decoder       `pyav`, or where they are there `torchcodec`, `nvdec` or `nvdec-torch`

        Raises `WindowError` for what does not fit the dataset.
        """
        from dataset_catalog.normalize import normalized
        from dataset_catalog.spec import plan
        from dataset_catalog.windows import Windows

        spec = plan(
            self,
            observations,
            actions or {},
            image_size=image_size,
            fit=fit,
            rendition=rendition,
            relative=relative,
            naming=names,
            transform=transform,
        )
        spec = normalized(spec, self, normalize) if normalize else spec
        return Windows(self, spec, frame_bytes=frame_bytes, transform=transform, decoder=decoder)

    def frame(self, episode_id: str, step: int, camera: str) -> NDArray[np.uint8]:
        """What a camera saw at a step: (height, width, 3) uint8 RGB.

        Raises `NotFound` for a step that does not exist or that has no frame within the camera's tolerance.
        """
        batch = self.windows({camera: [0.0]}).at([(episode_id, step)])
        if not batch[f"{camera}_mask"][0, 0]:
            raise NotFound(f"{camera} has no frame within its tolerance of step {step} of episode {episode_id}")
        image: NDArray[np.uint8] = batch[camera][0, 0].transpose(1, 2, 0)
        return image

    def contact_sheet(
        self, path: str | Path, *, camera: str, columns: Sequence[str] = (), rows: int = 3, cols: int = 4
    ) -> Path:
        """Write a PNG of `rows` × `cols` moments, spread evenly over the selection, with the columns' values below."""
        from dataset_catalog.contact_sheet import write_contact_sheet

        return write_contact_sheet(self, Path(path), camera=camera, columns=columns, rows=rows, cols=cols)

    def materialize(
        self, *, image_size: Size | None = None, codec: Codec = "h264-g10", fit: Fit = "stretch", quiet: bool = False
    ) -> Dataset:
        """Encode the selected episodes' video anew at training resolution, as the dataset's next version: this
        selection of it is returned. In this process on every CPU, with a progress bar on stderr unless `quiet`.

        image_size  (height, width); None keeps each camera's own
        codec       `h264-g10`, `h264-g2` or `jpeg`: see `dataset_catalog.encoding`
        fit         as in `windows`, which then read it where they ask for this very size and fit

        What is there already is not made again; a killed run is run again. The same as a Ray job:
        `fleetfeed jobs run materialize`. Raises `WindowError` for what cannot be encoded so, `VersionConflict` unless
        this is the newest version, and `DecodeError` for a video that does not decode.
        """
        from dataset_catalog.encoding import Encoding
        from dataset_catalog.materialize import materialize, newest_of
        from dataset_catalog.progress import bar

        encoding = Encoding(codec, image_size, fit)
        with bar(f"{self.name}: {encoding.label}", quiet=quiet) as progress:
            made = materialize(newest_of(self), encoding, self.selection.episode_ids, progress=progress)
        contents = Contents(self.storage, self.name, made.manifest, self._contents.labels)
        return Dataset(contents, self._narrowed, self.conditions)

    def _rows_of(self, table: Any, where: str | None) -> pa.Table:
        """A table's rows of the selected episodes; of many episodes they are sorted out after reading."""
        if self._narrowed is None:
            return read(table, filter=where)
        ids = self.selection.ids
        if len(ids) <= _NAMED:
            named = contains("episode_id", ids.to_pylist())
            return read(table, filter=named if where is None else f"{where} AND {named}")
        rows = read(table, filter=where)
        return rows.filter(pc.is_in(rows["episode_id"], ids))

    def _place(self, row: int | tuple[str, int]) -> tuple[str, int]:
        match row:
            case (str() as episode_id, int() | np.integer() as step):
                return episode_id, int(step)
        if not isinstance(row, int | np.integer):
            raise NotFound(f"a row is a number, or (episode id, step), got {row!r}")
        if not -len(self) <= row < len(self):
            raise NotFound(f"a row must be in [0, {len(self)}), got {row}")
        return self.selection.locate(np.array([row % len(self)]))[0]

    def _part(self, ids: Any, found: Any, name: str, **told: Any) -> Dataset:
        """The part `name` of a split that found a part for each of these episodes."""
        chosen = ids.combine_chunks().filter(pc.fill_null(pc.equal(found, name), False))
        return Dataset(self._contents, self.selection.only(chosen), (*self.conditions, {"part": name, **told}))

    def _episodes_with(self, column: str, wanted: Sequence[str]) -> Any:
        everything = self._contents.episodes
        unknown = set(wanted) - set(everything[column].unique().to_pylist())
        if unknown:
            raise NotFound(f"{self.name} v{self.version} has no {column} {sorted(unknown)}")
        chosen = pc.is_in(everything[column], pa.array(list(wanted), pa.string()))
        return everything.filter(chosen)["episode_id"].combine_chunks()


def _is_share(share: object) -> bool:
    return isinstance(share, int | float | np.integer | np.floating) and bool(0 <= share <= 1)


def _condition(
    where: str | None,
    robots: Sequence[str] | None,
    episodes: Sequence[str] | None,
    tasks: Sequence[str] | None,
    time: tuple[Time | None, Time | None] | None,
) -> Condition:
    """The conditions that were given, as JSON holds them; of a time both ends in ns."""
    found: Condition = {"where": where}
    found |= {
        "robots": robots and list(robots),
        "episodes": episodes and list(episodes),
        "tasks": tasks and list(tasks),
    }
    if time is not None:
        if not isinstance(time, tuple | list) or len(time) != 2:
            raise QueryError(f"a range of time is (start, end), got {time!r}")
        start, end = time
        found["time"] = [0 if start is None else to_ns(start), _EVER if end is None else to_ns(end)]
    return {name: value for name, value in found.items() if value is not None}
