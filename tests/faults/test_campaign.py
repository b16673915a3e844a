"""A campaign that fails says with which seed, and how to see that trial again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.campaign import run_trials, trials


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLEETFEED_SOAK", "FLEETFEED_SEED"):
        monkeypatch.delenv(name, raising=False)


def test_a_run_takes_few_seeds_a_soak_all_and_a_replay_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(trials(test=3, soak=7)) == [0, 1, 2]
    monkeypatch.setenv("FLEETFEED_SOAK", "1")
    assert list(trials(test=3, soak=7)) == [0, 1, 2, 3, 4, 5, 6]
    monkeypatch.setenv("FLEETFEED_SEED", "6")
    assert list(trials(test=3, soak=7)) == [6]


@pytest.mark.parametrize(("name", "value"), [("FLEETFEED_SOAK", "yes"), ("FLEETFEED_SEED", "x")])
def test_a_setting_that_means_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} must be .*, got '{value}'"):
        trials()


def test_each_trial_has_an_empty_folder_and_leaves_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def trial(seed: int, folder: Path) -> None:
        assert not list(folder.iterdir())
        (folder / "file").touch()
        seen.append(seed)

    run_trials(trial, tmp_path, test=4)
    assert seen == [0, 1, 2, 3]
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == "4 trials, none failed: fewer than 53 % do (95 % confidence)\n"


def test_a_failure_names_its_seeds_the_command_and_the_first_cause(tmp_path: Path) -> None:
    def trial(seed: int, folder: Path) -> None:
        (folder / "file").touch()
        if seed == 4:
            pytest.fail("the fifth")
        assert seed % 3 != 1, f"lost at {seed}"

    with pytest.raises(AssertionError) as raised:
        run_trials(trial, tmp_path, test=6)
    first, *lines = str(raised.value).splitlines()
    assert first == "2 of 6 trials failed; again:"
    here = "tests/faults/test_campaign.py::test_a_failure_names_its_seeds_the_command_and_the_first_cause"
    assert lines[0].startswith(f"  FLEETFEED_SEED=1 python -m pytest '{here}'  # AssertionError: lost at 1")
    assert lines[1] == f"  FLEETFEED_SEED=4 python -m pytest '{here}'  # Failed: the fifth"
    assert "lost at 1" in str(raised.value.__cause__)
    assert {path.name for path in tmp_path.iterdir()} == {"seed-1", "seed-4"}


def test_a_campaign_that_always_fails_ends_soon(tmp_path: Path) -> None:
    def trial(seed: int, _folder: Path) -> None:
        raise OSError(f"seed {seed}")

    with pytest.raises(AssertionError, match="5 of 5 trials failed"):
        run_trials(trial, tmp_path, test=1000)


@pytest.mark.parametrize("soak", ["0", "1"])
def test_a_soak_has_no_time_limit(tmp_path: Path, soak: str) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 0.5\n")
    (tmp_path / "test_long.py").write_text("import threading\n\ndef test_long():\n    threading.Event().wait(1)\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "FLEETFEED_SOAK": soak, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("1 passed" in done.stdout) == (soak == "1"), done.stdout + done.stderr
    assert ("Timeout" in done.stdout) == (soak == "0"), done.stdout + done.stderr
