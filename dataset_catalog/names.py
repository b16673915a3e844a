"""What the keys of a batch are called: as the dataset's columns, or as LeRobot's policies read them.

    ours                    names="lerobot"
    state, state_mask       observation.state, observation.state_is_pad (the mask's opposite, as LeRobot has it)
    head, head_mask         observation.images.head, observation.images.head_is_pad
    action, action_is_pad   action, action_is_pad
    gripper (an action)     action.gripper, action.gripper_is_pad
    task, episode_id …      the same

LeRobot: `LeRobotDataset.__getitem__`; `ACTION`, `OBS_STATE` and `OBS_IMAGES` of its constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, get_args

from dataset_catalog.errors import WindowError
from dataset_catalog.layout import Entry, entries

if TYPE_CHECKING:
    from dataset_catalog.spec import WindowSpec

Naming = Literal["fleetfeed", "lerobot"]
NAMINGS: tuple[Naming, ...] = get_args(Naming)

ABOUT = ("task", "task_index", "episode_id", "t_ns", "sample_id")  # keys of every batch
_SUFFIXES = ("", "_mask", "_is_pad", "_age_ns", "_dim_mask")
_PREFIX = {"observation": "observation.", "camera": "observation.images.", "action": "action."}


def rename(batch: dict[str, Any], entries: Iterable[Entry], naming: Naming) -> None:
    """Give the batch's keys the names asked for; the arrays stay the same, but for a mask's opposite."""
    if naming == "fleetfeed":
        return
    for entry in entries:
        name = lerobot_name(entry)
        if f"{entry.name}_mask" in batch:
            batch[f"{entry.name}_is_pad"] = ~batch.pop(f"{entry.name}_mask")
        for suffix in _SUFFIXES:
            if f"{entry.name}{suffix}" in batch:
                batch[f"{name}{suffix}"] = batch.pop(f"{entry.name}{suffix}")


def lerobot_name(entry: Entry) -> str:
    """LeRobot's key for a column or a camera; a column that already has such a name keeps it."""
    prefix = _PREFIX[entry.kind]
    kept = entry.name.startswith(prefix) or (entry.kind == "action" and entry.name == "action")
    return entry.name if kept else prefix + entry.name


def check_keys(spec: WindowSpec) -> None:
    """Raises `WindowError` where two things of a batch would have the same key, such as columns `x` and `x_mask`."""
    names = [lerobot_name(entry) if spec.naming == "lerobot" else entry.name for entry in entries(spec)]
    times = Counter([*ABOUT, *(f"{name}{suffix}" for name in names for suffix in _SUFFIXES)])
    twice = sorted(key for key, count in times.items() if count > 1)
    if twice:
        raise WindowError(f"a batch would have the keys {twice} twice: give the columns other names")
