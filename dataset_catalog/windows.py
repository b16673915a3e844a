"""From a window's number to its sample: every column and camera at its offsets, with masks. NumPy, no PyTorch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.episodes import Episode, EpisodeReader
from dataset_catalog.errors import NotFound
from dataset_catalog.frames import FrameReader
from dataset_catalog.gather import Visit, find_frames, gather_column, stack
from dataset_catalog.spec import WindowSpec

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset
    from dataset_catalog.loader import Loader

EPISODE_BYTES = 2 * 2**30  # of times and series kept in memory, in each process

Batch = dict[str, Any]
Place = tuple[str, int]  # episode id, step


class Windows:
    """The samples of a dataset's selection, one a step. Pickles as its description; each process opens its own tables.

    A batch of B windows is a dict:

    name            float32 (B, K, D) for a column at K offsets; uint8 (B, K, 3, H, W), RGB, for a camera
    name_mask       bool (B, K): an observation that is within tolerance and inside the episode
    name_is_pad     bool (B, K): the opposite, for an action
    name_age_ns     int64 (B, K): time asked for − time of the value taken (of a frame too)
    task            list of B str, "" where the episode has none
    episode_id      list of B str
    t_ns            int64 (B,), the step's time
    sample_id       list of B str, `episode_id:step`

    Outside the episode, and out of tolerance, there is still a value: the episode's edge, or the closest there was;
    zeros where the episode has none of it at all.
    """

    def __init__(self, dataset: Dataset, spec: WindowSpec, *, frame_bytes: int) -> None:
        """`frame_bytes` bounds the decoded frames kept for the next batches, in each process."""
        self.dataset, self.spec, self.frame_bytes = dataset, spec, frame_bytes
        self._is_warm = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (partial(Windows, frame_bytes=self.frame_bytes), (self.dataset, self.spec))

    def __len__(self) -> int:
        return len(self.dataset.selection)

    def __getitem__(self, window: int) -> Batch:
        """One sample: a batch without its first axis."""
        if not -len(self) <= window < len(self):
            raise IndexError(f"window must be in [0, {len(self)}), got {window}")
        return {name: value[0] for name, value in self.batch(np.array([window % len(self)])).items()}

    def batch(self, windows: NDArray[np.int64], *, pool: Executor | None = None) -> Batch:
        """The windows with these numbers, in this order. Each GOP is fetched and decoded once for all of them."""
        return self.at(self.dataset.selection.locate(windows), pool=pool)

    def at(self, places: Sequence[Place], *, pool: Executor | None = None) -> Batch:
        """The windows of these (episode id, step), in this order; `NotFound` for a place that is not selected."""
        visits, count = self._visits(places), len(places)
        batch: Batch = {}
        for column in self.spec.columns:
            batch[column.name], valid, batch[f"{column.name}_age_ns"] = gather_column(column, visits, count)
            batch |= {f"{column.name}_is_pad": ~valid} if column.is_action else {f"{column.name}_mask": valid}
        batch |= self._images(visits, count, pool)
        t_ns = np.empty(count, np.int64)
        for visit in visits:
            t_ns[visit.rows] = visit.t_ns
        task = {visit.episode.episode_id: visit.episode.task for visit in visits}
        return batch | {
            "task": [task[name] for name, _ in places],
            "episode_id": [name for name, _ in places],
            "t_ns": t_ns,
            "sample_id": [f"{name}:{step}" for name, step in places],
        }

    def warm(self) -> None:
        """Read the selected episodes into memory, by large scans, as far as they fit; the rest come as needed.

        Once: later calls do nothing.
        """
        if not self._is_warm:
            self._episodes.warm(self.dataset.selection.episode_ids)
            self._is_warm = True

    def loader(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        group: int = 1,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        prefetch: int = 2,
        drop_last: bool = True,
    ) -> Loader:
        """Batches of torch tensors: see `dataset_catalog.loader.Loader`. Needs PyTorch."""
        from dataset_catalog.loader import Loader, LoaderOptions

        options = LoaderOptions(
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            group=group,
            rank=rank,
            world_size=world_size,
            workers=workers,
            prefetch=prefetch,
            drop_last=drop_last,
        )
        return Loader(self, options)

    @cached_property
    def _episodes(self) -> EpisodeReader:
        return EpisodeReader(
            self.dataset,
            columns={column.name: column.size for column in self.spec.columns},
            cameras={camera.name: camera.renditions for camera in self.spec.cameras},
            max_bytes=EPISODE_BYTES,
        )

    @cached_property
    def _frames(self) -> FrameReader:
        return FrameReader(self.dataset.table("gops"), size=self.spec.image_size, max_bytes=self.frame_bytes)

    def _visits(self, places: Sequence[Place]) -> list[Visit]:
        rows: dict[str, list[int]] = defaultdict(list)
        for row, (episode_id, _) in enumerate(places):
            rows[episode_id].append(row)
        episodes = self._episodes.get(rows)
        return [_visit(episodes[name], np.array(r), np.array([places[i][1] for i in r])) for name, r in rows.items()]

    def _images(self, visits: list[Visit], count: int, pool: Executor | None) -> Batch:
        """The pictures of all cameras, by one read of the table."""
        sights = {camera: find_frames(camera, visits, count) for camera in self.spec.cameras}
        wanted = [frame for sight in sights.values() for row in sight.frames for frame in row if frame]
        pixels = self._frames.read(wanted, pool=pool) if wanted else {}
        batch: Batch = {}
        for camera, (frames, valid, age_ns) in sights.items():
            images = [[pixels[frame[0].row, frame[1]] if frame else None for frame in row] for row in frames]
            batch[camera.name] = stack(camera.name, images, camera.size)
            batch[f"{camera.name}_mask"], batch[f"{camera.name}_age_ns"] = valid, age_ns
        return batch


def _visit(episode: Episode, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> Visit:
    if steps.min() < 0 or steps.max() >= len(episode.t_ns):
        raise NotFound(f"episode {episode.episode_id} has the steps 0 to {len(episode.t_ns) - 1}, got {steps.tolist()}")
    return Visit(episode, rows, episode.t_ns[steps])
