"""docs/RESEARCHER.md and the notebook do what they say, as they are written."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.dataset_catalog.lerobot_folders import write_folder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "RESEARCHER.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)
NOTEBOOK = ROOT / "examples" / "find_pin_train.ipynb"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's reader is: a folder with `my_dataset` in it."""
    write_folder(tmp_path / "my_dataset", [23, 31, 28, 40, 22, 35])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLEETFEED_STORAGE_URL", raising=False)
    return tmp_path


def run(commands: str) -> None:
    """The commands, but for pip: this environment is what it would make."""
    for line in commands.strip().splitlines():
        words = shlex.split(line)
        if words[0] == "pip":
            continue
        assert words[0] == "fleetfeed"
        program = [sys.executable, "-m", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, env=environment)
        assert done.returncode == 0, done.stderr


def test_the_page_does_what_it_says_from_top_to_bottom(folder: Path) -> None:
    names: dict[str, Any] = {}
    for language, block in BLOCKS:
        if language == "bash":
            run(block)
        else:
            exec(compile(block, "RESEARCHER.md", "exec"), names)  # noqa: S102 - our own page
    assert names["again"].selection.runs == names["train"].selection.runs
    assert list(names["good"].selection.episode_ids) == ["my_dataset-000001"]
    ids = set(names["batch"]["sample_id"]) & set(names["following"]["sample_id"])
    assert (ids, len(names["following"]["sample_id"])) == (set(), 16)
    for made in ("episodes.png", "steps.png"):
        assert (folder / made).read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "out_lerobot/meta/info.json").read_text())["total_episodes"] == 3
    assert len(list((folder / "out_mcap").glob("*.mcap"))) == 3


def test_the_first_batch_takes_ten_lines() -> None:
    (_, install), (_, first) = BLOCKS[:2]
    lines = [line for line in (install + first).splitlines() if line.strip()]
    assert lines[0] == 'pip install "fleetfeed[catalog,train]"'
    assert len(lines) == 10


def test_the_extras_that_it_installs_are_ours() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.search(r'pip install "fleetfeed\[([\w,]+)\]"', PAGE)
    assert asked
    assert set(asked[1].split(",")) <= set(extras)
    assert "torch>=2.4" in extras["train"]


def test_every_cell_of_the_notebook_runs(folder: Path) -> None:
    run("fleetfeed import-lerobot my_dataset lake")
    names: dict[str, Any] = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert "pandas()" not in "".join(line for cell in cells for line in cell["source"])  # no extra brings it
    shown = [show("".join(cell["source"]), names) for cell in cells]
    pages = [one._repr_html_() for one in shown if hasattr(one, "_repr_html_")]
    assert sum('<img src="data:image/jpeg' in page for page in pages) == 2
    assert len(names["chosen"].selection.episode_ids) == 2
    assert all(not cell["outputs"] for cell in cells)  # it is kept without what it gave


def show(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as Jupyter does: its value is that of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102 - our own notebook
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None  # noqa: S307
