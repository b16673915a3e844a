"""The cluster launcher's configuration is one that this Ray accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


def test_cluster_yaml_is_valid_by_rays_own_schema(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_a_cluster_without_a_worker_type_for_the_head_is_refused(config: dict[str, Any]) -> None:
    del config["available_node_types"]["head"]
    with pytest.raises((RuntimeError, ValueError)):
        validate_config(prepare_config(config))


def test_every_node_asks_for_the_token_and_nothing_is_public(config: dict[str, Any]) -> None:
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"  # where Ray looks for it
    assert config["provider"]["use_internal_ips"] is True
    assert any("--dashboard-host=127.0.0.1" in command for command in starts)
