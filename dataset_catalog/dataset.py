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
from dataset_catalog.filters import matching
from dataset_catalog.selection import Run, Selection, part_of
from dataset_catalog.statistics import Statistics
from dataset_catalog.tables import contains
from dataset_catalog.versions import DATASETS, Manifest

if TYPE_CHECKING:
    from dataset_catalog.video import Size
    from dataset_catalog.windows import Windows

FRAME_BYTES = 256 * 2**20


class Dataset:
    """A dataset at one version, or a selection of it. Immutable; pickles as its address, so workers get it as it is.

    Steps and windows are numbered over the selection: episodes by (robot, start, id), steps by time.
    """

    def __init__(self, contents: Contents, selection: Selection | None = None) -> None:
        self._contents, self._narrowed = contents, selection

    def __reduce__(self) -> tuple[Any, ...]:
        return (Dataset, (self._contents, self._narrowed))

    def __len__(self) -> int:
        """How many steps are selected."""
        return len(self.selection)

    def __repr__(self) -> str:
        return f"<Dataset {self.name} v{self.version}: {len(self)} steps of {len(self.selection.episode_ids)} episodes>"

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

    def table(self, name: str) -> Any:
        """A whole table of the dataset, such as `steps`, as a `lance.LanceDataset` at this version."""
        return self._contents.table(name)

    @cached_property
    def selection(self) -> Selection:
        """The selected steps; all of them at first."""
        if self._narrowed is not None:
            return self._narrowed
        rows = self._contents.episodes.select(["episode_id", "steps"]).to_pylist()
        return Selection.of(Run(row["episode_id"], 0, row["steps"]) for row in rows)

    def episodes(self) -> pa.Table:
        """The selected episodes' rows, whole, in order."""
        table = self._contents.episodes
        return table.filter(pc.is_in(table["episode_id"], pa.array(self.selection.episode_ids, pa.string())))

    def steps(self) -> pa.Table:
        """The selected rows of `steps`, in order. Reads all columns of them into memory."""
        ids = self.selection.episode_ids
        rows = self.table("steps").to_table(filter=None if self._narrowed is None else contains("episode_id", ids))
        place = pc.index_in(rows["episode_id"], pa.array(ids, pa.string())).to_numpy()
        step = rows["step"].to_numpy()
        order = np.lexsort((step, place))
        return rows.take(order[self.selection.covers(place[order], step[order])])

    def statistics(self, column: str) -> Statistics:
        """Of a numeric column over the selected episodes, whole: each element's mean, std, least, greatest, quantiles.

        Of the train split's they are what to normalize by. Raises `NotFound` for another name, for a selection
        without an episode, and for episodes that an older release aligned.
        """
        if column not in self.columns:
            raise NotFound(f"{self.name} v{self.version} has no column {column!r}; it has {sorted(self.columns)}")
        ids = self.selection.episode_ids
        chosen = f"{contains('column', [column])} AND {contains('episode_id', ids)}"
        rows = self.table("statistics").to_table(filter=chosen).to_pylist()
        if len(rows) != len(ids) or not rows:
            raise NotFound(
                f"{self.name} v{self.version} has statistics of {len(rows)} of {len(ids)} episodes: align anew"
            )
        return Statistics.join(map(Statistics.from_row, sorted(rows, key=lambda row: str(row["episode_id"]))))

    def select(
        self,
        *,
        where: str | None = None,
        robots: Sequence[str] | None = None,
        episodes: Sequence[str] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> Dataset:
        """The steps of this selection that satisfy every condition given.

        where  an SQL predicate on the columns of `episodes` (`success AND task = 'pour'`), or else on those of `steps`
               with the episode's `task`, `success`, `notes`, `start_ns`, `end_ns` (`state[3] > 0.2 AND success`)

        Raises `QueryError` for a predicate that cannot be run, `NotFound` for a name that the version does not have.
        """
        kept = self.selection
        for column, wanted in {"robot_id": robots, "episode_id": episodes, "task": tasks}.items():
            if wanted is not None:
                kept = kept.only(self._episodes_with(column, wanted))
        if where is not None:
            kept = kept.intersect(matching(where, episodes=self._contents.episodes, steps=self.table("steps")))
        return Dataset(self._contents, kept)

    def split(self, *, seed: int = 0, **shares: float) -> dict[str, Dataset]:
        """Parts of the selection by a hash of the episode id, `train=0.9, val=0.1` if nothing else is said.

        An episode stays in its part when the dataset grows; with few episodes a part can be far from its share.
        Raises `QueryError` if a share is negative or they add up to more than 1.
        """
        shares = shares or {"train": 0.9, "val": 0.1}
        if min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-9:
            raise QueryError(f"shares must be >= 0 and add up to at most 1, got {shares}")
        parts = {ep: part_of(ep, shares=shares, seed=seed) for ep in self.selection.episode_ids}
        return {
            name: Dataset(self._contents, self.selection.only({ep for ep, part in parts.items() if part == name}))
            for name in shares
        }

    def windows(
        self,
        observations: Mapping[str, Sequence[float]],
        actions: Mapping[str, Sequence[float]] | None = None,
        *,
        image_size: Size | None = None,
        rendition: str | None = None,
        frame_bytes: int = FRAME_BYTES,
    ) -> Windows:
        """Training samples, one for each selected step.

        observations  column or camera → offsets in seconds from the step's time, `{"state": [-0.1, 0.0]}`
        actions       column → offsets, usually `horizon(0.8, hz=10)`
        image_size    (height, width) of the pictures; None leaves them as they are
        rendition     which encoding to decode; None takes the smallest that is not smaller than `image_size`
        frame_bytes   how much memory each process may use to keep decoded frames for later batches

        Raises `WindowError` for a name that is neither column nor camera, and for offsets that are no numbers.
        """
        from dataset_catalog.spec import plan
        from dataset_catalog.windows import Windows

        spec = plan(self, observations, actions or {}, image_size=image_size, rendition=rendition)
        return Windows(self, spec, frame_bytes=frame_bytes)

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

    def _episodes_with(self, column: str, wanted: Sequence[str]) -> set[str]:
        everything = self._contents.episodes
        unknown = set(wanted) - set(everything[column].to_pylist())
        if unknown:
            raise NotFound(f"{self.name} v{self.version} has no {column} {sorted(unknown)}")
        chosen = pc.is_in(everything[column], pa.array(list(wanted), pa.string()))
        return set(everything.filter(chosen)["episode_id"].to_pylist())
