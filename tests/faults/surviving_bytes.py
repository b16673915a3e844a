"""Which bytes of a file a power loss leaves, sector by sector. See `power_loss`."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.disk_log import Change, Created, FailedSync, Operation, Synced, Truncated, Wrote

SECTOR_BYTES = 512
MOODS = ("nothing", "everything", "in order", "size", "any")  # how much of what is not synced made it


@dataclass
class Files:
    """What was done to the bytes of each file, in order, and which of these changes are durable."""

    modes: dict[int, int]
    changes: dict[int, list[tuple[int, Change]]]
    durable: set[int]

    @classmethod
    def of(cls, operations: Sequence[Operation]) -> Files:
        files = cls({}, defaultdict(list), set())
        pending: dict[int, list[int]] = defaultdict(list)
        for index, operation in enumerate(operations):
            match operation:
                case Created():
                    files.modes[operation.inode] = operation.mode
                case Synced():
                    files.durable.update(pending.pop(operation.inode, []))
                case FailedSync():
                    pending.pop(operation.inode, None)
                case _ if isinstance(operation, Change):
                    files.changes[operation.inode].append((index, operation))
                    pending[operation.inode].append(index)
        return files


def whole_bytes(indexed: Sequence[tuple[int, Change]]) -> bytes:
    """A file's bytes after all of its changes."""
    return _built([change for _, change in indexed], len(indexed), {})


def surviving_bytes(indexed: Sequence[tuple[int, Change]], durable: set[int], dice: random.Random) -> bytes:
    """A file's bytes after a possible part of its changes."""
    changes = [change for _, change in indexed]
    kept = {number for number, (index, _) in enumerate(indexed) if index in durable}
    least = max(kept, default=-1) + 1
    match dice.choice(MOODS):
        case "nothing":
            return _built(changes, least, _first_versions(changes, kept))
        case "everything":
            return _built(changes, len(changes), {})
        case "in order":
            whole = _torn(changes, dice.randint(least, len(changes)), dice)
            return _built(whole, len(whole), {})
        case "size":
            return _built(changes, len(changes), _first_versions(changes, kept))
        case _:
            return _built(changes, dice.randint(least, len(changes)), _any_versions(changes, kept, dice))


def _built(changes: Sequence[Change], metadata: int, versions: dict[int, int]) -> bytes:
    """The bytes where the first `metadata` changes count for the size, and each sector shows its writes before one."""
    data, size = bytearray(), 0
    for number, change in enumerate(changes):
        if isinstance(change, Wrote):
            _write(data, change, versions, number)
        elif number < metadata:
            _resize(data, change.size)
        else:
            break  # a truncation that did not make it: the writes after it went to blocks that nobody knows
        if number < metadata:
            size = _size_after(change, size)
    _resize(data, size)
    return bytes(data)


def _torn(changes: Sequence[Change], cut: int, dice: random.Random) -> list[Change]:
    """The first `cut` changes, and of the next one, where it is a write, the first sectors."""
    whole = list(changes[:cut])
    for change in changes[cut : cut + 1]:
        if isinstance(change, Wrote):
            sectors = dice.randint(0, len(_sectors(change)) - 1)
            length = max(0, sectors * SECTOR_BYTES - change.offset % SECTOR_BYTES)
            whole.append(Wrote(change.inode, change.offset, change.data[:length]))
    return [change for change in whole if isinstance(change, Truncated) or change.data]


def _first_versions(changes: Sequence[Change], kept: set[int]) -> dict[int, int]:
    """For each sector the first change that it does not show, where only what is `kept` made it."""
    return {
        sector: max((number + 1 for number in history if number in kept), default=0)
        for sector, history in _histories(changes).items()
    }


def _any_versions(changes: Sequence[Change], kept: set[int], dice: random.Random) -> dict[int, int]:
    """The same, where each sector may have come further than that by itself."""
    first, histories = _first_versions(changes, kept), _histories(changes)
    return {
        sector: dice.choice([least, *(number + 1 for number in histories[sector] if number >= least)])
        for sector, least in first.items()
    }


def _histories(changes: Sequence[Change]) -> dict[int, list[int]]:
    """Which changes wrote to each sector."""
    histories: dict[int, list[int]] = defaultdict(list)
    for number, change in enumerate(changes):
        if isinstance(change, Wrote):
            for sector in _sectors(change):
                histories[sector].append(number)
    return histories


def _sectors(wrote: Wrote) -> range:
    return range(wrote.offset // SECTOR_BYTES, (wrote.offset + len(wrote.data) - 1) // SECTOR_BYTES + 1)


def _write(data: bytearray, wrote: Wrote, versions: dict[int, int], number: int) -> None:
    """Put in those sectors of a write that made it."""
    offset, new = wrote.offset, wrote.data
    for sector in _sectors(wrote):
        if number < versions.get(sector, number + 1):
            start, end = max(offset, sector * SECTOR_BYTES), min(offset + len(new), (sector + 1) * SECTOR_BYTES)
            if len(data) < end:
                _resize(data, end)
            data[start:end] = new[start - offset : end - offset]


def _resize(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))


def _size_after(change: Change, size: int) -> int:
    if isinstance(change, Truncated):
        return change.size
    return max(size, change.offset + len(change.data))
