from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fleetfeed.settings import StackSettings


def test_the_environment_wins_over_the_table_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "fleetfeed.toml"
    config.write_text("[ingest]\nreplicas = 3\n\n[stack]\nhttp_port = 8000\nnum_cpus = 6\n")
    monkeypatch.setenv("FLEETFEED_CONFIG", str(config))
    monkeypatch.setenv("FLEETFEED_STACK_NUM_CPUS", "2")
    settings = StackSettings()
    assert (settings.http_port, settings.num_cpus) == (8000, 2)


def test_an_unknown_key_in_the_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "fleetfeed.toml"
    config.write_text("[stack]\nhttp_prot = 8000\n")
    monkeypatch.setenv("FLEETFEED_CONFIG", str(config))
    with pytest.raises(ValidationError, match="http_prot"):
        StackSettings()


def test_two_servers_cannot_have_one_port() -> None:
    with pytest.raises(ValidationError, match="must differ"):
        StackSettings(http_port=8000, s3_port=8000)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in StackSettings.model_fields.values())
