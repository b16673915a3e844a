from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fleetfeed.errors import AlreadyRunning, StackError
from fleetfeed.run_folder import RunFolder, hold


def test_one_keeper_holds_a_folder(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "run")
    assert folder.keeper_pid() is None
    lock = folder.lock()
    hold(lock)
    assert folder.keeper_pid() == os.getpid()
    with pytest.raises(AlreadyRunning, match=rf"{folder.path} \(keeper {os.getpid()}\)"):
        folder.lock()
    os.close(lock)
    assert folder.keeper_pid() is None
    os.close(folder.lock())


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    folder = RunFolder.open(tmp_path / "run")
    made = folder.credentials()
    assert folder.credentials() == made
    assert made != RunFolder.open(tmp_path / "another").credentials()
    assert made.secret_access_key not in repr(made)
    assert stat.S_IMODE((folder.path / "credentials.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    (tmp_path / "ray").mkdir()
    with pytest.raises(StackError, match="a folder for the stack alone"):
        RunFolder.open(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*.pyc\n"


def test_clearing_keeps_the_bucket_and_what_others_put_there(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path)
    for name in ("s3/1.dat", "ray/session/logs", "demo/notes.log"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    folder.log("keeper").touch()
    folder.clear()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"s3/1.dat", "demo/notes.log", "keeper.lock", ".gitignore"}
