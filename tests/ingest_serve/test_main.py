"""The platform team's commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataset_catalog.storage import Storage
from edge.signing import public_bytes
from ingest_serve import __main__ as command
from ingest_serve.bucket import Bucket
from ingest_serve.check import check_create_once
from ingest_serve.errors import IngestError
from ingest_serve.registry import Registry, invite
from ingest_serve.tokens import parse_token
from tests.ingest_serve.conftest import free_ports

KEYS = [public_bytes(Ed25519PrivateKey.generate().public_key()) for _ in range(2)]
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
    assert set(paths[f"{robot}/uploads/{{upload}}"]) == {"head", "patch", "delete"}
    assert {f"{robot}/enrol", f"{robot}/keys", f"{robot}/invitations", "/v1/tokens", "/v1/audit"} <= set(paths)
    patch = paths[f"{robot}/uploads/{{upload}}"]["patch"]
    references = {one.get("$ref", "").rpartition("/")[2] for one in patch["parameters"]}
    assert {"Upload-Offset", "Upload-Complete", "Content-Digest"} <= references
    assert {"200", "201", "204", "409"} <= set(patch["responses"])
    assert "offset_mismatch" in json.dumps(patch["responses"]["409"])


def test_uploads_that_nobody_goes_on_with_are_removed_when_asked(run: Run, bucket: Bucket) -> None:
    bucket.create("uploads/g1-001/0123456789abcdef0123456789abcdef/creation", b"{}")
    code, out, _ = run("expire")
    assert code == 0
    assert out.startswith("removed 0 unfinished uploads to which nothing was added for 7 days\n")
    assert len(bucket.names("uploads")) == 1
    assert run("expire", "--days", "0")[0] == 2


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


class TestRobots:
    def test_one_key_is_revoked_by_its_id(self, run: Run, bucket: Bucket) -> None:
        kids = [enrolled(bucket, key) for key in KEYS]
        assert rows(run("robots", "--json")[1]) == [{"robot": "g1-001", "key_ids": sorted(kids)}]
        assert run("revoke", "g1-001", kids[0])[0] == 0
        assert rows(run("robots", "--json")[1]) == [{"robot": "g1-001", "key_ids": [kids[1]]}]
        assert kids[1] in run("robots")[1]

    def test_a_robot_is_revoked_with_all_it_has(self, run: Run, bucket: Bucket) -> None:
        kids = [enrolled(bucket, key) for key in KEYS]
        run("invite", "g1-001")
        code, out, _ = run("revoke-robot", "g1-001")
        assert (code, out) == (0, "revoked 2 keys and 1 unused invitations of g1-001\n")
        assert rows(run("robots", "--json")[1]) == [{"robot": "g1-001", "key_ids": []}]
        assert "none that counts" in run("robots")[1]
        assert bucket.names("registry/revoked/g1-001") == sorted(kids)

    def test_a_robot_that_nobody_knows_is_an_error(self, run: Run) -> None:
        code, _, err = run("revoke-robot", "g1-002")
        assert code == 2
        assert "knows no robot 'g1-002'" in err


class TestTokens:
    def test_a_token_is_printed_alone_and_listed_without_its_secret(self, run: Run) -> None:
        code, out, _ = run("token", "Ada [team]", "--scope", "read", "--scope", "admin", "--days", "2")
        assert code == 0
        assert parse_token(out.strip()) is not None
        (listed,) = rows(run("tokens", "--json")[1])
        assert (listed["name"], listed["scopes"]) == ("Ada [team]", ["admin", "read"])
        assert listed["expires_ns"] - listed["created_ns"] == 2 * 86_400 * 10**9
        secret = out.strip().rpartition("_")[2]
        assert secret not in run("tokens", "--json")[1] + run("tokens")[1]
        assert "[team]" in run("tokens")[1]

    def test_a_revoked_token_says_so(self, run: Run) -> None:
        token_id, _ = parse_token(run("token", "Ada", "--scope", "read")[1].strip()) or ("", "")
        assert run("revoke-token", token_id)[0] == 0
        assert "revoked" in run("tokens")[1]
        assert run("revoke-token", "0" * 16)[0] == 2

    @pytest.mark.parametrize(
        "arguments", [("", "--scope", "read"), ("Ada", "--scope", "all"), ("Ada", "--scope", "read", "--days", "0")]
    )
    def test_a_token_that_cannot_be_is_one_sentence(self, run: Run, arguments: tuple[str, ...]) -> None:
        code, out, err = run("token", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("fleetfeed ingest: ")


def test_the_audit_log_is_listed_in_order_and_by_time(run: Run, bucket: Bucket) -> None:
    enrolled(bucket, KEYS[0])
    run("revoke-robot", "g1-001")
    told = rows(run("audit", "--json")[1])
    assert [row["act"] for row in told] == ["invite", "enrol", "revoke_robot"]
    assert [row["actor"]["kind"] for row in told] == ["cli", "robot", "cli"]
    assert rows(run("audit", "--json", "--start", str(told[-1]["t_ns"]))[1]) == told[-1:]
    assert run("audit", "--json", "--end", "2020-01-01")[1] == ""
    assert "revoke_robot" in run("audit")[1]
    assert run("audit", "--start", "yesterday")[0] == 2


def test_conflicts_are_an_alert_when_asked(run: Run, bucket: Bucket) -> None:
    assert run("conflicts", "--fail")[0] == 0
    key = f"g1-001/01J00000000000000000000000/telemetry/0000000007/{'ab' * 32}"
    bucket.create(f"conflicts/{key}", b"other bytes")
    code, out, _ = run("conflicts", "--fail", "--json")
    assert code == 1
    (told,) = rows(out)
    assert (told["key"], told["segment"], told["bytes"]) == (f"conflicts/{key}", f"raw/{key.rpartition('/')[0]}", 11)
    assert run("conflicts")[0] == 0


def test_only_old_revocation_records_are_removed(run: Run, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    kid = enrolled(bucket, KEYS[0])
    run("revoke", "g1-001", kid)
    assert "removed 0 revocation records" in run("expire")[1]
    assert bucket.names("registry/revoked") == [f"g1-001/{kid}"]
    a_day_on = bucket.time_ns() + 86_402 * 10**9
    monkeypatch.setattr(Bucket, "time_ns", lambda self: a_day_on)
    assert "removed 1 revocation records" in run("expire")[1]
    assert bucket.names("registry/revoked") == []
    assert Registry(bucket).find_key("g1-001", kid) is None


def enrolled(bucket: Bucket, key: bytes) -> str:
    registry = Registry(bucket)
    token = invite(registry, "g1-001", now_ns=time.time_ns())
    return registry.enrol(token, robot="g1-001", public_key=key, now_ns=time.time_ns()).key_id
