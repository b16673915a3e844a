"""The command line: tables, JSON, and one sentence when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from typer.testing import CliRunner, Result

from dataset_catalog.__main__ import app


def run(lake: Any, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--lake", lake.storage.url])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["robots"], ["robot_id", "h1", "2026-01-01T00:00:30.000Z"]),
        (["recordings", "--robot", "h2"], ["rec-h2", "quarantined"]),
        (["videos", "--robot", "h1", "--start", "2026-01-01T00:00:20Z"], ["head", "90"]),
        (["sql", "SELECT count(*) AS n FROM pick.episodes"], ["n", "5"]),
        (["datasets"], ["pick", "2", "204"]),
        (["show", "pick"], ["pick v2: 204 steps", "hip, knee, ankle", "slerp", "h264-small", "pour water"]),
        (["show", "pick", "--version", "v1"], ["pick v1: "]),
    ],
)
def test_every_command_prints_a_table(lake: Any, arguments: list[str], words: list[str]) -> None:
    result = run(lake, *arguments)
    assert result.exit_code == 0, result.output
    for word in words:
        assert word in result.output


def test_json_is_one_object_a_line(lake: Any) -> None:
    rows = [json.loads(line) for line in run(lake, "videos", "--where", "luma_mean < 70", "--json").stdout.splitlines()]
    assert [row["seq"] for row in rows] == [0, 1]
    shown = json.loads(run(lake, "show", "pick", "--json").stdout)
    assert shown["version"] == 2
    assert [episode["episode_id"] for episode in shown["episodes"]] == ["e0", "e1", "e2", "e3", "e4"]


def test_a_contact_sheet_is_written_where_asked(lake: Any, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = run(lake, "contact-sheet", "pick", "--out", str(out), "--where", "success", "--rows", "1")
    assert result.exit_code == 0, result.output
    assert cv2.imread(str(out)).shape[1] > 1000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "pack"], "fleetfeed catalog: no dataset named 'pack'; there are ['pick']"),
        (
            ["sql", "SELECT nosuch FROM segments"],
            'fleetfeed catalog: Binder Error: Referenced column "nosuch" not found',
        ),
        (["videos", "--start", "yesterday"], "fleetfeed catalog: a time is int nanoseconds"),
        (
            ["contact-sheet", "pick", "--out", "x.png", "--camera", "tail"],
            "fleetfeed catalog: no column or camera ['tail']",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(lake: Any, arguments: list[str], sentence: str) -> None:
    result = run(lake, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(sentence)
    assert len(result.stderr.splitlines()) == 1
