"""Which names a power loss leaves: those after a subset of the operations that may have been done. See `power_loss`."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.faults.disk_log import (
    ROOT,
    MadeFolder,
    NameOperation,
    Names,
    Operation,
    RemovedFolder,
    Renamed,
    SyncedFolder,
    rename_in,
)

MOODS = ("nothing", "everything", "in order", "any")  # how much of what is not synced made it


def surviving_names(operations: Sequence[Operation], dice: random.Random) -> Names:
    """The folders' entries after a possible subset of the name operations."""
    needs = _needs(operations)
    kept: set[int] = set()
    waiting = [*_durable_names(operations), *_some(sorted(needs), dice)]
    while waiting:
        index = waiting.pop()
        if index not in kept:
            kept.add(index)
            waiting += needs[index]
    names: Names = {ROOT: {}}
    for index in sorted(kept):
        operation = operations[index]
        assert isinstance(operation, NameOperation)
        rename_in(names, operation)
    return names


def _durable_names(operations: Sequence[Operation]) -> list[int]:
    """The name operations after which their folder was synced."""
    synced: set[int] = set()
    durable = []
    for index in reversed(range(len(operations))):
        operation = operations[index]
        if isinstance(operation, SyncedFolder):
            synced.add(operation.inode)
        elif isinstance(operation, NameOperation) and operation.folder in synced:
            durable.append(index)
    return durable


def _needs(operations: Sequence[Operation]) -> dict[int, set[int]]:
    """For each name operation those before it without which it cannot have been done."""
    needs: dict[int, set[int]] = {}
    last: dict[tuple[int, str], int] = {}
    inside: dict[int, list[int]] = defaultdict(list)
    named: dict[int, tuple[int, int]] = {}  # inode of a folder: the operation that named it, and the folder above
    for index, operation in enumerate(operations):
        if not isinstance(operation, NameOperation):
            continue
        touched = _touched(operation)
        needs[index] = {last[one] for one in touched if one in last}
        if isinstance(operation, RemovedFolder):
            needs[index] |= set(inside[operation.inode])
        if isinstance(operation, Renamed) and operation.folder != operation.old_folder:
            needs[index] |= set(_naming(operation.folder, named))
        if isinstance(operation, MadeFolder | Renamed):
            named[operation.inode] = index, operation.folder
        for folder, name in touched:
            last[folder, name] = index
            inside[folder].append(index)
    return needs


def _touched(operation: NameOperation) -> list[tuple[int, str]]:
    new = (operation.folder, operation.name)
    return [(operation.old_folder, operation.old_name), new] if isinstance(operation, Renamed) else [new]


def _naming(folder: int, named: dict[int, tuple[int, int]]) -> Iterator[int]:
    """The operations that gave a folder and those above it their names."""
    while folder != ROOT:
        index, folder = named[folder]
        yield index


def _some(indices: Sequence[int], dice: random.Random) -> Sequence[int]:
    match dice.choice(MOODS):
        case "nothing":
            return []
        case "everything":
            return indices
        case "in order":
            return indices[: dice.randint(0, len(indices))]
        case _:
            likely = dice.random()
            return [index for index in indices if dice.random() < likely]
