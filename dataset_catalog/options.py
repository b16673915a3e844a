"""What a loader can be told. Checked when built; PyTorch is not needed for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypedDict, get_args

from dataset_catalog.errors import WindowError
from dataset_catalog.sharing import Remainder, Sharing

Shuffle = Literal["windows", "blocks", "none"]

POOL_BYTES = 128 * 2**20
_INTEGERS = ("batch_size", "seed", "block", "pool_bytes", "rank", "world_size", "workers", "prefetch")


class LoaderKeywords(TypedDict, total=False):
    """The keywords of `Windows.loader`: see `LoaderOptions`."""

    seed: int
    shuffle: bool | Shuffle
    block: int
    pool_bytes: int
    rank: int
    world_size: int
    remainder: Remainder
    workers: int
    threads: int | None
    prefetch: int
    start_method: Literal["forkserver", "spawn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """`seed`, `shuffle`, `block` and `pool_bytes` decide the order; the others how it is cut and who makes the batches.

    batch_size    samples of one step, of all ranks together; `world_size` must divide it
    shuffle       `windows` (or True): a permutation of all. `blocks`: `block` neighbours stay near each other, mixed
                  with those of other blocks, as many as hold `pool_bytes` of samples, at least one. `none` (or False):
                  in the order of the dataset, for evaluation
    remainder     what becomes of an epoch's last samples when they fill no batch: see `Sharing`
    workers       processes that make batches; 0: threads of this process do
    threads       that decode, without workers; None: one a CPU that we may use
    prefetch      batches made ahead, with workers by each of them
    start_method  of worker processes; never fork: Lance has threads, which would not survive it
    """

    batch_size: int
    seed: int = 0
    shuffle: bool | Shuffle = "windows"
    block: int = 10
    pool_bytes: int = POOL_BYTES
    rank: int = 0
    world_size: int = 1
    remainder: Remainder = "drop"
    workers: int = 0
    threads: int | None = None
    prefetch: int = 2
    start_method: Literal["forkserver", "spawn"] = "forkserver"

    def __post_init__(self) -> None:
        for name in _INTEGERS:
            value = getattr(self, name)
            if not hasattr(value, "__index__"):
                raise WindowError(f"{name} must be an integer, got {value!r}")
            object.__setattr__(self, name, int(value))  # of NumPy's: a state is JSON
        for name, least in {"block": 1, "prefetch": 1, "workers": 0, "pool_bytes": 0}.items():
            if getattr(self, name) < least:
                raise WindowError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise WindowError(f"threads must be >= 1, got {self.threads}")
        if self.start_method not in ("forkserver", "spawn"):
            raise WindowError(f"start_method must be forkserver or spawn, got {self.start_method!r}")
        self.shuffling, self.sharing  # noqa: B018  checked by being made

    @property
    def shuffling(self) -> Shuffling:
        plain: Shuffle = "windows" if self.shuffle else "none"
        return Shuffling(
            plain if isinstance(self.shuffle, bool) else self.shuffle, self.seed, self.block, self.pool_bytes
        )

    @property
    def sharing(self) -> Sharing:
        return Sharing(self.batch_size, self.rank, self.world_size, self.remainder)


@dataclass(frozen=True, slots=True)
class Shuffling:
    """How windows are put in order; `block` and `pool_bytes` count for `blocks` only."""

    mode: Shuffle
    seed: int | str = 0
    block: int = 10
    pool_bytes: int = POOL_BYTES

    def __post_init__(self) -> None:
        if self.mode not in get_args(Shuffle):
            raise WindowError(f"shuffle must be one of {', '.join(get_args(Shuffle))}, got {self.mode!r}")

    def of_source(self, which: int, share: float) -> Shuffling:
        """For one dataset of a mix: an order of its own, and its share of the pool."""
        return replace(self, seed=f"{self.seed}:{which}", pool_bytes=int(self.pool_bytes * share))

    def pool(self, sample_bytes: int) -> int:
        """How many blocks are mixed at a time, where a decoded sample takes so many bytes."""
        return max(1, self.pool_bytes // max(1, self.block * sample_bytes))
