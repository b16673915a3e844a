"""Real recordings the whole way, robots to dataset, compared with their own files."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from edge.lerobot import LeRobotDataset
from fleetfeed.demo import real, screen
from fleetfeed.stack import StackInfo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def test_real_recordings_arrive_value_for_value(
    stack: StackInfo, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "console", Console(record=True, width=140))
    real.send_and_compare(stack, LeRobotDataset.open(real_data / "g1"), bags=real_data / "rosbag2", folder=tmp_path)
    assert "6 episodes and 6,121 bag messages: all equal" in screen.console.export_text()
