"""Out of the lake by one command each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from dataset_catalog.__main__ import app


def run(lake: Any, *words: str) -> Any:
    return CliRunner().invoke(app, [*words, "--lake", lake.storage.url])


def test_a_selection_is_exported_as_lerobot_and_as_mcap(lake: Any, tmp_path: Path) -> None:
    done = run(lake, "export-lerobot", "pick", str(tmp_path / "lerobot"), "--where", "success", "--format", "v2.1")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == f"{tmp_path / 'lerobot'}: 2 episodes, 119 frames"
    assert len(list((tmp_path / "lerobot").glob("videos/*/*/*.mp4"))) == 2
    done = run(lake, "export-mcap", "pick", str(tmp_path / "mcap"), "--where", "success")
    assert done.stdout.startswith(f"{tmp_path / 'mcap'}: 2 files, ")
    assert sorted(path.name for path in (tmp_path / "mcap").iterdir()) == ["e0.mcap", "e3.mcap"]


def test_a_folder_that_is_not_empty_is_told_in_a_sentence(lake: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(lake, "export-lerobot", "pick", str(tmp_path))
    assert (done.exit_code, f"{tmp_path} is not empty" in done.stderr.replace("\n", "")) == (2, True)
