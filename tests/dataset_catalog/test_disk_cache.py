"""The node's cache: what it gives is what was put, or nothing, whatever happens to the disk and to who writes."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dataset_catalog import disk_cache
from dataset_catalog.disk_cache import DiskCache
from tests.faults.small_file_system import small_file_system

MIB = 1 << 20


def payload_of(name: str, *, size: int = 10_000) -> bytes:
    """The only bytes that may ever come out under this name."""
    return random.Random(name).randbytes(size)


def held(folder: Path) -> int:
    """Bytes of the entries, those left out that go while it counts."""
    held = 0
    for one in entries(folder):
        with suppress(FileNotFoundError):
            held += one.stat().st_size
    return held


def entries(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file() and one.name != "count"]


def test_what_was_put_comes_back_to_every_process_and_nothing_else_does(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "new", max_bytes=MIB)
    assert cache.get("a") is None
    cache.put("a", b"x" * 100)
    cache.put("empty", b"")
    assert DiskCache(tmp_path / "new", max_bytes=MIB).get("a") == b"x" * 100
    assert (cache.get("empty"), cache.get("b")) == (b"", None)


@pytest.mark.parametrize("what", ["flipped", "cut", "longer", "another's", "zeros"])
def test_a_file_that_is_not_whole_is_no_entry_and_goes(tmp_path: Path, what: str) -> None:
    draw = random.Random(what)
    for trial in range(40):
        cache = DiskCache(tmp_path / str(trial), max_bytes=MIB)
        cache.put("a", payload_of("a", size=500))
        (path,) = entries(cache.folder)
        whole = path.read_bytes()
        at = draw.randrange(len(whole))
        if what == "another's":
            other = DiskCache(tmp_path / f"{trial}o", max_bytes=MIB)
            other.put("b", payload_of("a", size=500))
            path.write_bytes(entries(other.folder)[0].read_bytes())
        else:
            flipped = bytes([whole[at] ^ 1 << draw.randrange(8)])
            damaged = {
                "flipped": whole[:at] + flipped + whole[at + 1 :],
                "cut": whole[:at],
                "longer": whole + whole[:at] + b"x",
                "zeros": whole[:at] + bytes(len(whole) - at),
            }
            path.write_bytes(damaged[what])
        assert cache.get("a") is None
        assert not path.exists()
        cache.put("a", payload_of("a", size=500))
        assert cache.get("a") == payload_of("a", size=500)


def test_it_holds_no_more_than_it_may_and_the_oldest_go_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, max_bytes=MIB)
    for number in range(300):
        cache.put(str(number), payload_of(str(number)))
        os.utime(cache._path(str(number)), ns=(number, number))
        assert held(tmp_path) <= MIB
    there = [number for number in range(300) if cache.get(str(number)) is not None]
    assert there == list(range(there[0], 300))
    assert held(tmp_path) > MIB * 0.8


def test_what_is_larger_than_all_of_it_is_not_kept(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, max_bytes=1000)
    cache.put("small", b"x" * 100)
    cache.put("large", b"x" * 2000)
    assert (cache.get("small"), cache.get("large")) == (b"x" * 100, None)


def test_a_full_disk_is_passed_by(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "fs", capacity_bytes=2 * MIB, kinds=("tmpfs",)) as folder:
        if folder is None:
            pytest.skip("no file system can be mounted here")
        cache = DiskCache(folder / "gops", max_bytes=100 * MIB)
        for number in range(400):
            cache.put(str(number), payload_of(str(number)))
            assert cache.get(str(number)) in (None, payload_of(str(number)))
        assert cache.get("0") == payload_of("0")
        assert cache.get("399") is None
        assert not list(folder.rglob(".*"))


def test_a_folder_that_nobody_may_write_to_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = DiskCache(tmp_path / "file" / "gops", max_bytes=MIB)
    cache.put("a", b"x")
    assert cache.get("a") is None


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, head: bytes, payload: bytes) -> None:
        path.write_bytes(head + payload[: len(payload) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = DiskCache(tmp_path, max_bytes=MIB)
    with monkeypatch.context() as patch:
        patch.setattr(disk_cache, "_write", half)
        cache.put("a", payload_of("a"))
    assert cache.get("a") is None
    assert not entries(tmp_path)


WRITER = """
import random, runpy, sys
from pathlib import Path
DiskCache = runpy.run_path(sys.argv[1])["DiskCache"]  # without the package, which takes a second
cache, draw = DiskCache(Path(sys.argv[2]), max_bytes=1 << 20), random.Random(int(sys.argv[3]))
print("ready", flush=True)
while True:
    name = str(draw.randrange(400))
    payload = random.Random(name).randbytes(10_000)
    found = cache.get(name)
    if found is None:
        cache.put(name, payload)
    elif found != payload:
        print("wrong bytes", flush=True)
"""


def test_writers_killed_at_any_moment_leave_whole_entries_within_the_bound(tmp_path: Path) -> None:
    """Three processes at a time share it and are killed; what they leave is right, and is counted again."""
    draw = random.Random(5)
    for trial in range(5):
        argv = [sys.executable, "-c", WRITER, str(disk_cache.__file__), str(tmp_path / "gops")]
        writers = [subprocess.Popen([*argv, str(10 * trial + n)], stdout=subprocess.PIPE, text=True) for n in range(3)]
        said = [writer.stdout.readline() for writer in writers if writer.stdout]
        assert said == ["ready\n"] * 3
        time.sleep(draw.uniform(0.02, 0.3))  # the moment of the kill is what is drawn
        assert held(tmp_path / "gops") <= MIB
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        assert [writer.communicate(timeout=20)[0] for writer in writers] == [""] * 3
    assert held(tmp_path / "gops") <= MIB
    cache = DiskCache(tmp_path / "gops", max_bytes=MIB)
    found = [cache.get(str(number)) for number in range(400)]
    assert all(one in (None, payload_of(str(number))) for number, one in enumerate(found))
    assert sum(one is not None for one in found) > 20


def test_what_killed_writers_left_goes_when_room_is_needed(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, max_bytes=MIB)
    cache.put("a", payload_of("a"))
    (entry,) = entries(tmp_path)
    left = entry.with_name(f".{entry.name}.1.2")
    left.write_bytes(b"x" * 5000)
    (entry.parent / "count").write_bytes(b"torn")
    cache.put("b", payload_of("b"))
    assert not left.exists()
    assert (cache.get("a"), cache.get("b")) == (payload_of("a"), payload_of("b"))
    assert int((entry.parent / "count").read_bytes()) == held(tmp_path)


def test_threads_share_it(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, max_bytes=MIB)

    def use(seed: int) -> Any:
        draw = random.Random(seed)
        for _ in range(100):
            name = str(draw.randrange(300))
            cache.put(name, payload_of(name))
            yield cache.get(name) in (None, payload_of(name))

    with ThreadPoolExecutor(4) as pool:
        assert all(all(right) for right in pool.map(lambda seed: list(use(seed)), range(4)))
    assert held(tmp_path) <= MIB
