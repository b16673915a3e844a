"""From a window's number to its sample: every column and camera at its offsets, with masks. NumPy, no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from dataset_catalog import layout
from dataset_catalog.batch_memory import BatchMemory
from dataset_catalog.block_order import BlockShuffled
from dataset_catalog.decoders import check_name, decoder
from dataset_catalog.episodes import EpisodeReader
from dataset_catalog.frames import FrameReader, Places
from dataset_catalog.gather import Place, Visits, find_frames, gather_columns, visits
from dataset_catalog.gop_bytes import open_packets
from dataset_catalog.names import rename
from dataset_catalog.normalize import Normalizer
from dataset_catalog.options import LoaderKeywords, LoaderOptions, Shuffling
from dataset_catalog.order import Order, Sequential, Shuffled
from dataset_catalog.resume import Fingerprint, fingerprint_of
from dataset_catalog.spec import WindowSpec
from dataset_catalog.transform import Transform, transformed

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset
    from dataset_catalog.fit import Fit
    from dataset_catalog.loader import Loader

WARM_S = 1.0  # however large the selection is: the first batch waits for it
EPISODE_BYTES = 2 * 2**30  # of times and series kept in memory, in each process

Batch = dict[str, Any]


class Windows:
    """The samples of a dataset's selection, one a step. Pickles as its description; each process opens its own tables.

    A batch of B windows is a dict:

    name            float32 (B, K, D) for a column at K offsets; uint8 (B, K, 3, H, W), RGB, for a camera
    name_mask       bool (B, K): an observation that is within tolerance and inside the episode
    name_is_pad     bool (B, K): the opposite, for an action
    name_age_ns     int64 (B, K): time asked for − time of the value taken (of a frame too)
    task            list of B str, "" where the episode has none
    task_index      int64 (B,), the task's place in `tasks`
    episode_id      list of B str
    t_ns            int64 (B,), the step's time
    sample_id       list of B str, `episode_id:step`

    A single offset that is no sequence has no axis K. Outside the episode, and out of tolerance, there is still a
    value: the episode's edge, or the closest there was; zeros where the episode has none of it at all. `docs/FEED.md`
    describes names, normalization and the rest.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: WindowSpec,
        *,
        frame_bytes: int,
        transform: Transform | None = None,
        tasks: tuple[str, ...] | None = None,
        decoder: str = "pyav",
    ) -> None:
        """`frame_bytes` bounds the decoded frames kept for the next batches, in each process.

        `decoder`: see `dataset_catalog.decoders`; each process makes its own.

        `tasks`: what `task_index` counts; None: the tasks of the dataset's version in alphabetical order.
        """
        self.dataset, self.spec, self.frame_bytes, self.transform = dataset, spec, frame_bytes, transform
        self.decoder = check_name(decoder)
        self._tasks = tasks
        self._is_warm = False

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(
            Windows,
            frame_bytes=self.frame_bytes,
            transform=self.transform,
            tasks=self._tasks,
            decoder=self.decoder,
        )
        return (make, (self.dataset, self.spec))

    def __len__(self) -> int:
        return len(self.dataset.selection)

    def __getitem__(self, window: int) -> Batch:
        """One sample: a batch without its first axis."""
        if not -len(self) <= window < len(self):
            raise IndexError(f"window must be in [0, {len(self)}), got {window}")
        return {name: value[0] for name, value in self.batch(np.array([window % len(self)])).items()}

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that `task_index` counts, the same for every selection of the version; "" is that of episodes
        without one."""
        return self.dataset.tasks if self._tasks is None else self._tasks

    @property
    def normalizer(self) -> Normalizer:
        """What was done to the columns, and its way back; to be saved beside a checkpoint."""
        return Normalizer.of(self.spec)

    def batch(
        self,
        windows: Sequence[int] | NDArray[np.int64],
        *,
        seeds: NDArray[np.uint64] | None = None,
        pool: Executor | None = None,
    ) -> Batch:
        """The windows with these numbers, in this order. Each GOP is fetched and decoded once for all of them.

        seeds  one a window, of the generator that `transform` gets; None: the windows' own numbers
        """
        numbers = np.asarray(windows) if np.size(windows) else np.zeros(0, np.int64)
        if (
            numbers.ndim != 1
            or numbers.dtype.kind not in "iu"
            or (numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self))
        ):
            raise IndexError(f"windows are numbered from 0 to {len(self) - 1}, got {str(windows)[:80]}")
        places = self.dataset.selection.locate(numbers.astype(np.int64))
        return self.at(places, seeds=numbers.astype(np.uint64) if seeds is None else seeds, pool=pool)

    def at(
        self, places: Sequence[Place], *, seeds: NDArray[np.uint64] | None = None, pool: Executor | None = None
    ) -> Batch:
        """The windows of these (episode id, step), in this order; `NotFound` for a place that is not selected."""
        visited, count = visits(places, self._episodes), len(places)
        batch = self._columns(visited) | self._images(visited, pool)
        layout.pad(batch, self.spec, count)
        layout.squeeze(batch, self.spec)
        rename(batch, layout.entries(self.spec), self.spec.naming)
        batch |= self._about(visited, places)
        if self.transform is None or not count:
            return batch
        return transformed(batch, self.transform, np.arange(count) if seeds is None else seeds, pool=pool)

    @staticmethod
    def padded_together(sources: Sequence[Windows]) -> tuple[Windows, ...]:
        """The same windows with batches of the same keys and shapes, to be mixed; `task_index` counts the tasks of all.

        Raises `WindowError` where they do not fit together: see `layout.together`.
        """
        wide = layout.together([source.spec for source in sources])
        tasks = tuple(sorted({task for source in sources for task in source.tasks}))
        return tuple(
            Windows(
                source.dataset,
                replace(source.spec, padded=wide),
                frame_bytes=source.frame_bytes,
                transform=source.transform,
                tasks=tasks,
                decoder=source.decoder,
            )
            for source in sources
        )

    def warm(self) -> None:
        """Read the selected episodes into memory, by large scans, as far as they fit and for about a second; the rest
        come as needed.

        Once: later calls do nothing.
        """
        if not self._is_warm:
            self._episodes.warm(self.dataset.selection.episode_ids, limit_s=WARM_S)
            self._is_warm = True

    def loader(self, batch_size: int, **options: Unpack[LoaderKeywords]) -> Loader:
        """Batches of torch tensors, of `batch_size` samples on all ranks together; needs PyTorch.

        See `dataset_catalog.options.LoaderOptions` for what it can be told, and `dataset_catalog.loader.Loader`.
        """
        from dataset_catalog.loader import Loader

        return Loader(self, LoaderOptions(batch_size=batch_size, **options))

    def to_ray(self) -> Any:
        """Every window once, one row each, as a `ray.data.Dataset` read by Ray's workers. Needs Ray."""
        from dataset_catalog.ray_data import samples_to_ray

        return samples_to_ray(self)

    def order(self, shuffling: Shuffling) -> Order:
        """In which order a loader takes the windows."""
        if shuffling.mode == "none":
            return Sequential(len(self))
        if shuffling.mode == "windows":
            return Shuffled(len(self), shuffling.seed)
        selection = self.dataset.selection
        pool = shuffling.pool(self.sample_bytes)
        return BlockShuffled.of(selection.end - selection.first, block=shuffling.block, pool=pool, seed=shuffling.seed)

    def fingerprint(self) -> Fingerprint:
        """What the windows are, field by field: a saved position is good for the same ones only."""
        return fingerprint_of(self.dataset, self.spec)

    @property
    def sample_bytes(self) -> int:
        """How much the columns and pictures of one window take, decoded."""
        return layout.sample_bytes(self.spec)

    def episodes(self, windows: NDArray[np.int64]) -> set[str]:
        """Ids of the episodes that these windows are of."""
        return {name for name, _ in self.dataset.selection.locate(windows)}

    def gops(self, windows: NDArray[np.int64]) -> set[int]:
        """Row ids of the GOPs that hold the pictures of these windows."""
        visited = visits(self.dataset.selection.locate(windows), self._episodes)
        sights = [find_frames(camera, visited).frames for camera in self.spec.cameras]
        return {frame[0].row for frames in sights for row in frames for frame in row if frame}

    @cached_property
    def _episodes(self) -> EpisodeReader:
        return EpisodeReader(
            self.dataset,
            columns=self.spec.series,
            cameras={camera.name: camera.renditions for camera in self.spec.cameras},
            max_bytes=EPISODE_BYTES,
        )

    @cached_property
    def _memory(self) -> BatchMemory:
        return BatchMemory()

    @cached_property
    def _frames(self) -> dict[Fit, FrameReader]:
        """One reader for all cameras whose pictures are fitted alike: they are read at once."""
        fits = {camera.fit for camera in self.spec.cameras}
        packets, size = open_packets(self.dataset.table("gops"), uri=self.dataset.uri), self.spec.image_size
        own, share = decoder(self.decoder), self.frame_bytes // max(1, len(fits))
        return {fit: FrameReader(packets, size=size, fit=fit, max_bytes=share, decoder=own) for fit in fits}

    def _columns(self, visited: Visits) -> Batch:
        batch: Batch = {}
        gathered = gather_columns(self.spec, visited)
        for column in self.spec.columns:
            name, (values, valid, age_ns) = column.name, gathered[column.name]
            batch |= {name: values, f"{name}_age_ns": age_ns}
            batch |= {f"{name}_is_pad": ~valid} if column.is_action else {f"{name}_mask": valid}
        return batch

    def _images(self, visited: Visits, pool: Executor | None) -> Batch:
        sights = {camera: find_frames(camera, visited) for camera in self.spec.cameras}
        places = {fit: Places(self._memory) for fit in self._frames}
        batch: Batch = {}
        for camera, (frames, valid, age_ns) in sights.items():
            batch[camera.name] = places[camera.fit].canvas(frames, camera.size)
            batch[f"{camera.name}_mask"], batch[f"{camera.name}_age_ns"] = valid, age_ns
        for fit, reader in self._frames.items():
            reader.fill(places[fit], pool=pool)
        return batch

    def _about(self, visited: Visits, places: Sequence[Place]) -> Batch:
        """What a batch holds besides columns and cameras."""
        t_ns = np.empty(len(places), np.int64)
        t_ns[visited.rows] = visited.now_ns
        task_of = {episode.episode_id: episode.task for episode in visited.episodes}
        tasks = [task_of[name] for name, _ in places]
        return {
            "task": tasks,
            "task_index": np.array([self._task_index[task] for task in tasks], np.int64),
            "episode_id": [name for name, _ in places],
            "t_ns": t_ns,
            "sample_id": [f"{name}:{step}" for name, step in places],
        }

    @cached_property
    def _task_index(self) -> dict[str, int]:
        return {task: index for index, task in enumerate(self.tasks)}
