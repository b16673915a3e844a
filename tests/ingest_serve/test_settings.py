"""Settings come from the environment or a TOML file, and are checked when built."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ingest_serve.settings import IngestSettings


def test_every_setting_is_described() -> None:
    assert all(field.description for field in IngestSettings.model_fields.values())


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "fleetfeed.toml"
    config.write_text("[ingest]\nretry_after_s = 9\nreplicas = 3\n[storage]\nurl = 's3://x'\n")
    monkeypatch.setenv("FLEETFEED_CONFIG", str(config))
    monkeypatch.setenv("FLEETFEED_INGEST_REPLICAS", "4")
    settings = IngestSettings()
    assert (settings.retry_after_s, settings.replicas) == (9, 4)


def test_a_cap_below_the_largest_body_that_comes_beside_one_that_is_joined_is_refused() -> None:
    largest = IngestSettings().max_video_bytes
    with pytest.raises(ValidationError, match="max_bytes_in_flight must be >="):
        IngestSettings(max_bytes_in_flight=2 * largest - 1)
    bounds = IngestSettings(max_bytes_in_flight=2 * largest).bounds()
    assert bounds.body_bytes == bounds.join_bytes == bounds.max_bytes_per_robot == largest


def test_bodies_leave_room_for_requests_without_one() -> None:
    with pytest.raises(ValidationError, match="max_ongoing_requests must be >"):
        IngestSettings(max_bodies=IngestSettings().max_ongoing_requests)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        IngestSettings().replicas = 2  # type: ignore[misc]
