"""The command line, in a process of its own as the platform team runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ray_jobs.__main__ import JOBS, app

ROOT = Path(__file__).parents[2]
T0 = 1_760_000_000_000_000_000


def environment(robot: Any) -> dict[str, str]:
    """Of a process that works on the robot's lake."""
    settings = robot.storage.settings
    return {
        **os.environ,
        "FLEETFEED_STORAGE_URL": robot.storage.url,
        "FLEETFEED_STORAGE_ENDPOINT_URL": settings.endpoint_url,
        "FLEETFEED_STORAGE_ACCESS_KEY_ID": settings.access_key_id,
        "FLEETFEED_STORAGE_SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
    }


def run(robot: Any, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ray_jobs", "run", *words]
    return subprocess.run(command, cwd=ROOT, env=environment(robot) | more, capture_output=True, text=True, timeout=120)


def test_a_job_prints_its_summary_as_one_line_of_json_and_nothing_else(robot: Any) -> None:
    robot.log(("/battery", T0, {"percent": 80}))
    robot.film(T0, 10)
    done = run(robot, "index_segments", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["versions"], summary["counts"]["segments"], summary["rows"]) == ([1], 2, {"segments": 2})
    assert done.stderr == ""


def test_where_nothing_is_new_ray_is_not_even_started(robot: Any) -> None:
    done = run(robot, "load_telemetry")
    assert done.returncode == 0, done.stderr
    assert "nothing new" in done.stdout


def test_maintenance_runs_dry_first_and_then_does_it(robot: Any, ray_address: str) -> None:
    robot.log(("/battery", T0, {"percent": 80}))
    assert run(robot, "index_segments", RAY_ADDRESS=ray_address).returncode == 0
    dry = json.loads(run(robot, "maintain", "--dry-run", "--json").stdout)
    assert (dry["counts"]["tables kept up"], dry["versions"]) == (1, [])
    done = json.loads(run(robot, "maintain", "--json").stdout)
    assert (done["counts"]["tables kept up"], done["versions"]) == (1, [2])
    assert run(robot, "load_telemetry", "--dry-run").returncode == 2


def test_a_spec_that_cannot_be_used_is_told_in_one_sentence(robot: Any, tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('name = "x"\nrate_hz = 20\n[columns.state]\ntopic = "/q"\n')
    done = run(robot, "align_frames", "--spec", str(spec))
    assert done.returncode == 1
    assert "columns.state.field: Field required" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FLEETFEED_JOBS_READ_THREADS", "many", "FLEETFEED_JOBS_READ_THREADS='many': Input should be a valid integer"),
        ("FLEETFEED_JOBS_KEEP_RAW_DAYS", "-1", "FLEETFEED_JOBS_KEEP_RAW_DAYS='-1': Input should be greater than 0"),
    ],
)
def test_a_setting_that_cannot_be_read_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv("FLEETFEED_STORAGE_URL", str(tmp_path))
    monkeypatch.setenv(variable, value)
    for words in (["run", "index_segments"], ["loop"]):
        done = CliRunner().invoke(app, words)
        assert (done.exit_code, done.output.count("\n")) == (2, 1)
        assert f"cannot begin: {message}" in done.output


def test_a_wrong_line_of_the_settings_file_is_told_by_its_name_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text("[jobs]\nthreads = 3\n")
    monkeypatch.setenv("FLEETFEED_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("FLEETFEED_STORAGE_URL", str(tmp_path))
    done = CliRunner().invoke(app, ["run", "index_segments"])
    assert (done.exit_code, "threads of [jobs]=3: Extra inputs are not permitted" in done.output) == (2, True)


def test_every_job_is_listed() -> None:
    listed = CliRunner().invoke(app, ["list"])
    assert all(name in listed.stdout for name in JOBS)
    assert CliRunner().invoke(app, ["run", "sweep"]).exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["materialize", "--dataset", "pick"], "materialize needs --dataset and --image-size"),
        (["maintain", "--image-size", "224"], "only materialize takes --image-size"),
        (["materialize", "--robot", "h1"], "only backfill takes --robot"),
    ],
)
def test_options_of_another_job_are_refused(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["run", *words])
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
