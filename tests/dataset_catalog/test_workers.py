"""Worker processes: what they make is what threads make, and why they cannot start is said before they do."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dataset_catalog.errors import WorkerError
from dataset_catalog.feed import WorkerFeed
from dataset_catalog.windows import Windows
from dataset_catalog.worker_checks import check_can_travel, check_guard

ROOT = Path(__file__).parents[2]
SCRIPT = """
from dataset_catalog import Catalog
loader = Catalog.open({lake!r}).dataset("pick").windows({{"state": [0.0]}}{transform}).loader(8, workers=1)
print("starting", flush=True)
print(len(next(iter(loader))["task"]))
"""
GUARDED = """
import multiprocessing, sys
from dataset_catalog import Catalog
def imported(sample, rng):
    return sample | {{"imported": [name in sys.modules for name in ("dataset_catalog.worker_modules", "colorsys")]}}
if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["colorsys"])
    windows = Catalog.open({lake!r}).dataset("pick").windows({{"state": [0.0]}}, transform=imported)
    print(next(iter(windows.loader(8, workers=1)))["imported"][0])
"""
CELL = """
def brighten(sample, rng):
    return sample
"""


def jitter(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return sample | {"state": sample["state"] + rng.normal(), "drawn": rng.integers(2**62)}


@pytest.fixture(scope="module")
def windows(lake: Any) -> Windows:
    dataset = lake.catalog.dataset("pick").select(episodes=["e0", "e2", "e4"])
    return dataset.windows({"state": [0.0], "head": [-0.1, 0.0]}, image_size=(24, 32), transform=jitter)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("workers", "method", "rank", "world_size"), [(2, "forkserver", 0, 1), (1, "spawn", 1, 2)])
def test_workers_give_the_batches_of_threads_epoch_after_epoch_and_go_on_where_threads_were(
    windows: Windows, workers: int, method: Any, rank: int, world_size: int
) -> None:
    share: Any = {"seed": 4, "rank": rank, "world_size": world_size, "remainder": "pad"}
    plain = windows.loader(16, **share)
    loader = windows.loader(16, workers=workers, start_method=method, **share)
    torch.manual_seed(1)
    whole = list(plain)
    assert_same_batches(loader, whole)
    next(iter(loader))  # broken off
    loader.load_state_dict(after(plain, 2))
    assert_same_batches(loader, list(plain)[2:])
    assert loader.state_dict() == plain.state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn, "the loader must not draw from the training run's generator"


def after(loader: Any, batches: int) -> Any:
    """A loader's state after so many batches of an epoch that is then broken off."""
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
    return loader.state_dict()


def assert_same_batches(found: Any, expected: Any) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
            assert same, name


def test_a_samples_randomness_is_the_same_after_resuming_on_another_number_of_ranks(windows: Windows) -> None:
    alone = torch.cat([batch["drawn"] for batch in windows.loader(16, seed=1)])
    loader = windows.loader(16, seed=1)
    next(iter(loader))
    after = [windows.loader(16, seed=1, rank=rank, world_size=2) for rank in range(2)]
    for one in after:
        one.load_state_dict(loader.state_dict())
    steps = [torch.cat([part["drawn"] for part in step]) for step in zip(*after, strict=True)]
    assert torch.equal(torch.cat(steps), alone[16:])
    assert len(set(alone.tolist())) == len(alone)
    another = torch.cat([batch["drawn"] for batch in windows.loader(16, seed=2)])
    assert not set(another.tolist()) & set(alone.tolist())


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_threads_decode_than_were_asked_for(windows: Windows, threads: int) -> None:
    seen: set[int] = set()

    def who(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        seen.add(threading.get_ident())
        return sample

    list(Windows(windows.dataset, windows.spec, frame_bytes=0, transform=who).loader(8, threads=threads, prefetch=4))
    assert 1 <= len(seen) <= threads


def test_threads_take_a_transform_that_cannot_be_pickled_and_workers_say_why_not(windows: Windows) -> None:
    lock = threading.Lock()

    def locked(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        with lock:
            return sample

    local = Windows(windows.dataset, windows.spec, frame_bytes=0, transform=locked)
    assert len(next(iter(local.loader(8)))["task"]) == 8
    with pytest.raises(WorkerError, match="define it by name at the top of a module, or use workers=0"):
        next(iter(local.loader(8, workers=1)))


def test_what_a_notebook_defines_is_named(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = ModuleType("__main__")
    exec(CELL, notebook.__dict__)  # noqa: S102  as a kernel does
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    cell = Windows(windows.dataset, windows.spec, frame_bytes=0, transform=notebook.brighten)
    with pytest.raises(WorkerError, match="brighten is defined in a notebook or at a prompt"):
        WorkerFeed(cell, workers=1, prefetch=1, start_method="spawn")
    check_can_travel(windows)
    check_guard()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("check()", 1),
        ("x = 1\ndef main():\n    check()\n\nmain()", 5),
        ("if True:\n    check()", 2),
        ('if __name__ == "__main__":\n    check()', None),
        ('def main():\n    check()\nif __name__ == "__main__":\n    main()', None),
    ],
)
def test_a_missing_guard_is_found_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: int | None
) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(path), check=check_guard)
    monkeypatch.setitem(sys.modules, "__main__", main)
    if line is None:
        exec(compile(text, path, "exec"), main.__dict__)  # noqa: S102  as the interpreter does
        return
    with pytest.raises(WorkerError, match=rf"train.py:{line} starts worker processes.*put what it does under"):
        exec(compile(text, path, "exec"), main.__dict__)  # noqa: S102


def test_a_script_without_a_guard_ends_with_a_sentence_that_says_so(lake: Any, tmp_path: Path) -> None:
    path = tmp_path / "unguarded.py"
    path.write_text(SCRIPT.format(lake=lake.storage.url, transform=""))
    done = run(str(path))
    assert done.returncode == 1
    assert done.stdout == "starting\n", "the script was not run a second time"
    assert 'put what it does under `if __name__ == "__main__":`, or use workers=0' in done.stderr


def test_workers_begin_with_their_modules_imported_and_with_those_the_program_asked_for(
    lake: Any, tmp_path: Path
) -> None:
    path = tmp_path / "guarded.py"
    path.write_text(GUARDED.format(lake=lake.storage.url))
    done = run(str(path))
    assert (done.stdout, done.stderr) == ("[True, True]\n", "")


def test_what_workers_are_copies_of_has_no_thread_of_lance_as_a_copy_would_lack_it(lake: Any) -> None:
    names = "{open(f'/proc/self/task/{one}/comm').read().strip() for one in os.listdir('/proc/self/task')}"
    opened = f"lance.dataset({lake.storage.url + '/datasets/pick/steps.lance'!r}).count_rows()"
    done = run("-c", f"import os, lance, dataset_catalog.worker_modules\nprint({names})\n{opened}\nprint({names})")
    before, after = map(ast.literal_eval, done.stdout.splitlines())
    own = Path(sys.executable).name[:15]
    assert before <= {own, "jemalloc_bg_thd"}, "OpenBLAS and jemalloc see to forks themselves"
    assert after - before, "this is how it would be seen"


def test_what_a_prompt_defines_ends_with_a_sentence_that_says_so(lake: Any) -> None:
    text = CELL + SCRIPT.format(lake=lake.storage.url, transform=", transform=brighten")
    done = run("-c", text)
    assert done.returncode == 1
    assert "brighten is defined in a notebook or at a prompt" in done.stderr.splitlines()[-1]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip


def exploding(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    raise SystemExit(3)


def test_a_worker_that_ends_before_its_first_batch_is_told_as_such(windows: Windows) -> None:
    gone = Windows(windows.dataset, windows.spec, frame_bytes=0, transform=exploding)
    with pytest.raises(WorkerError, match="ended before its first batch"):
        next(iter(gone.loader(8, workers=1)))
