"""Settings come from the environment and a TOML file, are checked when built, and do not change."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edge.policy import StreamPolicy
from edge.settings import EdgeSettings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "fleetfeed.toml"
    monkeypatch.setenv("FLEETFEED_CONFIG", str(path))
    return path


def test_the_file_is_read_and_its_other_tables_are_not_ours(config: Path) -> None:
    config.write_text('[edge]\nurl = "https://a"\nsegment_s = 3\n[ingest]\nurl = "https://b"\n')
    assert (EdgeSettings().url, EdgeSettings().segment_s) == ("https://a", 3.0)


def test_the_environment_wins_over_the_file_and_an_argument_over_both(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('[edge]\nurl = "https://file"\ncrf = 30\n')
    monkeypatch.setenv("FLEETFEED_EDGE_URL", "https://environment")
    assert (EdgeSettings().url, EdgeSettings().crf) == ("https://environment", 30)
    assert EdgeSettings(url="https://argument").url == "https://argument"


def test_a_file_without_our_table_leaves_the_defaults(config: Path) -> None:
    config.write_text("[ingest]\n")
    assert EdgeSettings() == EdgeSettings.model_construct(**EdgeSettings().model_dump())
    assert EdgeSettings().gop_frames == 10


def test_a_misspelt_setting_in_the_file_is_refused(config: Path) -> None:
    config.write_text("[edge]\nsegment_seconds = 3\n")
    with pytest.raises(ValidationError, match="segment_seconds"):
        EdgeSettings()


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        EdgeSettings().crf = 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("segment_s", "0"),
        ("segment_bytes", "1"),
        ("sync_s", "1.5"),
        ("queue_messages", "0"),
        ("gop_frames", "31"),
        ("uploads_at_once", "0"),
        ("timeout_s", "-1"),
        ("max_bytes", "1000"),
        ("min_free_bytes", "-1"),
        ("hold_bytes", "-1"),
        ("piece_bytes", "100"),
        ("max_upload_rate", "-1"),
        ("ledger_days", "-1"),
        ("preview_fps", "31"),
        ("preview_share", "0"),
        ("status_s", "0"),
        ("metered", "perhaps"),
        ("streams", '{"head": {"send": "sometimes"}}'),
        ("streams", '{"head": {"priority": -1}}'),
        ("streams", '{"head": {"worth": 3}}'),
        ("url", "robots.example"),
        ("url", "http:///x"),
    ],
)
def test_a_value_outside_its_bounds_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"FLEETFEED_EDGE_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        EdgeSettings()


def test_a_slash_at_the_end_of_the_url_does_not_become_part_of_the_routes() -> None:
    assert EdgeSettings(url="http://127.0.0.1:8000/").url == "http://127.0.0.1:8000"


def test_what_a_stream_is_worth_is_a_table_of_its_own(config: Path) -> None:
    config.write_text('[edge.streams."*_camera"]\nsend = "unmetered"\n[edge.streams.lidar]\npriority = 40\n')
    assert EdgeSettings().streams == {"*_camera": StreamPolicy(send="unmetered"), "lidar": StreamPolicy(priority=40)}


def test_streams_can_be_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETFEED_EDGE_STREAMS", '{"lidar": {"send": "on_request"}}')
    assert EdgeSettings().streams == {"lidar": StreamPolicy(send="on_request")}
