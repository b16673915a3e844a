"""What could be on a disk after the power went: one state, drawn by a seed, of all that the syncs so far allow.

The model is the weakest file system that POSIX's words on fsync still describe, one notch below the default abstract
persistence model of ALICE (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014); that a rename is
atomic, which applications are entitled to, is as CrashMonkey checks it (Mohan et al., OSDI 2018):

- *A sync that returned is honoured.* A file's sync keeps its bytes and its size, not its name. A folder's sync keeps
  the names in it, not what is in the files, nor the folder's own name in the folder above.
- *Bytes not synced.* Of each 512-byte sector any version since the last sync may be there: the synced one, or the one
  after any later write to it, each sector for itself (so writes tear, and later ones may be there without earlier
  ones). The size may be any that the file has had since; where it grew and no data came, zeros are read. A truncation
  that did not make it takes the writes after it with it.
- *Names not synced.* Any subset of the operations may have been done, whatever their order in time and across folders,
  but those on one name in their order: an unlinked file may come back, a new one may be missing, a new folder may be
  missing with everything in it, synced or not.
- *A rename is atomic*, also from folder to folder: the file has the old name or the new one, never both or none; what
  had the new name before is there or replaced, never gone. It is durable when the folder of the new name is synced.
  So that none can lose a file, a move into a folder brings the folder's name with it, and the removal of a folder
  everything that happened in it before.
- *A failed sync* leaves what was written before it without any promise, also when the next one succeeds (Rebello et
  al., "Can Applications Recover from fsync Failures?", ATC 2020).

Not modelled: bytes that rot, disks that lie about a flush, file modes and times.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.faults.disk_log import ROOT, Log, NameOperation, Names, Operation, rename_in
from tests.faults.losing_disk import LosingDisk
from tests.faults.surviving_bytes import Files, surviving_bytes, whole_bytes
from tests.faults.surviving_names import surviving_names


def after_power_loss(log: Log, target: Path, *, seed: int, at_operation: int | None = None) -> None:
    """Build in `target`, a folder that is empty or not there, what the disk could hold after `at_operation` operations.

    `at_operation` counts from the log's beginning: `log.start` is the moment the disk was made, `len(log)`, also the
    default, the end. The same log, seed and operation give the same state.
    """
    operations = _until(log, at_operation)
    dice = random.Random(f"{seed}/{len(operations)}")
    names = surviving_names(operations, dice)
    files = Files.of(operations)
    _build(target, names, files, lambda inode: surviving_bytes(files.changes[inode], files.durable, dice))


def after_kill(log: Log, target: Path, *, at_operation: int | None = None) -> None:
    """Build what SIGKILL leaves after `at_operation` operations: all of them, for the kernel lives on."""
    operations = _until(log, at_operation)
    files = Files.of(operations)
    _build(target, _all_names(operations), files, lambda inode: whole_bytes(files.changes[inode]))


def _until(log: Log, at_operation: int | None) -> Sequence[Operation]:
    at = len(log) if at_operation is None else at_operation
    if not log.start <= at <= len(log):
        raise ValueError(f"at_operation must be within {log.start}..{len(log)}, got {at}")
    return log.operations[:at]


def _build(target: Path, names: Names, files: Files, content: Callable[[int], bytes]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise ValueError(f"{target} must be empty")
    for path, inode in _walk(names, ROOT, target):
        if inode in files.modes:
            path.write_bytes(content(inode))
            path.chmod(files.modes[inode])
        else:
            path.mkdir()


def strays(disk: LosingDisk) -> set[str]:
    """Paths under the disk's root that are not as its log has them: written, made or removed without the disk."""
    with disk.lock:
        logged, real = _all_kept(disk.log.operations), _tree(disk.root)
    return {path for path in logged.keys() | real.keys() if logged.get(path, ...) != real.get(path, ...)}


def _all_kept(operations: Sequence[Operation]) -> dict[str, bytes | None]:
    """The bytes of each file by its path from the root, None for a folder."""
    files = Files.of(operations)
    return {
        str(path): whole_bytes(files.changes[inode]) if inode in files.modes else None
        for path, inode in _walk(_all_names(operations), ROOT, Path())
    }


def _all_names(operations: Sequence[Operation]) -> Names:
    names: Names = {ROOT: {}}
    for operation in operations:
        if isinstance(operation, NameOperation):
            rename_in(names, operation)
    return names


def _tree(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")}


def _walk(names: Names, folder: int, path: Path) -> Iterator[tuple[Path, int]]:
    for name, inode in sorted(names.get(folder, {}).items()):
        yield path / name, inode
        yield from _walk(names, inode, path / name)
