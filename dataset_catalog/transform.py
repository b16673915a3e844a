"""The user's own function on each sample, with randomness that depends on nothing but the sample's seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.errors import WindowError

Sample = dict[str, Any]  # a batch without its first axis
Transform = Callable[[Sample, np.random.Generator], Sample]


def transformed(
    batch: Sample, transform: Transform, seeds: Sequence[int] | NDArray[Any], *, pool: Executor | None
) -> Sample:
    """Every sample of the batch through `transform`, and together again; `pool` takes several at a time.

    Arrays and numbers of all samples are stacked, everything else becomes a list. Raises `WindowError` where samples
    come back with different keys or shapes; an error of the function itself passes with the sample's id added.
    """
    samples = [{name: values[row] for name, values in batch.items()} for row in range(len(batch["sample_id"]))]

    def one(row: int) -> Sample:
        try:
            return transform(samples[row], np.random.default_rng(int(seeds[row])))
        except Exception as error:
            error.add_note(f"in the transform of sample {batch['sample_id'][row]}")
            raise

    return collate(list((pool.map if pool else map)(one, range(len(samples)))))


def collate(samples: Sequence[Sample]) -> Sample:
    """Samples as a batch."""
    first = samples[0]
    for sample in samples:
        if _keys(sample) != _keys(first) or not isinstance(sample, dict):
            raise WindowError(
                f"a transform returns the same keys for every sample, got {_keys(first)}, {_keys(sample)}"
            )
    return {name: _together(name, [sample[name] for sample in samples]) for name in first}


def name_of(transform: Transform) -> str:
    """What it is called, for the record of what a feed is made of."""
    kind = transform if hasattr(transform, "__qualname__") else type(transform)
    return f"{kind.__module__}.{kind.__qualname__}"


def _together(name: str, values: list[Any]) -> Any:
    if not (np.isscalar(values[0]) or hasattr(values[0], "__array__")) or isinstance(values[0], (str, bytes)):
        return values
    arrays = [np.asarray(value) for value in values]
    kinds = sorted({f"{array.dtype} {array.shape}" for array in arrays})
    if len(kinds) > 1:
        raise WindowError(f"{name} is {', '.join(kinds)} after the transform: it must be the same in every sample")
    return np.stack(arrays)


def _keys(sample: Any) -> Any:
    return sorted(sample) if isinstance(sample, dict) else type(sample).__name__
