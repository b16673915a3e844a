"""What the benchmarks share: turns, medians, percentiles, the cost of a process tree, the closing line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import measure
from benchmarks.measure import Result

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
HOLD = "held = bytearray(b'x' * 50_000_000)\n"
WAIT = "print('ready', flush=True)\nimport sys\nsys.stdin.read()\n"
START_CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1]])\n"


@contextmanager
def waiting(program: str, *words: str) -> Iterator[int]:
    """The pid of a Python program that has said `ready`, and waits."""
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.communicate()


def result(value: float, *, goal: float, better: str) -> Result:
    return Result("speed", value, "MB/s", goal, better, "ran", "seen")  # type: ignore[arg-type]


def test_what_goes_first_in_one_round_goes_last_in_the_next() -> None:
    order: list[str] = []

    def side(name: str, number: int) -> int:
        order.append(f"{name}{number}")
        return number

    found = measure.interleaved(3, {"a": lambda n: side("a", n), "b": lambda n: side("b", n)})

    assert order == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert found == {"a": [0, 1, 2], "b": [0, 1, 2]}


def test_the_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    assert measure.median_ratio([10, 20, 90], [20, 20, 100]) == pytest.approx(0.9)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = list(range(1_000, 0, -1))

    assert [measure.percentile(values, percent) for percent in (50, 99, 99.9, 100)] == [500, 990, 999, 1_000]
    assert measure.percentile([7.0], 50) == 7.0


def test_the_cpu_time_of_a_tree_holds_that_of_a_child_that_runs_and_of_one_that_has_ended() -> None:
    with waiting(START_CHILD, BURN + WAIT) as pid:
        running_s = measure.tree_cpu_s(pid)
    with waiting(START_CHILD + WAIT, BURN) as pid:
        ended_s = measure.tree_cpu_s(pid)

    assert running_s >= 0.25
    assert ended_s >= 0.25


def test_the_memory_of_a_tree_holds_that_of_its_children() -> None:
    with waiting(START_CHILD, HOLD + WAIT) as pid:
        assert measure.tree_pss_bytes(pid) >= 50_000_000
        assert measure.tree_peak_rss_bytes(pid) >= 50_000_000


def test_a_peak_stays_when_the_memory_is_given_back() -> None:
    with waiting(HOLD + "del held\n" + WAIT) as pid:
        assert measure.tree_peak_rss_bytes(pid) >= 50_000_000
        assert measure.tree_pss_bytes(pid) < 50_000_000


def test_a_process_that_has_ended_holds_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    assert measure.tree_pss_bytes(process.pid) == 0
    assert measure.tree_cpu_s(process.pid) == 0


def test_proportional_memory_is_looked_at_while_the_block_runs() -> None:
    with measure.watching_pss(os.getpid(), every_s=0.001) as peaks:
        held = bytearray(b"x" * 50_000_000)
        deadline = time.monotonic() + 10
        while peaks.bytes[os.getpid()] < len(held) and time.monotonic() < deadline:
            time.sleep(0.001)

    assert peaks.bytes[os.getpid()] >= 50_000_000


@pytest.mark.parametrize(
    ("value", "better", "meets"),
    [
        (9.9, "lower", True),
        (10.1, "lower", False),
        (10.0, "lower", True),
        (9.9, "higher", False),
        (10.0, "higher", True),
    ],
)
def test_a_goal_is_met_on_the_right_side_of_it(value: float, better: str, meets: bool) -> None:
    assert result(value, goal=10, better=better).meets is meets


def test_the_last_line_is_json_and_a_missed_goal_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    measure.close("disk", [result(0.123456, goal=1, better="higher")])

    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == {
        "benchmark": "disk",
        "results": [{"name": "speed", "value": 0.1235, "unit": "MB/s", "goal": 1, "meets": False}],
    }
    assert any("missed" in line for line in lines[:-1])
