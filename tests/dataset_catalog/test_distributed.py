"""Accelerate and Lightning: begun in one process and gone on with in two, no sample comes twice and none is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dataset_catalog.spec import horizon
from dataset_catalog.windows import Windows
from tests.faults.campaign import is_soak

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BATCH, ALONE = 16, 3  # samples of a step; steps that the one process takes


@pytest.fixture
def windows(lake: Any) -> Windows:
    """As both examples make them."""
    return lake.catalog.dataset("pick").windows({"state": 0.0}, {"action": horizon(0.5, hz=20)})  # type: ignore[no-any-return]


@pytest.mark.parametrize("library", ["accelerate", "lightning"])
def test_an_epoch_begun_by_one_process_is_ended_by_two(
    lake: Any, windows: Windows, tmp_path: Path, library: str
) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    if library == "lightning" and not is_soak():
        pytest.skip("a soak's: three processes that import it take a minute")
    steps = len(windows.loader(BATCH))
    whole = [batch["sample_id"] for batch in windows.loader(BATCH, seed=7)]
    words = [f"train_{library}.py", lake.storage.url, "pick", "--out", str(tmp_path), "--batch", str(BATCH)]
    run(words, "--steps", str(ALONE), folder=tmp_path, processes=1)
    alone = told(tmp_path / "rank-0")
    rest = steps if library == "lightning" else steps - ALONE  # Lightning counts from the start of the training
    run(
        words,
        "--steps",
        str(rest),
        *(["--devices", "2"] if library == "lightning" else []),
        folder=tmp_path,
        processes=2,
    )
    left, right = told(tmp_path / "rank-0")[ALONE:], told(tmp_path / "rank-1")
    assert alone + [a + b for a, b in zip(left, right, strict=True)] == whole
    seen = [name for batch in alone + left + right for name in batch]
    assert len(seen) == len(set(seen)) == steps * BATCH


def run(words: list[str], *more: str, folder: Path, processes: int) -> None:
    """An example, watched, by PyTorch's own launcher where there are several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    script = [str(ROOT / "tests/dataset_catalog/watched.py"), str(folder), str(EXAMPLES / words[0]), *words[1:], *more]
    done = subprocess.run(
        [sys.executable, *launcher, *script], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def told(path: Path) -> list[list[str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
