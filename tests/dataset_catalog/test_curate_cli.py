"""Labels, tags, pinned sets and imports on the command line do what the library does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dataset_catalog.__main__ import app
from dataset_catalog.catalog import Catalog
from dataset_catalog.screen import show
from tests.dataset_catalog.lerobot_folders import write_folder


@pytest.fixture
def url(lake: Any, tmp_path: Path) -> str:
    shutil.copytree(lake.storage.url, tmp_path / "lake")
    return str(tmp_path / "lake")


def run(url: str, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*words, "--lake", url])
    assert result.exit_code == code, result.output
    return result.output


def rows(url: str, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(url, *words, "--json").splitlines()]


def test_labels_are_written_and_read(url: str) -> None:
    said = run(url, "label", "e0", "e1", "--set", "success=false", "--set", "grip=firm", "--set", "score=0.5")
    assert said == "labels v1: 2 episodes\n"
    run(url, "label", "e1", "--set", "grip=", "--author", "Ada")
    found = {(row["episode_id"], row["label"]): row["value"] for row in rows(url, "labels")}
    assert found == {
        ("e0", "grip"): "firm",
        ("e0", "score"): "0.5",
        ("e0", "success"): "false",
        ("e1", "score"): "0.5",
        ("e1", "success"): "false",
    }
    assert len(rows(url, "labels", "--version", "1")) == 6
    assert [row["episode_id"] for row in rows(url, "episodes", "--where", "labels['grip'] = 'firm'")] == ["e0"]
    assert "grip=firm" in run(url, "episodes", "--robot", "h1")
    assert "a label is name=value, got 'grip'" in run(url, "label", "e0", "--set", "grip", code=2)


def test_tags_are_given_listed_and_taken_away(url: str) -> None:
    assert run(url, "tag", "pick", "paper", "--version", "v1") == "paper is pick v1\n"
    assert rows(url, "tags", "pick") == [{"tag": "paper", "version": 1}]
    assert run(url, "show", "pick", "--version", "paper").startswith("pick v1: ")
    run(url, "untag", "pick", "paper")
    assert rows(url, "tags", "pick") == []


def test_a_selection_is_pinned_and_checked(url: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    said = run(url, "pin", "pick", "--out", str(path), "--task", "wave", "--end", "2026-01-01T03:00:01Z")
    assert said == f"{path}: <Dataset pick v2: 17 steps of 1 episodes>\n"
    assert run(url, "pinned", str(path)) == "<Dataset pick v2: 17 steps of 1 episodes>, as it was pinned\n"
    path.write_text(path.read_text().replace('"steps": 17', '"steps": 18'))
    assert "steps was 18, is 17" in run(url, "pinned", str(path), code=2)
    nowhere = tmp_path / "none" / "set.json"
    assert f"cannot write {nowhere}: No such file" in run(url, "pin", "pick", "--out", str(nowhere), code=2)


def test_what_is_printed_has_no_control_characters_of_robots(capsys: pytest.CaptureFixture[str]) -> None:
    show(pa.table({"text": ["\x1b]0;evil\x07\x1b[2J\u202e [b] \n two"]}), as_json=False)
    printed = capsys.readouterr().out
    assert not set("\x1b\x07\u202e") & set(printed)
    assert r"\x1b]0;evil\x07\x1b[2J\u202e [b] \n two" in printed


def test_a_lake_that_has_nothing_is_named_with_what_was_asked_of_it(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    lake = str(tmp_path / "lake")
    assert f"no dataset named 'pick'; there are [] in {lake}" in run(lake, "show", "pick", code=2)
    assert f"no dataset named 'pick'; there are [] in {lake}" in run(lake, "tags", "pick", code=2)


def test_telemetry_search_statistics_and_lineage_are_printed(url: str) -> None:
    found = rows(url, "telemetry", "/power/battery", "--column", "percent", "--start", "2026-01-01T00:00:00Z")
    assert [row["percent"] for row in found] == [90.0, 80.0, 70.0, 60.0]
    assert "no topic '/nothing' was recorded; there are ['/joint_states'" in run(url, "telemetry", "/nothing", code=2)
    assert [row["text"] for row in rows(url, "search", "bottle table")] == ["a bottle is on the table"]
    (hip, *_) = rows(url, "statistics", "pick", "--where", "success")
    assert (hip["column"], hip["element"]) == ("state", "hip")
    assert hip["min"] < hip["mean"] < hip["max"]
    assert {row["name"] for row in rows(url, "lineage", "pick", "e0", "3")} == {"head", "state", "action", "torso"}


def test_what_is_found_is_written_as_pictures(url: str, tmp_path: Path) -> None:
    for words in (["episodes", "--robot", "h1"], ["videos"], ["search", "slipped"]):
        sheet = tmp_path / f"{words[0]}.png"
        run(url, *words, "--sheet", str(sheet))
        assert cv2.imread(str(sheet)).std() > 10


def test_a_lerobot_dataset_comes_in_by_one_command(tmp_path: Path) -> None:
    source, lake = write_folder(tmp_path / "small", [5, 6]), tmp_path / "lake"
    command = [sys.executable, "-m", "fleetfeed", "import-lerobot", str(source), str(lake), "--robot", "arm-1"]
    fresh = {name: value for name, value in os.environ.items() if name != "LANCE_LOG"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=fresh)
    assert done.stdout.splitlines()[0] == "small v1: 2 episodes, 11 steps"
    assert "WARN" not in done.stderr
    assert Catalog.open(str(lake)).dataset("small").episodes()["robot_id"].to_pylist() == ["arm-1", "arm-1"]
    again = CliRunner().invoke(app, ["import-lerobot", str(source), str(lake)])
    assert again.stdout == "small: nothing new\n"
    wrong = CliRunner().invoke(app, ["import-lerobot", str(lake), str(lake)])
    assert (wrong.exit_code, "is not a LeRobot dataset" in wrong.output) == (2, True)
