"""The instrument that draws power losses: all it may take away it does take away, and nothing else."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.disk import Disk, read_lines
from tests.faults.disk_log import SyncedFolder, Wrote
from tests.faults.losing_disk import LosingDisk
from tests.faults.power_loss import after_kill, after_power_loss, strays
from tests.faults.surviving_bytes import SECTOR_BYTES

SEEDS = range(150)
Tree = dict[str, bytes | None]
States = Callable[..., list[Tree]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(root: Path) -> LosingDisk:
    return LosingDisk(root)


@pytest.fixture
def states(tmp_path: Path) -> States:
    """What the disk may hold after a power loss, one state a seed."""

    def draw(disk: LosingDisk, *, at: int | None = None) -> list[Tree]:
        return [_state(disk, tmp_path / f"state-{seed}-{at}", seed=seed, at=at) for seed in SEEDS]

    return draw


def _state(disk: LosingDisk, target: Path, *, seed: int, at: int | None = None) -> Tree:
    after_power_loss(disk.log, target, seed=seed, at_operation=at)
    try:
        return _tree(target)
    finally:
        shutil.rmtree(target)


def _tree(root: Path) -> Tree:
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")}


def _write(disk: Disk, path: Path, data: bytes, *, sync: bool) -> None:
    with disk.create(path) as file:
        file.write(data)
        if sync:
            disk.sync(file)


# -- bytes -----------------------------------------------------------------------------------------------------


def test_an_unsynced_write_may_be_lost_and_may_survive(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"new", sync=False)
    disk.sync_folder(root)
    assert {state["a"] for state in states(disk)} == {b"", b"\0\0\0", b"new"}


def test_synced_bytes_under_a_synced_name_are_never_lost(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"kept", sync=True)
    disk.sync_folder(root)
    synced = len(disk.log)
    with disk.open_append(root / "a") as file:
        file.write(b" and more")
    for at in range(synced, len(disk.log) + 1):
        assert all((state["a"] or b"").startswith(b"kept") for state in states(disk, at=at))


def test_before_its_sync_returned_nothing_is_promised(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"kept", sync=True)
    disk.sync_folder(root)
    assert {} in states(disk, at=len(disk.log) - 1)
    assert {"a": b"kept"} in states(disk, at=len(disk.log) - 1)


def test_writes_tear_at_sectors_and_at_nothing_else(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"o" * 4 * SECTOR_BYTES, sync=True)
    disk.sync_folder(root)
    with disk.open_append(root / "a") as file:
        file.write(b"n" * 4 * SECTOR_BYTES)
    found = [state["a"] or b"" for state in states(disk)]
    sectors = [tuple(body[at : at + SECTOR_BYTES] for at in range(0, len(body), SECTOR_BYTES)) for body in found]
    whole = {bytes([one]) * SECTOR_BYTES for one in b"on\0"}
    assert all(set(one) <= whole for one in sectors)
    later_without_earlier = [
        one for one in sectors if one[4:5] == (bytes(SECTOR_BYTES),) and b"n" * SECTOR_BYTES in one
    ]
    assert later_without_earlier
    assert {len(body) for body in found} == {count * SECTOR_BYTES for count in range(4, 9)}


def test_an_overwritten_sector_is_the_old_one_or_the_new_one(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"o" * 2 * SECTOR_BYTES, sync=True)
    disk.sync_folder(root)
    with disk.create(root / "b") as file:  # not cut to nothing: written over in place
        file.write(b"o" * 2 * SECTOR_BYTES)
        disk.sync(file)
        disk.sync_folder(root)
        file.seek(0)
        file.write(b"n" * 2 * SECTOR_BYTES)
    halves = {(state["b"] or b"")[:1] + (state["b"] or b"")[-1:] for state in states(disk)}
    assert halves == {b"oo", b"on", b"no", b"nn"}


def test_within_one_sector_a_later_write_is_not_there_without_the_earlier_one(
    disk: LosingDisk, root: Path, states: States
) -> None:
    with disk.open_append(root / "a") as file:
        for letter in (b"1", b"2", b"3"):
            file.write(letter)
            file.flush()
    disk.sync_folder(root)
    shown = {(state["a"] or b"").rstrip(b"\0") for state in states(disk)}
    assert shown == {b"", b"1", b"12", b"123"}


def test_sectors_may_be_of_different_times(disk: LosingDisk, root: Path, states: States) -> None:
    with disk.create(root / "a") as file:
        for letter in b"123":
            file.seek(0)
            file.write(bytes([letter]) * 2 * SECTOR_BYTES)
            file.flush()
    disk.sync_folder(root)
    halves = {(state["a"] or b"\0")[:1] + (state["a"] or b"\0")[-1:] for state in states(disk)}
    assert halves & {b"12", b"13", b"23"}, "the first sector older than the second"


def test_everything_not_synced_may_be_lost_at_once(disk: LosingDisk, root: Path, states: States) -> None:
    disk.write_file(root / "a", b"s" * 700)
    with disk.open_append(root / "a") as file:
        for _ in range(200):
            file.write(b"n" * 300)
            file.flush()
    found = [state["a"] for state in states(disk)]
    assert b"s" * 700 in found
    assert b"s" * 700 + b"n" * 60_000 in found


def test_the_size_may_have_grown_without_the_data(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"n" * 3000, sync=False)
    disk.sync_folder(root)
    assert bytes(3000) in [state["a"] for state in states(disk)]


def test_a_file_cut_and_written_anew_in_place_may_be_lost_wholly(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"old" * 1000, sync=True)
    disk.sync_folder(root)
    _write(disk, root / "a", b"new" * 1000, sync=False)
    found = [state["a"] for state in states(disk)]
    assert {b"", b"old" * 1000, b"new" * 1000} <= set(found)
    assert all(not (b"old" in body and b"new" in body) for body in found if body is not None)


def test_after_a_failed_sync_the_next_one_does_not_bring_back_the_bytes(
    disk: LosingDisk, root: Path, states: States
) -> None:
    with disk.create(root / "a") as file:
        file.write(b"x" * SECTOR_BYTES)
        file.flush()
        disk.sync_failed(file)
        file.write(b"y" * SECTOR_BYTES)
        disk.sync(file)
    disk.sync_folder(root)
    found = {(state["a"] or b"")[:1] + (state["a"] or b"")[-1:] for state in states(disk)}
    assert found == {b"xy", b"\0y"}


# -- names -----------------------------------------------------------------------------------------------------


def test_a_synced_file_has_no_name_until_its_folder_is_synced(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"kept", sync=True)
    found = states(disk)
    assert {} in found
    assert {"a": b"kept"} in found


def test_write_sync_rename_sync_folder_always_gives_the_new_file(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"old", sync=True)
    disk.sync_folder(root)
    disk.write_file(root / "a", b"new")
    assert all(state == {"a": b"new"} for state in states(disk))


def test_a_rename_without_a_folder_sync_may_have_happened_or_not(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a", b"old", sync=True)
    _write(disk, root / "b", b"new", sync=True)
    disk.sync_folder(root)
    disk.rename(root / "b", root / "a")
    found = states(disk)
    assert all(state in ({"a": b"old", "b": b"new"}, {"a": b"new"}) for state in found)
    assert {"a": b"old", "b": b"new"} in found
    assert {"a": b"new"} in found


def test_a_rename_may_come_before_the_bytes(disk: LosingDisk, root: Path, states: States) -> None:
    _write(disk, root / "a.tmp", b"new", sync=False)
    disk.publish(root / "a.tmp", root / "a")
    assert {state["a"] for state in states(disk)} == {b"", b"\0\0\0", b"new"}


def test_a_move_between_folders_never_loses_and_never_doubles(disk: LosingDisk, root: Path, states: States) -> None:
    for name in ("from", "to"):
        disk.make_folder(root / name)
    disk.write_file(root / "from" / "a", b"kept")
    disk.mkdir(root / "to" / "new")
    disk.rename(root / "from" / "a", root / "to" / "new" / "a")
    moved = len(disk.log)
    disk.sync_folder(root / "from")
    disk.rmdir(root / "from")
    disk.sync_folder(root)
    for at in range(moved, len(disk.log) + 1):
        places = [[path for path, body in state.items() if body == b"kept"] for state in states(disk, at=at)]
        assert all(one in (["from/a"], ["to/new/a"]) for one in places)
        assert (["from/a"] in places) == (at < len(disk.log)), "gone with its old folder, it must be in the new one"


def test_an_unsynced_removal_may_come_back_and_a_synced_one_does_not(
    disk: LosingDisk, root: Path, states: States
) -> None:
    disk.write_file(root / "a", b"old")
    disk.unlink(root / "a")
    found = states(disk)
    assert {"a": b"old"} in found
    assert {} in found
    disk.sync_folder(root)
    assert all(state == {} for state in states(disk))


def test_an_unsynced_folder_may_be_missing_with_everything_in_it(disk: LosingDisk, root: Path, states: States) -> None:
    disk.mkdir(root / "f")
    disk.write_file(root / "f" / "a", b"synced")
    found = states(disk)
    assert {} in found
    assert {"f": None, "f/a": b"synced"} in found
    disk.sync_folder(root)
    assert all(state == {"f": None, "f/a": b"synced"} for state in states(disk))


def test_names_in_one_folder_are_not_kept_in_the_order_of_time(disk: LosingDisk, root: Path, states: States) -> None:
    for name in ("first", "second"):
        _write(disk, root / name, b"", sync=True)
    assert {frozenset(state) for state in states(disk)} == {
        frozenset(),
        frozenset({"first"}),
        frozenset({"second"}),
        frozenset({"first", "second"}),
    }


def test_a_name_used_again_shows_its_uses_in_their_order(disk: LosingDisk, root: Path, states: States) -> None:
    for body in (b"one", b"two"):
        _write(disk, root / "a", body, sync=True)
        disk.rename(root / "a", root / body.decode())
    for state in states(disk):
        assert ("two" in state) <= ("one" in state), "the name came free for the second by the first one's rename"


# -- the log ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_state(disk: LosingDisk, root: Path, tmp_path: Path) -> None:
    for n in range(5):
        _write(disk, root / str(n), os.urandom(5000), sync=False)
    one, again, other = (_state(disk, tmp_path / f"s{n}", seed=seed) for n, seed in enumerate((7, 7, 8)))
    assert one == again
    assert one != other


def test_what_was_there_before_is_durable(root: Path, states: States) -> None:
    (root / "f").mkdir()
    (root / "f" / "a").write_bytes(b"x" * 5000)
    (root / "f" / "a").chmod(0o600)
    disk = LosingDisk(root)
    assert all(state == {"f": None, "f/a": b"x" * 5000} for state in states(disk))


def test_the_mode_of_a_file_is_kept(disk: LosingDisk, root: Path, tmp_path: Path) -> None:
    disk.write_file(root / "key", b"secret", mode=0o600)
    after_power_loss(disk.log, tmp_path / "after", seed=1)
    assert (tmp_path / "after" / "key").stat().st_mode & 0o777 == 0o600


def test_what_was_said_before_the_power_went_is_known(disk: LosingDisk, root: Path) -> None:
    disk.write_file(root / "a", b"1")
    disk.log.promise("a")
    at = len(disk.log)
    disk.write_file(root / "b", b"1")
    disk.log.promise("b")
    assert disk.log.promised(at - 1) == []
    assert disk.log.promised(len(disk.log) - 1) == ["a"]
    assert disk.log.promised(len(disk.log)) == ["a", "b"]


def test_a_kill_loses_nothing_that_was_done(disk: LosingDisk, root: Path, tmp_path: Path) -> None:
    _write(disk, root / "a", b"not synced", sync=False)
    disk.rename(root / "a", root / "b")
    at = len(disk.log)
    disk.unlink(root / "b")
    after_kill(disk.log, tmp_path / "before", at_operation=at)
    after_kill(disk.log, tmp_path / "after")
    assert _tree(tmp_path / "before") == {"b": b"not synced"}
    assert _tree(tmp_path / "after") == {}


def test_a_moment_outside_the_log_and_a_folder_in_use_are_refused(disk: LosingDisk, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at_operation must be within 1\.\.1, got 2"):
        after_power_loss(disk.log, tmp_path / "after", seed=1, at_operation=2)
    (tmp_path / "after").mkdir(exist_ok=True)
    (tmp_path / "after" / "x").touch()
    with pytest.raises(ValueError, match="must be empty"):
        after_power_loss(disk.log, tmp_path / "after", seed=1)
    with pytest.raises(ValueError, match="outside"):
        disk.create(tmp_path / "elsewhere")


def test_what_passes_by_the_disk_is_told_and_promised_nothing(disk: LosingDisk, root: Path, states: States) -> None:
    disk.write_file(root / "a", b"1")
    assert strays(disk) == set()
    (root / "a").write_bytes(b"2")
    (root / "lock").touch()
    assert strays(disk) == {"a", "lock"}
    (root / "a").unlink()
    assert strays(disk) == {"a", "lock"}
    disk.mkdir(root / "f")
    assert strays(disk) == set(), "noticed at the next operation in that folder"
    found = states(disk)
    assert {"a", "lock", "f"} in [set(state) for state in found]
    assert {} in found


def test_every_operation_of_the_disk_is_recorded() -> None:
    derived = {"write_file", "write_json", "publish", "append_line", "make_folder", "free_bytes"}
    operations = {name for name in vars(Disk) if not name.startswith("_")} - derived
    assert operations <= set(vars(LosingDisk))


def test_files_read_seek_append_and_truncate_as_real_ones(disk: LosingDisk, root: Path) -> None:
    disk.append_line(root / "lines", "one")
    disk.append_line(root / "lines", "two")
    with disk.open_append(root / "lines") as file:
        file.write(b"torn")
    disk.append_line(root / "lines", "three")
    assert read_lines(root / "lines") == ["one", "two", "torn", "three"]
    with disk.create(root / "b") as file:
        file.write(b"0123456789")
        file.seek(4)
        file.truncate()
        file.seek(1)
        file.write(b"x")
        file.seek(0)
        assert file.read() == b"0x23"
    assert strays(disk) == set()


def test_two_who_append_to_one_file_are_told_apart(disk: LosingDisk, root: Path) -> None:
    with disk.open_append(root / "a") as one, disk.open_append(root / "a") as other:
        for file in (one, other, one):
            file.write(b"12345")
            file.flush()
    assert (root / "a").stat().st_size == 15
    assert strays(disk) == set()


def test_many_threads_leave_a_log_that_explains_the_disk(disk: LosingDisk, root: Path) -> None:
    def work(number: int) -> None:
        folder = root / f"f{number % 3}"
        disk.make_folder(folder)
        for n in range(20):
            disk.write_file(folder / f"{number}-{n}", bytes([n]) * 700)
            disk.append_line(root / f"lines{number}", str(n))
        disk.unlink(folder / f"{number}-3")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert strays(disk) == set()
    assert len([one for one in disk.log.operations if isinstance(one, SyncedFolder)]) >= 8 * 20
    assert sum(len(one.data) for one in disk.log.operations if isinstance(one, Wrote)) >= 8 * 20 * 700


def test_many_threads_that_append_to_one_file_are_told_apart(disk: LosingDisk, root: Path) -> None:
    def work(number: int) -> None:
        with disk.open_append(root / "a") as file:
            for _ in range(200):
                file.write(bytes([number]) * 3)
                file.flush()

    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(usual_s)
    assert (root / "a").stat().st_size == 4 * 200 * 3
    assert strays(disk) == set()


# -- laws ------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "f/a", "f/b", "g/h/a"])
STEPS = st.one_of(
    st.tuples(st.just("write"), NAMES, st.binary(max_size=1500), st.booleans()),
    st.tuples(st.just("append"), NAMES, st.binary(max_size=1500), st.booleans()),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("unlink"), NAMES),
    st.tuples(st.just("sync_folder"), st.sampled_from(["", "f", "g", "g/h"])),
)


def _do(disk: LosingDisk, step: tuple[object, ...]) -> None:
    root = disk.root
    match step:
        case ("write" | "append" as how, str(name), bytes(body), bool(sync)):
            with disk.create(root / name) if how == "write" else disk.open_append(root / name) as file:
                file.write(body)
                if sync:
                    disk.sync(file)
        case ("rename", str(old), str(new)):
            if (root / old).exists() and old != new:
                disk.rename(root / old, root / new)
        case ("unlink", str(name)):
            disk.unlink(root / name)
        case ("sync_folder", str(name)):
            disk.sync_folder(root / name)


def _sync_all(disk: LosingDisk) -> None:
    for path in [disk.root, *disk.root.rglob("*")]:
        if path.is_dir():
            disk.sync_folder(path)
        else:
            with disk.open_append(path) as file:
                disk.sync(file)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=25), seed=st.integers(0, 2**32))
def test_once_all_is_synced_a_power_loss_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("law")
    (folder / "disk").mkdir()
    disk = LosingDisk(folder / "disk")
    for name in ("f", "g", "g/h"):
        disk.make_folder(disk.root / name)
    for step in steps:
        _do(disk, step)
    assert strays(disk) == set()
    _sync_all(disk)
    assert _state(disk, folder / "after", seed=seed) == _tree(disk.root)


@settings(max_examples=60, deadline=None)
@given(
    moves=st.lists(st.tuples(NAMES, NAMES), max_size=12),
    syncs=st.lists(st.sampled_from(["", "f", "g", "g/h"]), max_size=12),
    seed=st.integers(0, 2**32),
)
def test_a_durable_file_that_is_only_renamed_is_always_there_once(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, str]], syncs: list[str], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("law")
    (folder / "disk").mkdir()
    disk = LosingDisk(folder / "disk")
    for name in ("f", "g", "g/h"):
        disk.make_folder(disk.root / name)
    disk.write_file(disk.root / "a", b"only one")
    disk.write_file(disk.root / "f" / "a", b"only two")
    for number, (old, new) in enumerate(moves):
        if (disk.root / old).exists() and not (disk.root / new).exists():
            disk.rename(disk.root / old, disk.root / new)
        for name in syncs[number : number + 1]:
            disk.sync_folder(disk.root / name)
    bodies = sorted(body for body in _state(disk, folder / "after", seed=seed).values() if body is not None)
    assert bodies == [b"only one", b"only two"]
