"""The benchmark of the robot side runs, and its last line is what programs read; its figures are no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.bench_edge", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_quick_run_ends_with_one_line_of_json() -> None:
    done = run("--quick", "--only", "log_vs_mcap_writer")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    (result,) = told["results"]
    assert set(told) == {"benchmark", "results"}
    assert told["benchmark"] == "edge"
    assert set(result) == {"name", "value", "unit", "goal", "meets"}
    assert (result["name"], result["goal"]) == ("log_vs_mcap_writer", 0.8)
    assert result["value"] > 0
    assert result["meets"] is (result["value"] >= result["goal"])


def test_a_figure_that_does_not_exist_is_refused_and_those_that_do_are_named() -> None:
    done = run("--only", "log_vs_nothing")

    assert done.returncode == 2
    assert "agent_cpu" in done.stderr
