"""A robot installs no Ray, Lance or torch, and a researcher no Ray: in real environments, from the pinned versions."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = {
    "edge": ("import edge.recorder, edge.agent, edge.__main__", {"ray", "lance", "torch", "fastapi", "duckdb"}),
    "catalog": ("import dataset_catalog, dataset_catalog.__main__", {"ray", "torch", "fastapi"}),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("fleetfeed-*.whl")
    return built


@pytest.mark.timeout(600)
@pytest.mark.parametrize("extra", CASES)
def test_an_extra_brings_what_its_package_needs_and_nothing_heavy(extra: str, wheel: Path, tmp_path: Path) -> None:
    statement, forbidden = CASES[extra]
    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv" / "bin" / "python")
    pinned = ["--constraint", str(ROOT / "constraints.txt")]
    pip = [sys.executable, "-m", "pip", "--python", python]
    install = [*pip, "install", "--quiet", "--no-compile", *pinned, f"{wheel}[{extra}]"]
    subprocess.run(install, check=True, capture_output=True)

    subprocess.run([python, "-c", statement], check=True, cwd=tmp_path)
    found = subprocess.run(
        [python, "-c", f"import importlib.util as u; print([m for m in {sorted(forbidden)} if u.find_spec(m)])"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert found.stdout.strip() == "[]"
    helped = subprocess.run(
        [python, "-m", "fleetfeed", "--help"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert "catalog" in helped.stdout
    told = subprocess.run(
        [python, "-m", "fleetfeed", "jobs", "run", "index_segments"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert told.returncode != 0
    assert 'pip install "fleetfeed[jobs]"' in told.stderr
