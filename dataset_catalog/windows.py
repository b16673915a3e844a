"""From a window's number to its sample: every column and camera at its offsets, with masks. NumPy, no PyTorch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.episodes import Episode, EpisodeReader, Track
from dataset_catalog.errors import NotFound, WindowError
from dataset_catalog.frames import Frame, FrameReader
from dataset_catalog.sampling import nearest_index, sample
from dataset_catalog.spec import CameraWindow, ColumnWindow, WindowSpec, horizon, plan

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset
    from dataset_catalog.loader import Loader

__all__ = ["Windows", "horizon", "plan"]

EPISODE_BYTES = 2 * 2**30  # of times and series kept in memory, in each process
FRAME_BYTES = 256 * 2**20  # of decoded frames kept in memory, in each process

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

    def __init__(self, dataset: Dataset, spec: WindowSpec) -> None:
        self.dataset, self.spec = dataset, spec

    def __reduce__(self) -> tuple[Any, ...]:
        return (Windows, (self.dataset, self.spec))

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
        visits = self._visits(places)
        t_ns = np.empty(len(places), np.int64)
        for episode, rows, steps in visits:
            t_ns[rows] = episode.t_ns[steps]
        batch: Batch = {}
        for column in self.spec.columns:
            batch |= _read_column(column, visits, t_ns)
        batch |= self._read_cameras(visits, t_ns, pool)
        task = {episode.episode_id: episode.task for episode, _, _ in visits}
        return batch | {
            "task": [task[name] for name, _ in places],
            "episode_id": [name for name, _ in places],
            "t_ns": t_ns,
            "sample_id": [f"{name}:{step}" for name, step in places],
        }

    def warm(self) -> None:
        """Read all selected episodes into memory now, by large scans, up to the bound; else they come as needed."""
        self._episodes.get(self.dataset.selection.episode_ids)

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

        options = LoaderOptions(batch_size, seed, shuffle, group, rank, world_size, workers, prefetch, drop_last)
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
        return FrameReader(self.dataset.table("gops"), size=self.spec.image_size, max_bytes=FRAME_BYTES)

    def _visits(self, places: Sequence[Place]) -> list[Visit]:
        rows: dict[str, list[int]] = defaultdict(list)
        for row, (episode_id, _) in enumerate(places):
            rows[episode_id].append(row)
        episodes = self._episodes.get(rows)
        steps = np.array([step for _, step in places], np.int64)
        visits = [(episodes[name], np.array(r), steps[r]) for name, r in rows.items()]
        for episode, _, wanted in visits:
            if wanted.min() < 0 or wanted.max() >= len(episode.t_ns):
                raise NotFound(f"episode {episode.episode_id} has steps 0 to {len(episode.t_ns) - 1}, got {wanted}")
        return visits

    def _read_cameras(self, visits: list[Visit], t_ns: NDArray[np.int64], pool: Executor | None) -> Batch:
        sights = [_find_frames(camera, visits, t_ns) for camera in self.spec.cameras]
        wanted = [frame for sight in sights for frame in sight.frames if frame]
        pixels = self._frames.read(wanted, pool=pool) if wanted else {}
        batch: Batch = {}
        for camera, sight in zip(self.spec.cameras, sights, strict=True):
            images = [pixels[frame[0].row, frame[1]] if frame else None for frame in sight.frames]
            batch[camera.name] = _stack(camera.name, images, self._blank(camera), sight.valid.shape)
            batch[f"{camera.name}_mask"], batch[f"{camera.name}_age_ns"] = sight.valid, sight.age_ns
        return batch
