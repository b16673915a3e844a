"""Ray Train feeds from a dataset, on two workers, in a soak begun on one: no sample comes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataset_catalog import Catalog, horizon
from dataset_catalog.storage import Storage
from fleetfeed.stack import StackInfo
from tests.dataset_catalog import conftest
from tests.faults.campaign import is_soak

pytestmark = pytest.mark.stack
ROOT = Path(__file__).parents[2]
BATCH = 16


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """In a folder, which Ray's workers see too."""
    storage = Storage.open(str(tmp_path_factory.mktemp("lake")))
    about: dict[str, Any] = {"task": "pour", "success": True, "skip": 0}
    episodes = [conftest.make_episode(f"e{n}", "h1", frames=60, seed=n, **about) for n in range(2)]
    conftest.write_dataset(storage, "pick", [episodes])
    return storage.url


def test_two_workers_share_every_batch_of_an_epoch(stack: StackInfo, lake: str, tmp_path: Path) -> None:
    alone = 3 if is_soak() else 0  # each run costs Ray half a minute here
    windows = Catalog.open(lake).dataset("pick").windows({"state": 0.0}, {"action": horizon(0.5, hz=20)})
    whole = [batch["sample_id"] for batch in windows.loader(BATCH, seed=7)]
    assert 3 < len(whole) <= 20

    if alone:
        train(stack, lake, tmp_path, "--workers", "1", "--steps", str(alone))
    told = train(stack, lake, tmp_path, "--workers", "2", "--steps", str(len(whole)))
    assert f"'step': {len(whole)}" in told
    left, right = (
        [json.loads(line) for line in file.read_text().splitlines()] for file in sorted(tmp_path.glob("samples-*"))
    )
    assert left[:alone] + [a + b for a, b in zip(left[alone:], right, strict=True)] == whole
    seen = [name for batch in left + right for name in batch]
    assert len(seen) == len(set(seen)) == len(whole) * BATCH


def train(stack: StackInfo, lake: str, out: Path, *words: str) -> str:
    script = [str(ROOT / "examples/train_ray.py"), lake, "pick", "--out", str(out), "--batch", str(BATCH), *words]
    environment = {**os.environ, **stack.environment()}
    done = subprocess.run(
        [sys.executable, *script], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
