"""The demonstrations, as a stranger runs them: they succeed, listen on loopback alone, and leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from tests.faults.campaign import is_soak

LIMIT_S = 420
TAG = "FLEETFEED_TEST_TAG"  # inherited by everything that a demonstration starts

pytestmark = [pytest.mark.stack, pytest.mark.timeout(LIMIT_S + 60)]


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        yield Path(folder) / "run"


def tagged(tag: str) -> list[psutil.Process]:
    def has_tag(process: psutil.Process) -> bool:
        try:
            return process.environ().get(TAG) == tag
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if has_tag(process)]


def listeners(processes: list[psutil.Process]) -> set[tuple[str, str]]:
    """(process name, address) of every listening TCP socket of these processes."""
    found = set()
    for process in processes:
        try:
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    found.add((process.name(), one.laddr.ip.removeprefix("::ffff:")))
        except psutil.Error:
            continue
    return found


def run_demo(run_dir: Path, *words: str) -> tuple[str, set[tuple[str, str]]]:
    """What a demonstration printed, and every listener that was seen while it ran."""
    tag = run_dir.parent.name
    command = [sys.executable, "-m", "fleetfeed", "demo", "--run-dir", str(run_dir), *words]
    seen: set[tuple[str, str]] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            seen.update(listeners(tagged(tag)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = subprocess.run(
            command,
            env={**os.environ, TAG: tag, "COLUMNS": "140"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    finally:
        ended.set()
        watcher.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert tagged(tag) == [], "processes were left behind"
    return done.stdout, seen


def test_the_tour_ends_with_equal_counts_and_a_network_that_learned(run_dir: Path) -> None:
    said, seen = run_demo(run_dir, "--seconds", "16")
    last = said.splitlines()[-3:]
    for line, name in zip(last, ("telemetry messages", "frames"), strict=False):
        assert line.startswith(name)
        counts = [int(number.replace(",", "")) for number in re.findall(r"(?:recorded|stored|indexed) ([\d,]+)", line)]
        assert len(counts) == 3
        assert len(set(counts)) == 1
        assert counts[0] > 500
    loss, baseline = (float(number) for number in re.findall(r"\d+\.\d+", last[2]))
    assert loss < baseline
    assert "the same 64 sample ids in both runs: True" in said
    assert list(run_dir.glob("demo/*/contact-sheet.png"))
    assert seen, "nothing was seen to listen"
    assert [(name, ip) for name, ip in seen if not ip_address(ip).is_loopback] == []


@pytest.mark.skipif(not is_soak(), reason="a soak's: `test_real_recordings.py` does the same on a stack that runs")
def test_real_recordings_arrive_value_for_value(run_dir: Path, real_data: Path) -> None:
    said, _ = run_demo(run_dir, "--real", str(real_data))
    assert "6 episodes and 6,121 bag messages: all equal" in said


def test_a_folder_without_recordings_is_refused_in_a_sentence(run_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fleetfeed", "demo", "--run-dir", str(run_dir), "--real", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "is not a LeRobot dataset" in done.stderr
    assert "Traceback" not in done.stderr
