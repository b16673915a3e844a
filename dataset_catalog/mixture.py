"""Several datasets as one feed, by weights: each brings its own windows and its own normalization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.errors import WindowError
from dataset_catalog.mix_order import STRETCH, MixOrder, shares_of
from dataset_catalog.options import LoaderKeywords, Shuffling
from dataset_catalog.order import Ints, Order, Sequential
from dataset_catalog.resume import Fingerprint

if TYPE_CHECKING:
    from dataset_catalog.loader import Loader
    from dataset_catalog.windows import Windows


def mix(weights: Mapping[Windows, float], *, seed: int = 0, epoch_samples: int | None = None) -> Mix:
    """Windows of several datasets in one feed, `mix({ds1.windows(…): 0.7, ds2.windows(…): 0.3}, seed=7)`.

    Of every 10,000 samples each dataset gives its share, in an order drawn from `seed`. An epoch is as many samples as
    the datasets have windows together, or `epoch_samples`; a dataset goes through all its windows before one comes
    again, on into the next epoch.

    Keys that not all datasets have are masked where they are missing, shorter vectors are padded with zeros and have a
    `name_dim_mask` (B, D); `source` (B,) int64 is the dataset's place in `weights`.

    Raises `WindowError` for weights that are not positive, an empty dataset, and keys of one name that do not fit
    together: other numbers of offsets, other picture sizes.
    """
    return Mix(tuple(weights), tuple(weights.values()), seed=seed, epoch_samples=epoch_samples)


class Mix:
    """What `mix` makes: samples numbered through the datasets, one after the other."""

    def __init__(
        self, sources: Sequence[Windows], weights: Sequence[float], *, seed: int, epoch_samples: int | None
    ) -> None:
        from dataset_catalog.windows import Windows

        self._shares = shares_of(weights)
        if not all(map(len, sources)):
            raise WindowError(f"a mix takes datasets with windows, got {[len(source) for source in sources]} of them")
        if len({source.spec.naming for source in sources}) > 1:
            raise WindowError("the windows of a mix must name their keys alike: give all of them the same `names`")
        if epoch_samples is not None and epoch_samples < 1:
            raise WindowError(f"epoch_samples must be >= 1, got {epoch_samples}")
        self._asked = (tuple(sources), tuple(weights), seed, epoch_samples)
        self.sources = Windows.padded_together(sources)
        self._seed, self._ends = seed, np.cumsum([len(source) for source in sources])
        self._epoch_samples = epoch_samples or len(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_mix_again, self._asked)

    def __len__(self) -> int:
        """How many windows the datasets have together."""
        return int(self._ends[-1])

    def batch(
        self, windows: Ints, *, seeds: NDArray[np.uint64] | None = None, pool: Executor | None = None
    ) -> dict[str, Any]:
        """The samples with these numbers, in this order, as `Windows` has them, and `source`."""
        parts: list[tuple[Ints, dict[str, Any]]] = []
        for which, rows, own in self._by_source(windows):
            batch = self.sources[which].batch(own, seeds=None if seeds is None else seeds[rows], pool=pool)
            parts.append((rows, batch | {"source": np.full(len(rows), which)}))
        return _joined(parts, len(windows))

    def episodes(self, windows: Ints) -> set[tuple[int, str]]:
        """(source, episode id) of the episodes that these windows are of."""
        return {(which, one) for which, _, own in self._by_source(windows) for one in self.sources[which].episodes(own)}

    def gops(self, windows: Ints) -> set[tuple[int, int]]:
        """(source, row id) of the GOPs that hold their pictures."""
        return {(which, one) for which, _, own in self._by_source(windows) for one in self.sources[which].gops(own)}

    def _by_source(self, windows: Ints) -> Iterator[tuple[int, Ints, Ints]]:
        """Which source, the rows of its windows in the batch, and their numbers in it."""
        source = np.searchsorted(self._ends, windows, side="right")
        for which in np.unique(source).tolist():
            rows = np.flatnonzero(source == which)
            yield which, rows, windows[rows] - (self._ends[which] - len(self.sources[which]))

    def warm(self) -> None:
        for source in self.sources:
            source.warm()

    def order(self, shuffling: Shuffling) -> Order:
        """By the weights; without shuffling every window once, one dataset after the other."""
        if shuffling.mode == "none":
            return Sequential(len(self))
        orders = tuple(
            source.order(shuffling.of_source(which, share / STRETCH))
            for which, (source, share) in enumerate(zip(self.sources, self._shares, strict=True))
        )
        return MixOrder(orders, self._shares, self._epoch_samples, f"{self._seed}:{shuffling.seed}")

    def fingerprint(self) -> Fingerprint:
        fields: Fingerprint = {
            f"{name} of {which}": value
            for which, source in enumerate(self.sources)
            for name, value in source.fingerprint().items()
        }
        return fields | {"mix": f"{','.join(map(str, self._shares))} of seed {self._seed}"}

    @property
    def sample_bytes(self) -> int:
        """The same for all, padded as they are."""
        return max(source.sample_bytes for source in self.sources)

    def loader(self, batch_size: int, **options: Unpack[LoaderKeywords]) -> Loader:
        """As `Windows.loader`."""
        from dataset_catalog.loader import Loader
        from dataset_catalog.options import LoaderOptions

        return Loader(self, LoaderOptions(batch_size=batch_size, **options))


def _mix_again(sources: Sequence[Windows], weights: Sequence[float], seed: int, epoch_samples: int | None) -> Mix:
    return Mix(sources, weights, seed=seed, epoch_samples=epoch_samples)


def _joined(parts: Sequence[tuple[Ints, dict[str, Any]]], count: int) -> dict[str, Any]:
    """Batches of the same keys and shapes as one, each row at its place."""
    joined: dict[str, Any] = {}
    for name, like in parts[0][1].items():
        if isinstance(like, np.ndarray):
            out: Any = np.empty((count, *like.shape[1:]), like.dtype)
            for rows, batch in parts:
                out[rows] = batch[name]
        else:
            out = [None] * count
            for rows, batch in parts:
                for row, value in zip(rows.tolist(), batch[name], strict=True):
                    out[row] = value
        joined[name] = out
    return joined
