"""A dataset's steps, or the samples of windows, as Ray Data: the only module of this package that imports Ray.

What travels to Ray's workers is the dataset's address and a number: each task opens the tables and reads its own part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset
    from dataset_catalog.samples import Samples

EPISODES_A_TASK = 16
SAMPLES_A_TASK = 256


def steps_to_ray(dataset: Dataset) -> Any:
    """The rows of `Dataset.steps`, some episodes a task."""
    ids = dataset.selection.episode_ids

    def read(task: int) -> Any:
        own = ids[task * EPISODES_A_TASK : (task + 1) * EPISODES_A_TASK]
        return dataset.select(episodes=own).steps()

    return _read(read, -(-len(ids) // EPISODES_A_TASK))


def samples_to_ray(samples: Samples) -> Any:
    """Every sample once, some hundred a task; arrays are tensors of Ray Data."""

    def read(task: int) -> dict[str, Any]:
        first = task * SAMPLES_A_TASK
        batch = samples.batch(np.arange(first, min(first + SAMPLES_A_TASK, len(samples))))
        return {name: np.asarray(value) for name, value in batch.items()}

    return _read(read, -(-len(samples) // SAMPLES_A_TASK))


def _read(read: Callable[[int], Any], tasks: int) -> Any:
    """A `ray.data.Dataset` of what `read` gives for each number of a task."""
    import ray.data

    numbers = ray.data.range(tasks, override_num_blocks=max(tasks, 1))
    return numbers.map_batches(lambda task: read(int(task["id"][0])), batch_size=1)
