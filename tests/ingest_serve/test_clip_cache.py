"""Kept clips: bounded, private, whole, and none the worse for whoever died while writing one."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingest_serve.clip_cache import ClipCache
from ingest_serve.errors import CacheFull, IngestError
from tests.ingest_serve.conftest import wait_until

WRITER = """
import sys, time
from pathlib import Path
from ingest_serve.clip_cache import ClipCache
def slowly(file):
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
ClipCache(Path(sys.argv[1]), max_bytes=1000).make("dying", size=600, make=slowly)
"""


def keep(cache: ClipCache, name: str, body: bytes, *, size: int | None = None) -> bytes:
    with cache.make(name, size=len(body) if size is None else size, make=lambda file: file.write(body)) as file:
        return file.read()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix)


@pytest.fixture
def cache(tmp_path: Path) -> ClipCache:
    return ClipCache(tmp_path / "clips", max_bytes=1000)


def test_a_kept_file_is_found_again_and_no_longer_than_it_is(cache: ClipCache, tmp_path: Path) -> None:
    assert cache.find("a") is None
    assert keep(cache, "a", b"x" * 10, size=900) == b"x" * 10
    found = cache.find("a")
    assert found is not None
    with found:
        assert found.read() == b"x" * 10
    assert names(tmp_path / "clips") == ["a.mp4"]


def test_what_was_used_least_recently_goes_and_who_reads_it_goes_on(cache: ClipCache, tmp_path: Path) -> None:
    for age, name in enumerate("abc"):
        keep(cache, name, name.encode() * 300)
        os.utime(tmp_path / "clips" / f"{name}.mp4", (1000 + age, 1000 + age))
    reading = cache.find("a")  # used just now
    assert reading is not None
    keep(cache, "d", b"d" * 700)
    assert names(tmp_path / "clips") == ["a.mp4", "d.mp4"]
    keep(cache, "e", b"e" * 1000)
    assert names(tmp_path / "clips") == ["e.mp4"]
    with reading:
        assert reading.read() == b"a" * 300


def test_the_bound_counts_what_others_are_about_to_write(cache: ClipCache, tmp_path: Path) -> None:
    other = ClipCache(tmp_path / "clips", max_bytes=1000)

    def meanwhile(file: object) -> None:
        with pytest.raises(CacheFull, match="are being written to"):
            keep(other, "b", b"b" * 500)

    cache.make("a", size=600, make=meanwhile).close()
    assert keep(other, "b", b"b" * 500) == b"b" * 500


def test_a_failed_write_leaves_nothing(cache: ClipCache, tmp_path: Path) -> None:
    def fails(file: object) -> None:
        raise ValueError("the segment is damaged")

    with pytest.raises(ValueError, match="damaged"):
        cache.make("a", size=600, make=fails)

    def fills(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CacheFull, match="disk of the clips is full"):
        cache.make("a", size=600, make=fills)
    with pytest.raises(IngestError, match="at most 5 were expected"):
        keep(cache, "a", b"x" * 6, size=5)
    assert names(tmp_path / "clips") == []


def test_what_a_killed_process_left_goes_when_room_is_needed(cache: ClipCache, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == b"writing\n"
        with pytest.raises(CacheFull):
            keep(cache, "a", b"a" * 500)
        (part,) = folder.glob("dying*")
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
        writer.stdout.close()
    assert cache.find("dying") is None
    assert keep(cache, "a", b"a" * 500) == b"a" * 500
    assert not part.exists()


def test_a_folder_that_others_can_reach_is_not_used(cache: ClipCache, tmp_path: Path) -> None:
    keep(cache, "a", b"a")
    folder = tmp_path / "clips"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(IngestError, match="this user alone"):
        cache.find("a")
    (tmp_path / "link").symlink_to(folder)
    folder.chmod(0o700)
    with pytest.raises(IngestError, match="this user alone"):
        ClipCache(tmp_path / "link", max_bytes=1000).find("a")


def test_two_processes_do_not_make_room_at_a_time(cache: ClipCache, tmp_path: Path) -> None:
    keep(cache, "a", b"a")
    with (tmp_path / "clips" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code = f"{WRITER.split('def')[0]}\nClipCache(Path(sys.argv[1]), max_bytes=1000).make('b', size=1, make=print)"
        other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "clips")], stdout=subprocess.DEVNULL)
        begun = time.monotonic()
        wait_until(lambda: _waits_for_lock(other.pid) or time.monotonic() - begun > 20, limit_s=30)
        assert other.poll() is None
        assert names(tmp_path / "clips") == ["a.mp4"]
    assert other.wait(20) == 0
    assert names(tmp_path / "clips") == ["a.mp4", "b.mp4"]


def _waits_for_lock(pid: int) -> bool:
    """Whether the kernel lists the process as one that waits (`->`) for a lock."""
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())
