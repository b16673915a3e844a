"""The platform team's commands."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from dataset_catalog.storage import Storage
from ingest_serve import __main__ as command
from ingest_serve.bucket import Bucket
from ingest_serve.check import check_create_once
from ingest_serve.errors import IngestError
from tests.ingest_serve.conftest import free_ports

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command as the shell would: exit code, stdout, stderr."""
    monkeypatch.setenv("FLEETFEED_STORAGE_URL", storage.url)
    monkeypatch.setenv("FLEETFEED_STORAGE_ENDPOINT_URL", str(storage.settings.endpoint_url))
    monkeypatch.setenv("FLEETFEED_STORAGE_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("FLEETFEED_STORAGE_SECRET_ACCESS_KEY", "test-secret")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ingest", *arguments])
        with pytest.raises(SystemExit) as ended:
            command.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def test_an_invited_robot_s_token_is_printed_alone(run: Run) -> None:
    code, out, _ = run("invite", "g1-001")
    assert code == 0
    assert len(out.split()) == 1
    assert len(out.strip()) >= 40


def test_a_bad_name_is_one_sentence_and_exit_code_2(run: Run) -> None:
    code, out, err = run("invite", "No Robot")
    assert (code, out) == (2, "")
    assert err.startswith("fleetfeed ingest: robot must match")


def test_revoking_what_is_not_there_is_an_error(run: Run) -> None:
    assert run("revoke", "g1-001", "0123456789abcdef")[0] == 2


def test_check_says_that_create_once_holds_and_leaves_nothing(run: Run, bucket: Bucket) -> None:
    code, out, _ = run("check")
    assert code == 0
    assert "a second create of one key is refused" in out
    assert bucket.names("probes") == []


def test_check_says_that_the_storage_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETFEED_STORAGE_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    code, _, err = run("check")
    assert code == 2
    assert "Traceback" not in err


def test_check_finds_a_store_that_ignores_the_condition(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "create", lambda key, body: bucket.overwrite(key, body) is None)
    with pytest.raises(IngestError, match="ignores If-None-Match"):
        check_create_once(bucket)


def test_openapi_describes_both_uploads(run: Run) -> None:
    code, out, _ = run("openapi")
    assert code == 0
    described = json.loads(out)["paths"]["/v1/robots/{robot}/video"]["post"]
    assert set(described["requestBody"]["content"]) == {
        "application/vnd.mcap",
        "video/mp4",
        "application/vnd.fleetfeed.gap+json",
    }
    assert "409" in described["responses"]


def test_openapi_describes_every_route_with_its_problems(run: Run) -> None:
    _, out, _ = run("openapi")
    paths = json.loads(out)["paths"]
    robot = "/v1/robots/{robot}"
    expected = {
        f"{robot}/telemetry": {"post"},
        f"{robot}/video": {"post"},
        f"{robot}/uploads/{{upload}}": {"head", "patch", "delete"},
        f"{robot}/enrol": {"post"},
        f"{robot}/keys": {"post"},
        f"{robot}/keys/{{kid}}": {"delete"},
        "/healthz": {"get"},
        "/readyz": {"get"},
    }
    assert {path: set(methods) for path, methods in paths.items()} == expected
    patch = paths[f"{robot}/uploads/{{upload}}"]["patch"]
    assert {"Upload-Offset", "Upload-Complete", "Content-Digest"} <= {one["name"] for one in patch["parameters"]}
    assert {"200", "201", "204", "409"} <= set(patch["responses"])
    assert "offset_mismatch" in patch["responses"]["409"]["description"]


def test_uploads_that_nobody_goes_on_with_are_removed_when_asked(run: Run, bucket: Bucket) -> None:
    bucket.create("uploads/g1-001/0123456789abcdef0123456789abcdef/creation", b"{}")
    code, out, _ = run("expire")
    assert (code, out) == (0, "removed 0 unfinished uploads to which nothing was added for 7 days\n")
    assert len(bucket.names("uploads")) == 1
    assert run("expire", "--days", "0")[0] == 2
