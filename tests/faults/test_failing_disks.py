"""The disks that refuse: they fail where they are told to, and as a kernel does."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge.disk import Disk, read_lines
from tests.faults.failing_disk import BLOCK_BYTES, FailingDisk, Kind, SmallDisk
from tests.faults.losing_disk import LosingDisk
from tests.faults.power_loss import after_power_loss


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


OPERATIONS: dict[Kind, Callable[[Disk, Path], object]] = {
    "create": lambda disk, root: disk.create(root / "new").close(),
    "open_append": lambda disk, root: disk.open_append(root / "new").close(),
    "write": lambda disk, root: disk.append_line(root / "a", "x"),
    "sync": lambda disk, root: disk.append_line(root / "a", "x"),
    "rename": lambda disk, root: disk.rename(root / "a", root / "b"),
    "unlink": lambda disk, root: disk.unlink(root / "a"),
    "mkdir": lambda disk, root: disk.mkdir(root / "new"),
    "rmdir": lambda disk, root: disk.rmdir(root / "f"),
    "sync_folder": lambda disk, root: disk.sync_folder(root),
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_each_kind_of_operation_fails_alone_and_heals(disk: FailingDisk, tmp_path: Path, kind: Kind) -> None:
    disk.write_file(tmp_path / "a", b"1\n")
    disk.mkdir(tmp_path / "f")
    fault = disk.fail(kind, error=errno.EIO)
    OPERATIONS["create" if kind == "sync_folder" else "sync_folder"](disk, tmp_path)
    assert fault.fired == 0
    with pytest.raises(OSError, match="Input/output error") as raised:
        OPERATIONS[kind](disk, tmp_path)
    assert raised.value.errno == errno.EIO
    assert fault.fired >= 1
    assert {path.name for path in tmp_path.iterdir()} - {"new"} == {"a", "f"}, "nothing was done"
    disk.heal()
    OPERATIONS[kind](disk, tmp_path)


def test_a_fault_passes_some_then_fails_some_then_is_over(disk: FailingDisk, tmp_path: Path) -> None:
    fault = disk.fail("create", after=2, times=3)
    made = []
    for n in range(8):
        try:
            disk.create(tmp_path / str(n)).close()
            made.append(n)
        except OSError:
            continue
    assert made == [0, 1, 5, 6, 7]
    assert fault.fired == 3


def test_a_fault_keeps_to_its_paths_and_a_rename_has_two(disk: FailingDisk, tmp_path: Path) -> None:
    disk.fail(where=lambda path: path.suffix == ".json")
    disk.write_file(tmp_path / "a.mcap", b"1")
    for old, new in (("a.mcap", "b.json"), ("b.json", "a.mcap")):
        with pytest.raises(OSError, match="No space left"):
            disk.rename(tmp_path / old, tmp_path / new)
    with pytest.raises(OSError, match="No space left"):
        disk.write_file(tmp_path / "a.json", b"1")
    assert (tmp_path / "a.mcap").read_bytes() == b"1"


def test_a_write_on_a_full_disk_leaves_what_fitted(disk: FailingDisk, tmp_path: Path) -> None:
    disk.fail("write", partial_bytes=5, times=1)
    file = disk.create(tmp_path / "a")
    file.write(b"0123456789")
    with pytest.raises(OSError, match="No space left"):
        file.flush()
    assert (tmp_path / "a").read_bytes() == b"01234"
    file.close()  # the disk has room again: what was left in the buffer goes out, nothing twice
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_files_read_seek_append_and_truncate_as_real_ones(disk: FailingDisk, tmp_path: Path) -> None:
    for line in ("one", "two"):
        disk.append_line(tmp_path / "lines", line)
    assert read_lines(tmp_path / "lines") == ["one", "two"]
    with disk.create(tmp_path / "b", mode=0o600) as file:
        file.write(b"0123456789")
        file.seek(4)
        file.truncate()
        file.seek(0)
        assert file.read() == b"0123"
        assert os.fstat(file.fileno()).st_size == 4
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600


def test_a_failed_sync_takes_the_promise_from_what_was_written_before(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    losing = LosingDisk(tmp_path / "disk")
    disk = FailingDisk(losing)
    disk.fail("sync", error=errno.EIO, times=1)
    with disk.create(losing.root / "a") as file:
        file.write(b"x" * 512)
        with pytest.raises(OSError, match="Input/output"):
            disk.sync(file)
        disk.sync(file)
        file.write(b"y" * 512)
        disk.sync(file)
    disk.sync_folder(losing.root)
    for seed in range(60):
        after_power_loss(losing.log, tmp_path / str(seed), seed=seed)
    bodies = {(tmp_path / str(seed) / "a").read_bytes() for seed in range(60)}
    assert bodies == {b"x" * 512 + b"y" * 512, bytes(512) + b"y" * 512}


def test_a_small_disk_takes_what_fits_and_has_room_after_a_removal(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path, 4 * BLOCK_BYTES)
    assert disk.free_bytes(tmp_path) == 4 * BLOCK_BYTES
    disk.write_file(tmp_path / "a", b"x")
    assert disk.free_bytes(tmp_path) == 2 * BLOCK_BYTES
    file = disk.create(tmp_path / "b")
    file.write(b"y" * (2 * BLOCK_BYTES - 10))
    with pytest.raises(OSError, match="No space left"):
        file.flush()
    with pytest.raises(OSError, match="No space left"):
        file.close()
    assert file.closed
    assert (tmp_path / "b").stat().st_size == BLOCK_BYTES
    assert disk.free_bytes(tmp_path) == 0
    with pytest.raises(OSError, match="No space left"):
        disk.mkdir(tmp_path / "f")
    disk.append_line(tmp_path / "a", "fits into the block that the file has already")
    disk.unlink(tmp_path / "b")
    disk.write_file(tmp_path / "c", b"z" * BLOCK_BYTES)
    assert disk.used_bytes == 4 * BLOCK_BYTES


def test_many_threads_cannot_overfill_a_small_disk(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path, 64 * BLOCK_BYTES)
    full = threading.Event()

    def work(number: int) -> None:
        for n in range(40):
            try:
                disk.write_file(tmp_path / f"{number}-{n}", b"x" * 3 * BLOCK_BYTES)
            except OSError:
                full.set()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert full.is_set()
    taken = sum(BLOCK_BYTES + -(-path.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES for path in tmp_path.iterdir())
    assert taken <= disk.capacity_bytes + 4 * BLOCK_BYTES, "each thread may make one name at the same moment"
    assert disk.used_bytes == taken
