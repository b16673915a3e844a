"""SIGKILL of a training run in the middle of an epoch: its samples are those of a run that nobody killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from dataset_catalog.storage import Storage
from tests.dataset_catalog import conftest
from tests.faults import training
from tests.faults.campaign import run_trials
from tests.faults.killing import ROOT

LIMIT_S = 120
KILLED_WITH_WORKERS = (0, 1)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    storage = Storage.open(str(tmp_path_factory.mktemp("lake")))
    rows = [
        ("e0", "h1", "pour", True, 40, 3, 0),
        ("e1", "h1", "pour", False, 33, 0, 1),
        ("e2", "h2", None, None, 57, 0, 2),
    ]
    episodes = [
        conftest.make_episode(name, robot, task, success, frames=frames, skip=skip, seed=seed)
        for name, robot, task, success, frames, skip, seed in rows
    ]
    conftest.write_dataset(storage, "pick", [episodes[:1], episodes[1:]])
    return storage.url


def test_killed_again_and_again_a_run_has_the_samples_and_the_weights_of_one_that_was_not(
    lake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = undisturbed(lake, tmp_path, capsys)

    def trial(seed: int, folder: Path) -> None:
        dice = random.Random(seed)
        seen: list[list[str]] = []
        for workers in KILLED_WITH_WORKERS:
            said = live(lake, folder, workers=workers, lines=dice.randint(2, 8), further_s=dice.random() / 20)
            seen = seen[: said[0]["resumed_at"]] + batches(said)
        said = live(lake, folder, workers=0)
        seen = seen[: said[0]["resumed_at"]] + batches(said)
        assert said[0]["resumed_at"] > 0, "it went on, it did not begin again"
        assert seen == batches(whole)
        assert said[-1]["learned"] == whole[-1]["learned"]

    run_trials(trial, tmp_path, test=1, soak=100)


def undisturbed(lake: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What a run says that nobody kills; in this process."""
    out, threads = folder / "undisturbed", torch.get_num_threads()
    out.mkdir()
    capsys.readouterr()
    training.train(training.make_loader(lake), out)
    torch.set_num_threads(threads)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def live(
    lake: str, out: Path, *, workers: int, lines: int | None = None, further_s: float = 0.0
) -> list[dict[str, Any]]:
    """What a run says until it is killed, some time after so many lines; None: until it is done."""
    words = [sys.executable, "-m", "tests.faults.training", lake, str(out), str(workers)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        if lines is None:
            said = run.communicate(timeout=LIMIT_S)[0].splitlines()
            assert run.returncode == 0
        else:
            said = [run.stdout.readline() for _ in range(lines)]
            children = psutil.Process(run.pid).children(recursive=True)
            time.sleep(further_s)  # a moment that the dice draw
            run.kill()
            _, left = psutil.wait_procs(children, timeout=LIMIT_S)
            for process in left:
                process.kill()
            assert not left, "workers end when nobody is there to feed"
            said += run.stdout.readlines()
    return [json.loads(line) for line in said if line.endswith(("}", "}\n"))]


def batches(said: list[dict[str, Any]]) -> list[list[str]]:
    return [line["sample_ids"] for line in said if "sample_ids" in line]
