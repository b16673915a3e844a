"""What was done to a disk, operation by operation: the record from which `power_loss` draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ROOT = 0  # the inode of the folder that the disk was made for


@dataclass(frozen=True, slots=True)
class Created:
    """A new file got its first name."""

    inode: int
    folder: int
    name: str
    mode: int


@dataclass(frozen=True, slots=True)
class MadeFolder:
    inode: int
    folder: int
    name: str


@dataclass(frozen=True, slots=True)
class Renamed:
    """A file or folder left one name for another; what had that name lost it."""

    inode: int
    old_folder: int
    old_name: str
    folder: int
    name: str


@dataclass(frozen=True, slots=True)
class Unlinked:
    inode: int
    folder: int
    name: str


@dataclass(frozen=True, slots=True)
class RemovedFolder:
    inode: int
    folder: int
    name: str


@dataclass(frozen=True, slots=True)
class SyncedFolder:
    inode: int


@dataclass(frozen=True, slots=True)
class Wrote:
    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Synced:
    """A sync of a file that has returned."""

    inode: int


@dataclass(frozen=True, slots=True)
class FailedSync:
    """A sync of a file that has failed: no later one makes durable what was written before it."""

    inode: int


NameOperation = Created | MadeFolder | Renamed | Unlinked | RemovedFolder
Change = Wrote | Truncated
Operation = NameOperation | Change | SyncedFolder | Synced | FailedSync
Names = dict[int, dict[str, int]]  # the entries of each folder: name → inode


def rename_in(names: Names, operation: NameOperation) -> None:
    """Do one name operation to `names`."""
    entries = names.setdefault(operation.folder, {})
    match operation:
        case Created():
            entries[operation.name] = operation.inode
        case MadeFolder():
            entries[operation.name] = operation.inode
            names.setdefault(operation.inode, {})
        case Renamed():
            names.setdefault(operation.old_folder, {}).pop(operation.old_name, None)
            entries[operation.name] = operation.inode
        case Unlinked() | RemovedFolder():
            entries.pop(operation.name, None)


@dataclass
class Log:
    """Every operation in the order in which the disk did them.

    The first `start` of them only say, as synced, what was there before. `promise` notes what the program said at this
    point (a flush that returned, a receipt); `promised` gives back what had been said before a power loss.
    """

    operations: list[Operation] = field(default_factory=list)
    start: int = 0
    _promises: list[tuple[int, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.operations)

    def promise(self, value: Any) -> None:
        self._promises.append((len(self.operations), value))

    def promised(self, at_operation: int) -> list[Any]:
        """What was said when at most `at_operation` operations had been done, in the order of its saying."""
        return [value for length, value in self._promises if length <= at_operation]
