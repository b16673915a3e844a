"""The example policies train, a few steps at 96×96 on a robot with three cameras of which any may be missing."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataset_catalog.catalog import Catalog
from dataset_catalog.normalize import Normalizer
from dataset_catalog.spec import horizon
from dataset_catalog.storage import Storage
from tests.dataset_catalog.bimanual import EPISODES, record, write

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("duo")
    write(Storage.open(str(folder)), "duo", [record(name, **about) for name, about in EPISODES.items()])
    return folder


@pytest.fixture
def run(lake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run an example as a script; what it printed."""

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more of them steps wait for each other where others work too

    def run(name: str, out: Path, *words: str) -> str:
        arguments = [name, str(lake), "duo", "--out", str(out), "--batch", "16", *words]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return str(capsys.readouterr().out)

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["train_bc.py", "train_act.py"])
def test_an_example_fits_on_a_page(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 80


def test_behaviour_cloning_learns_and_goes_on_exactly_where_it_was_stopped(
    run: Any, lake: Path, tmp_path: Path
) -> None:
    whole = run("train_bc.py", tmp_path / "whole", "--steps", "8")
    first = run("train_bc.py", tmp_path / "parts", "--steps", "3")
    parts = run("train_bc.py", tmp_path / "parts", "--steps", "8")
    assert told("step 8: loss", parts) == told("step 8: loss", whole) < told("step 3: loss", first)
    assert told("held-out loss", parts) == told("held-out loss", whole)
    one, other = (torch.load(tmp_path / out / "checkpoint.pt") for out in ("whole", "parts"))
    assert one["feed"] == other["feed"]
    assert one["policy"].keys() == other["policy"].keys()
    for name, weights in one["policy"].items():
        assert torch.equal(weights, other["policy"][name]), name


def told(what: str, printed: str) -> float:
    (found,) = re.findall(rf"^{what} ([\d.]+)", printed, re.MULTILINE)
    return float(found)


def test_act_learns_and_its_normalizer_gives_the_robots_actions_back(run: Any, lake: Path, tmp_path: Path) -> None:
    first, last = (run("train_act.py", tmp_path, "--steps", n) for n in ("1", "8"))
    assert told("step 8: L1", last) < told("step 1: L1", first)
    weights = torch.load(tmp_path / "policy.pt")
    assert all(value.isfinite().all() for value in weights.values())
    normalizer = Normalizer.load(tmp_path / "normalizer.json")
    train = Catalog.open(str(lake)).dataset("duo").split(train=0.9, val=0.1, seed=0)["train"]
    recorded = train.windows({}, {"action": horizon(2.0, hz=50)}).batch(np.arange(8))["action"]
    scaled = normalizer.apply("action", recorded)
    assert not np.allclose(scaled, recorded, atol=0.05)
    np.testing.assert_allclose(
        normalizer.undo("action", torch.from_numpy(scaled)).numpy(), recorded, rtol=1e-5, atol=1e-5
    )
