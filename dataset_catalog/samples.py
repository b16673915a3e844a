"""What a loader can feed from: the windows of one dataset, or a mix of several."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.options import Shuffling
from dataset_catalog.order import Ints, Order
from dataset_catalog.resume import Fingerprint


class Samples(Protocol):
    """Numbered samples. Pickles as a description; each process opens its own tables."""

    def __len__(self) -> int: ...

    def batch(
        self, windows: Ints, *, seeds: NDArray[np.uint64] | None = None, pool: Executor | None = None
    ) -> dict[str, Any]:
        """The samples with these numbers, in this order; `seeds` are of their own randomness."""
        ...

    def warm(self) -> None:
        """Read ahead what is read once."""
        ...

    def order(self, shuffling: Shuffling) -> Order:
        """In which order they come."""
        ...

    def fingerprint(self) -> Fingerprint:
        """What they are, field by field."""
        ...

    def episodes(self, windows: Ints) -> set[Any]:
        """Which episodes these samples are of."""
        ...

    def gops(self, windows: Ints) -> set[Any]:
        """Which GOPs hold their pictures."""
        ...

    @property
    def sample_bytes(self) -> int:
        """How much a decoded sample takes."""
        ...
