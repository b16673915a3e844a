"""The small file system is real, small, and gone afterwards."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

import pytest

from edge.disk import DISK
from tests.faults import small_file_system as module
from tests.faults.small_file_system import small_file_system

MIB = 1 << 20


def _fill(folder: Path) -> int:
    """Write until the disk is full; returns how many bytes went in."""
    with (folder / "big").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(100_000))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return file.tell()


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_it_is_full_at_its_size_and_unmounted_at_the_end(tmp_path: Path, kind: str) -> None:
    with small_file_system(tmp_path / "small", kinds=[kind]) as folder:
        if folder is None:
            pytest.skip(f"{kind} cannot be mounted here")
        assert os.path.ismount(folder)
        assert 12 * MIB <= _fill(folder) <= 16 * MIB
        assert DISK.free_bytes(folder) < 100_000
    assert not (tmp_path / "small").exists()


def test_it_is_unmounted_after_a_failure_and_under_an_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.1)

    def fail_with_a_file_open() -> None:
        with small_file_system(tmp_path / "small") as folder:
            if folder is None:
                pytest.skip("nothing can be mounted here")
            held.append((folder / "held").open("wb"))
            raise ZeroDivisionError

    held: list[IO[bytes]] = []
    with pytest.raises(ZeroDivisionError):
        fail_with_a_file_open()
    assert not (tmp_path / "small").exists()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    held[0].close()


def test_where_nothing_can_be_mounted_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with small_file_system(tmp_path / "small") as folder:
        assert folder is None
    assert not (tmp_path / "small").exists()
