"""Every command explains itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fleetfeed.__main__ import main

WORDS = {
    (): ("up", "down", "status", "env", "demo", "edge", "ingest", "jobs", "catalog", "import-lerobot", "export-mcap"),
    ("edge",): ("enrol", "run", "status", "adopt", "replay-lerobot"),
    ("ingest",): ("invite", "revoke", "robots", "token", "check", "openapi"),
    ("jobs",): ("run", "list"),
    ("catalog",): ("robots", "recordings", "videos", "sql", "datasets", "show", "contact-sheet", "label", "pin"),
}
COMMANDS = [(*part, word) for part, words in WORDS.items() for word in words]


def help_of(*words: str) -> str:
    command = [sys.executable, "-m", "fleetfeed", *words, "--help"]
    environment = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("part", WORDS, ids=" ".join)
def test_help_lists_every_command(part: tuple[str, ...]) -> None:
    said = help_of(*part)
    assert all(word in said for word in WORDS[part])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fleetfeed", *words, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "Usage: " in said
    assert words[-1] in said
