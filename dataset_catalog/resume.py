"""Where a training run is, as JSON: what it feeds on, and how many samples its loop has been given.

Prefetched samples do not count: a state belongs to the batch that the loop has in hand. It is the same on every rank,
and good for another world size and another number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from dataset_catalog.errors import ResumeError

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset

FORMAT = 1

Fingerprint = dict[str, str]  # field → value, as text that is the same in every process


@dataclass(frozen=True, slots=True)
class Position:
    """`delivered` samples of an epoch have been given to the loop, by all ranks together."""

    epoch: int
    delivered: int


def fingerprint_of(dataset: Dataset, spec: Any) -> Fingerprint:
    """What a dataset's samples are, given their numbers."""
    return {
        "dataset": dataset.uri,
        "version": str(dataset.version),
        "label version": str(dataset.label_version),
        "selection": dataset.selection.digest(),
        "windows": json.dumps(asdict(spec), sort_keys=True, default=_as_text),
    }


def to_state(position: Position, fingerprint: Fingerprint, *, seed: int) -> dict[str, Any]:
    return {"format": FORMAT, "fingerprint": dict(fingerprint), "seed": seed, **asdict(position)}


def from_state(state: Any, fingerprint: Fingerprint, *, seed: int, samples: int) -> Position:
    """The position of a state made by `to_state`, of a loader with this fingerprint, seed and samples an epoch.

    Raises `ResumeError` for what is no state, and for the state of another feed, naming the field that differs.
    """
    if not _is_state(state):
        raise ResumeError(f"this is no state of a loader, or of another release: {str(state)[:200]}")
    theirs = state["fingerprint"] | {"seed": str(state["seed"])}
    ours = fingerprint | {"seed": str(seed)}
    for name in [*ours, *(set(theirs) - set(ours))]:
        if ours.get(name) != theirs.get(name):
            raise ResumeError(
                f"this state is of another feed: {name} is {ours.get(name)}, the state has {theirs.get(name)}"
            )
    if state["delivered"] > samples:
        raise ResumeError(f"an epoch has {samples} samples, the state says that {state['delivered']} were delivered")
    return Position(state["epoch"], state["delivered"])


def _is_state(state: Any) -> bool:
    return (
        isinstance(state, Mapping)
        and state.get("format") == FORMAT
        and isinstance(state.get("fingerprint"), dict)
        and type(state.get("seed")) is int
        and all(type(state.get(name)) is int and state[name] >= 0 for name in ("epoch", "delivered"))
    )


def _as_text(value: Any) -> Any:
    """What JSON does not know: arrays as lists, sets in order, other records by their fields."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"a window spec cannot hold a {type(value).__name__}: its text would differ between processes")
