"""The documentation says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from fleetfeed.describe_settings import describe
from ingest_serve.problems import PROBLEMS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_problem_code_is_documented_with_its_status_and_meaning() -> None:
    written = re.findall(r"^\| `(\w+)` \| (\d+) \| (.+) \|$", (DOCS / "PROTOCOL.md").read_text(), re.MULTILINE)
    assert written == [(code, str(problem.status), problem.meaning) for code, problem in PROBLEMS.items()]


def test_every_setting_is_documented() -> None:
    assert (DOCS / "SETTINGS.md").read_text() == describe(), (
        "run: python -m fleetfeed.describe_settings > docs/SETTINGS.md"
    )


def test_the_readme_is_short() -> None:
    assert len((DOCS.parent / "README.md").read_text().splitlines()) <= 150
