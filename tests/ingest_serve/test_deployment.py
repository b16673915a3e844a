"""The Serve application is built from the environment alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_catalog.errors import StorageError


def test_the_deployment_takes_its_bounds_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest_serve.deployment import build_app

    monkeypatch.setenv("FLEETFEED_INGEST_REPLICAS", "3")
    monkeypatch.setenv("FLEETFEED_INGEST_MAX_QUEUED_REQUESTS", "7")
    deployment = build_app()._bound_deployment
    assert (deployment.name, deployment.num_replicas, deployment.max_queued_requests) == ("ingest", 3, 7)
    assert deployment.ray_actor_options["num_cpus"] == 0.1


def test_serve_run_takes_the_builder() -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as as_serve_run_does

    from ingest_serve.deployment import build_app

    assert as_serve_run_does(build_app, {})._bound_deployment.name == "ingest"


def test_a_folder_is_refused_before_anything_is_deployed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ingest_serve.deployment import build_app

    monkeypatch.setenv("FLEETFEED_STORAGE_URL", str(tmp_path))
    with pytest.raises(StorageError, match="s3://"):
        build_app()
