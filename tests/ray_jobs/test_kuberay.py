"""The manifests for KubeRay say what our code and Ray's understand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from typer.main import get_command

from dataset_catalog.settings import StorageSettings, TableSettings
from ingest_serve.settings import IngestSettings
from ray_jobs.__main__ import SPECS, app

FOLDER = Path(__file__).parents[2] / "deploy" / "kuberay"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
ROOT = FOLDER.parents[1]


def manifest(kind: str) -> dict[str, Any]:
    (found,) = (one for one in (yaml.safe_load(path.read_text()) for path in MANIFESTS) if one["kind"] == kind)
    return dict(found)


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def clusters() -> Iterator[dict[str, Any]]:
    yield manifest("RayCluster")["spec"]
    yield manifest("RayService")["spec"]["rayClusterConfig"]


def containers() -> Iterator[dict[str, Any]]:
    for cluster in clusters():
        for group in groups(cluster):
            yield from group["template"]["spec"]["containers"]
    yield from manifest("RayJob")["spec"]["submitterPodTemplate"]["spec"]["containers"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_manifest_is_of_kuberay_and_has_a_name(path: Path) -> None:
    one = yaml.safe_load(path.read_text())
    assert one["apiVersion"] == "ray.io/v1"
    assert one["kind"] in ("RayCluster", "RayService", "RayJob")
    assert one["metadata"]["name"].startswith("fleetfeed-")


def test_the_clusters_run_the_ray_that_was_tested() -> None:
    assert {cluster["rayVersion"] for cluster in clusters()} == {ray.__version__}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own settings
def test_serve_understands_its_configuration_and_finds_our_application() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(manifest("RayService")["spec"]["serveConfigV2"]))
    (application,) = config.applications
    module, function = application.import_path.split(":")
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()
    assert f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
    with pytest.raises(ValueError, match="import_path"):
        ServeDeploySchema.model_validate({"applications": [{"name": "default"}]})


def test_the_job_is_a_command_of_ours() -> None:
    words = shlex.split(manifest("RayJob")["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "ray_jobs"]
    command = get_command(app)
    name, parsed, rest = command.resolve_command(command.make_context("jobs", [], resilient_parsing=True), words[3:])  # type: ignore[attr-defined]
    context = parsed.make_context(name, rest)
    assert name == "loop"
    assert [str(spec) for spec in context.params["spec"]] == ["humanoid"]
    assert (SPECS / "humanoid.toml").exists()


def test_the_job_finds_its_cluster() -> None:
    selector = manifest("RayJob")["spec"]["clusterSelector"]["ray.io/cluster"]
    assert selector == manifest("RayCluster")["metadata"]["name"]


def test_the_pages_say_under_whose_account_the_loop_and_so_maintain_run() -> None:
    (account,) = {group["template"]["spec"]["serviceAccountName"] for group in groups(manifest("RayCluster")["spec"])}
    deploy = (ROOT / "docs" / "DEPLOY.md").read_text()
    retention = next(line for line in deploy.split("\n## ") if "s3/retention.json" in line)
    (record,) = (ROOT / "docs" / "adr").glob("0019-*.md")
    for page in (retention, record.read_text()):
        assert f"the service account `{account}`" in " ".join(page.split())


def test_every_setting_is_one_that_we_have() -> None:
    known: list[type[TableSettings]] = [StorageSettings, IngestSettings]
    names = {f"{kind.model_config['env_prefix']}{name.upper()}" for kind in known for name in kind.model_fields}
    given = {one["name"] for container in containers() for one in container.get("env", [])}
    assert {name for name in given if name.startswith("FLEETFEED_")} <= names
    values = {
        one["name"].removeprefix("FLEETFEED_INGEST_").lower(): one["value"]
        for container in containers()
        for one in container["env"]
        if one["name"].startswith("FLEETFEED_INGEST_")
    }
    IngestSettings(**values)


def test_every_container_asks_for_the_token_and_holds_no_secret() -> None:
    for container in containers():
        env = {one["name"]: one for one in container["env"]}
        assert env["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in env["RAY_AUTH_TOKEN"]["valueFrom"]
        assert not any("SECRET" in name or "ACCESS_KEY" in name for name in env)


def test_nothing_is_public_and_nobody_is_root() -> None:
    for cluster in clusters():
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        for group in groups(cluster):
            assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
            assert "hostNetwork" not in group["template"]["spec"]


def test_what_a_worker_is_given_fits_its_limits() -> None:
    for cluster in clusters():
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert all({"requests", "limits"} == set(one["resources"]) for one in containers() if "resources" in one)


def test_a_pod_ends_no_sooner_than_its_replicas_may_take() -> None:
    (ingest,) = manifest("RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert ingest["template"]["spec"]["terminationGracePeriodSeconds"] > IngestSettings().graceful_shutdown_s
