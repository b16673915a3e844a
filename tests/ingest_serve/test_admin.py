"""The platform team's routes: robots and people let in and out, what did not get through, who did what."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import lance
import pyarrow as pa
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataset_catalog import schema, versions
from dataset_catalog.storage import Storage
from dataset_catalog.versions import Manifest
from edge.segment import MAGIC
from ingest_serve.registry import Registry
from ingest_serve.settings import IngestSettings
from ingest_serve.tokens import Tokens
from tests.ingest_serve.acting import Holder, holder
from tests.ingest_serve.conftest import RECORDING, Robot, Server, refusal, serve

DAY_NS = 86_400 * 10**9


@pytest.fixture
def server(storage: Storage) -> Iterator[Server]:
    """A server that sees every revocation at once."""
    with serve(storage, IngestSettings(key_cache_s=0)) as running:
        yield running


@pytest.fixture
def admin(server: Server) -> Holder:
    return holder(server, "admin")


def uploads(robot: Robot, *, seq: int) -> bool:
    response = robot.send(robot.upload(seq=seq))
    assert response.status_code == 201 or refusal(response) == (401, "unknown_key")
    return response.status_code == 201


class TestRobots:
    def test_a_robot_enrols_with_the_invitation_that_an_admin_made(self, server: Server, admin: Holder) -> None:
        response = admin.send("POST", "/v1/robots/g1-001/invitations", {"lifetime_s": 60})
        assert response.status_code == 201
        made = response.json()
        assert made["robot"] == "g1-001"
        assert abs(made["expires_ns"] - server.clock() - 60 * 10**9) < 30 * 10**9
        robot = Robot(server, "g1-001", Ed25519PrivateKey.generate())
        assert robot.enrol(made["token"]).status_code == 201
        assert uploads(robot, seq=0)

    def test_an_invitation_needs_no_body(self, admin: Holder) -> None:
        made = admin.send("POST", "/v1/robots/g1-001/invitations").json()
        without_length = requests.Request("POST", f"{admin.server.url}/v1/robots/g1-001/invitations").prepare()
        without_length.headers.pop("Content-Length", None)
        without_length.headers["Authorization"] = f"Bearer {admin.text}"
        with requests.Session() as session:
            assert session.send(without_length, timeout=30).status_code == 201
        assert made["token"].startswith("enrol-")

    def test_an_invitation_that_has_run_out_lets_nobody_in(self, server: Server, admin: Holder) -> None:
        made = admin.send("POST", "/v1/robots/g1-001/invitations", {"lifetime_s": 60}).json()
        server.clock.offset_ns = 61 * 10**9
        robot = Robot(server, "g1-001", Ed25519PrivateKey.generate())
        assert refusal(robot.enrol(made["token"])) == (403, "enrolment_expired")

    def test_a_revoked_robot_is_out_until_it_is_invited_again(self, server: Server, admin: Holder) -> None:
        robot, other = server.new_robot(), server.new_robot("g1-002")
        unused = admin.send("POST", "/v1/robots/g1-001/invitations").json()["token"]
        response = admin.send("POST", "/v1/robots/g1-001/revoke")
        assert response.status_code == 200
        assert response.json() == {"robot": "g1-001", "key_ids": [robot.kid], "invitations": 1}
        assert not uploads(robot, seq=0)
        assert uploads(other, seq=0)
        new = Robot(server, "g1-001", Ed25519PrivateKey.generate())
        assert refusal(new.enrol(unused)) == (403, "enrolment_revoked")
        again = admin.send("POST", "/v1/robots/g1-001/revoke").json()
        assert again == {"robot": "g1-001", "key_ids": [], "invitations": 0}
        assert new.enrol(admin.send("POST", "/v1/robots/g1-001/invitations").json()["token"]).status_code == 201
        assert uploads(new, seq=0)
        assert not uploads(robot, seq=1)

    def test_a_robot_that_nobody_knows_cannot_be_revoked(self, admin: Holder) -> None:
        assert refusal(admin.send("POST", "/v1/robots/g1-009/revoke")) == (404, "unknown_robot")
        assert refusal(admin.send("POST", "/v1/robots/G1/revoke")) == (400, "bad_name")
        assert refusal(admin.send("POST", "/v1/robots/G1/invitations")) == (400, "bad_name")

    def test_an_admin_ends_one_key_of_a_robot_even_its_only_one(self, server: Server, admin: Holder) -> None:
        robot = server.new_robot()
        path = f"/v1/robots/g1-001/keys/{robot.kid}"
        assert [admin.send("DELETE", path).status_code for _ in range(2)] == [204, 204]
        assert not uploads(robot, seq=0)
        assert refusal(admin.send("DELETE", f"/v1/robots/g1-001/keys/{'0' * 16}")) == (404, "unknown_key_id")
        assert refusal(holder(server, "read").send("DELETE", path)) == (403, "wrong_scope")

    def test_robots_are_listed_with_the_keys_that_count(self, server: Server, admin: Holder) -> None:
        robots = [server.new_robot(f"g1-{n:03d}") for n in range(3)]
        Registry(server.bucket).revoke("g1-001", robots[1].kid, now_ns=1)
        expected = [{"robot": one.name, "key_ids": [one.kid]} for one in robots]
        expected[1]["key_ids"] = []
        assert admin.all("/v1/registry/robots", "robots") == expected
        assert admin.all("/v1/registry/robots", "robots", limit=1) == expected


class TestTokens:
    def test_a_token_that_an_admin_made_opens_what_it_should(self, server: Server, admin: Holder) -> None:
        response = admin.send("POST", "/v1/tokens", {"name": "Bob", "scopes": ["admin", "read"], "days": 0.5})
        assert response.status_code == 201
        made = response.json()
        assert (made["name"], made["scopes"], made["created_by"]) == ("Bob", ["admin", "read"], admin.token_id)
        assert made["expires_ns"] - made["created_ns"] == DAY_NS // 2
        bob = Holder(server, made["token"])
        assert bob.token_id == made["token_id"]
        listed = bob.all("/v1/tokens", "tokens", limit=1)
        assert {one["token_id"] for one in listed} == {admin.token_id, bob.token_id}
        secret = made["token"][21:]
        assert secret not in json.dumps(listed)

    def test_a_revoked_token_opens_nothing(self, server: Server, admin: Holder) -> None:
        bob = holder(server, "admin")
        path = f"/v1/tokens/{bob.token_id}"
        assert [admin.send("DELETE", path).status_code for _ in range(2)] == [204, 204]
        assert refusal(bob.send("GET", "/v1/tokens")) == (401, "token_revoked")
        (listed,) = [one for one in admin.all("/v1/tokens", "tokens") if one["token_id"] == bob.token_id]
        assert listed["revoked_ns"] > 0
        for nobody in ("0" * 16, "x", "%2e%2e"):
            assert refusal(admin.send("DELETE", f"/v1/tokens/{nobody}")) == (404, "unknown_token_id")

    def test_an_admin_may_give_up_its_own_token(self, admin: Holder) -> None:
        assert admin.send("DELETE", f"/v1/tokens/{admin.token_id}").status_code == 204
        assert refusal(admin.send("GET", "/v1/tokens")) == (401, "token_revoked")

    def test_an_expired_token_opens_nothing(self, server: Server, admin: Holder) -> None:
        server.clock.offset_ns = DAY_NS + 10**9
        assert refusal(admin.send("GET", "/v1/tokens")) == (401, "token_expired")

    def test_whoever_is_revoked_meanwhile_has_let_nobody_in(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []
        first, second = holder(server, "admin"), holder(server, "admin")
        for kind, act, who in ((Tokens, "create", first), (Registry, "invite", second)):
            monkeypatch.setattr(kind, act, revoked_after(getattr(kind, act), server, who, made))
        assert refusal(first.send("POST", "/v1/tokens", {"name": "Eve", "scopes": ["admin"]})) == (401, "token_revoked")
        assert refusal(second.send("POST", "/v1/robots/g1-001/invitations")) == (401, "token_revoked")
        (_, text), invitation = made
        assert refusal(Holder(server, text).send("GET", "/v1/tokens")) == (401, "token_revoked")
        robot = Robot(server, "g1-001", Ed25519PrivateKey.generate())
        assert refusal(robot.enrol(invitation.token)) == (403, "enrolment_revoked")


def revoked_after(act: Callable[..., Any], server: Server, who: Holder, made: list[Any]) -> Callable[..., Any]:
    """The same act, after which the one who asked for it is revoked at once."""

    def acting(*arguments: Any, **named: Any) -> Any:
        made.append(act(*arguments, **named))
        Tokens(server.bucket).revoke(who.token_id, now_ns=1)
        return made[-1]

    return acting


BAD_WISHES: dict[str, list[Any]] = {
    "/v1/tokens": [
        {},
        {"name": "Bob"},
        {"scopes": ["read"]},
        {"name": 5, "scopes": ["read"]},
        {"name": "", "scopes": ["read"]},
        {"name": "\ud800", "scopes": ["read"]},
        {"name": "Bob", "scopes": "read"},
        {"name": "Bob", "scopes": []},
        {"name": "Bob", "scopes": [["read"]]},
        {"name": "Bob", "scopes": ["write"]},
        {"name": "Bob", "scopes": ["read"], "days": "1"},
        {"name": "Bob", "scopes": ["read"], "days": True},
        {"name": "Bob", "scopes": ["read"], "days": 0},
        {"name": "Bob", "scopes": ["read"], "days": 10**300},
        {"name": "Bob", "scopes": ["read"], "day": 1},
    ],
    "/v1/robots/g1-001/invitations": [
        {"lifetime_s": 0},
        {"lifetime_s": 1.5},
        {"lifetime_s": "60"},
        {"lifetime_s": True},
        {"lifetime_s": 10**12},
        {"lifetime": 60},
    ],
    "/v1/robots/g1-001/revoke": [{"really": True}],
}
NO_OBJECTS = [b"[]", b"null", b"5", b'"x"', b"{", b"\xff", b"[" * 4000, b"1" * 4000, b'{"a": NaN, "a": 1}']


def test_a_body_of_another_form_is_refused_and_nothing_is_done(server: Server, admin: Holder) -> None:
    server.new_robot()
    before = server.bucket.names("registry"), server.bucket.names("audit")
    for path, wishes in BAD_WISHES.items():
        for wish in wishes:
            assert refusal(admin.send("POST", path, body=json.dumps(wish).encode())) == (400, "bad_body"), wish
        for body in NO_OBJECTS:
            assert refusal(admin.send("POST", path, body=body)) == (400, "bad_body"), body
        assert refusal(admin.send("POST", path, body=b" " * 4097)) == (413, "too_large")
    assert (server.bucket.names("registry"), server.bucket.names("audit")) == before


@pytest.mark.parametrize("path", ["/v1/tokens", "/v1/registry/robots", "/v1/quarantine", "/v1/audit"])
def test_a_page_that_cannot_be_is_refused(admin: Holder, path: str) -> None:
    for query in ({"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"cursor": "a" * 1025}):
        assert refusal(admin.send("GET", path, **query)) == (400, "bad_parameter")
    if path != "/v1/registry/robots":  # there any text has a place
        for cursor in ("x", "../..", "raw/../x/y/0000000000", "a//b", "\x00"):
            assert refusal(admin.send("GET", path, cursor=cursor)) == (400, "bad_parameter"), cursor


class TestQuarantine:
    def test_conflicts_and_quarantined_segments_are_one_list(
        self, server: Server, admin: Holder, storage: Storage
    ) -> None:
        robot = server.new_robot()
        for seq in range(3):
            assert uploads(robot, seq=seq)
            other = MAGIC + f"other bytes for {seq}".encode() + MAGIC
            assert refusal(robot.send(robot.upload(other, seq=seq))) == (409, "conflict")
        publish(storage, ["ok", "quarantined", "ok", "quarantined"])
        items = admin.all("/v1/quarantine", "items")
        assert [one["kind"] for one in items] == ["conflict"] * 3 + ["quarantined"] * 2
        key = f"g1-001/{RECORDING}/telemetry"
        assert [one["segment"] for one in items[:3]] == [f"raw/{key}/{seq:010d}" for seq in range(3)]
        assert all(re.fullmatch(rf"conflicts/{key}/\d{{10}}/[0-9a-f]{{64}}", one["key"]) for one in items[:3])
        assert all(server.bucket.read(one["key"]) for one in items[:3])
        assert [(one["key"], one["reason"]) for one in items[3:]] == [
            (f"raw/h1/{RECORDING}/head/{seq:010d}", "it is damaged") for seq in (1, 3)
        ]
        for limit in (1, 2, 3):
            assert admin.all("/v1/quarantine", "items", limit=limit) == items

    def test_a_lake_without_an_index_has_only_conflicts(self, admin: Holder) -> None:
        assert admin.get("/v1/quarantine") == {"items": [], "next": None}


def publish(storage: Storage, states: list[str]) -> None:
    """An index with one segment of robot h1 in each of these states."""
    rows = [
        {"key": f"raw/h1/{RECORDING}/head/{seq:010d}", "state": state, "bytes": 10, "sha256": "ab" * 32}
        | {"received_ns": seq, "reason": None if state == "ok" else "it is damaged"}
        for seq, state in enumerate(states)
    ]
    table = pa.Table.from_pylist(rows, schema=schema.SEGMENTS)
    uri = versions.table_uri(storage, versions.SEGMENTS, "segments")
    options: dict[str, Any] = {"storage_options": storage.lance_options(), "enable_stable_row_ids": True}
    version = lance.write_dataset(table, uri, data_storage_version=schema.DATA_STORAGE_VERSION, **options).version
    versions.publish(storage, versions.SEGMENTS, Manifest(1, {"segments": int(version)}))


class TestAudit:
    def test_what_people_and_robots_did_is_read_in_order(self, server: Server, admin: Holder) -> None:
        token = admin.send("POST", "/v1/robots/g1-001/invitations").json()["token"]
        robot = Robot(server, "g1-001", Ed25519PrivateKey.generate())
        robot.enrol(token)
        admin.send("DELETE", f"/v1/robots/g1-001/keys/{robot.kid}")
        entries = admin.all("/v1/audit", "entries")
        assert [one["act"] for one in entries] == ["make_token", "invite", "enrol", "revoke_key"]
        by_admin = {"kind": "person", "id": admin.token_id, "name": "Ada"}
        by_robot = {"kind": "robot", "id": robot.kid, "name": "g1-001"}
        assert [one["actor"] for one in entries[1:]] == [by_admin, by_robot, by_admin]
        assert admin.all("/v1/audit", "entries", limit=1) == entries
        later = admin.all("/v1/audit", "entries", start=entries[2]["t_ns"])
        assert later == entries[2:]
        assert admin.get("/v1/audit", end=entries[2]["t_ns"])["entries"] == entries[:2]
        assert admin.get("/v1/audit", start="2020-01-01", end="2020-01-02T00:00:00Z")["entries"] == []

    @pytest.mark.parametrize(
        "query", [{"start": "x"}, {"end": "-1"}, {"start": 5, "end": 5}, {"end": "9999-12-31"}, {"start": 2**64}]
    )
    def test_a_time_that_cannot_be_is_refused(self, admin: Holder, query: dict[str, Any]) -> None:
        assert refusal(admin.send("GET", "/v1/audit", **query)) == (400, "bad_parameter")
