"""Key rotation: a key that counts lets a new one in, which then retires the old one; nothing else does."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataset_catalog.storage import Storage
from edge import signing, wire
from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused
from ingest_serve.registry import Registry
from ingest_serve.settings import IngestSettings
from tests.ingest_serve.conftest import Robot, Server, Upload, refusal, serve

NOW_NS = 1_760_000_000_000_000_000


@pytest.fixture
def server(storage: Storage) -> Iterator[Server]:
    """A server that looks every key up, so that a retirement shows at once."""
    with serve(storage, IngestSettings(key_cache_s=0)) as running:
        yield running


def with_new_key(robot: Robot) -> Robot:
    """The same robot, signing with a key that the server does not know yet."""
    return replace(robot, key=Ed25519PrivateKey.generate())


def public(robot: Robot) -> str:
    return base64.b64encode(signing.public_bytes(robot.key.public_key())).decode()


def addition(robot: Robot, new: Robot, **changes: Any) -> Upload:
    """The request, signed by `robot`, that makes the key of `new` known."""
    target = wire.keys_target(robot.name)
    fields = {"public_key": public(new), "proof": new.token(target, "")} | changes
    return robot.upload(json.dumps(fields).encode(), target=target, content_type="application/json")


def add(robot: Robot, new: Robot, **changes: Any) -> requests.Response:
    return robot.send(addition(robot, new, **changes))


def retire(robot: Robot, kid: str, *, name: str = "g1-001") -> requests.Response:
    return robot.send(robot.signed(Upload(f"/v1/robots/{name}/keys/{kid}", {}, b"", "DELETE")))


def counts(robot: Robot) -> bool:
    """Whether an upload signed with this key is taken."""
    response = robot.send(robot.upload())
    assert response.status_code in (200, 201) or refusal(response) == (401, "unknown_key")
    return response.status_code != 401


class TestRotation:
    def test_a_robot_changes_its_key(self, robot: Robot) -> None:
        new = with_new_key(robot)
        assert not counts(new)
        response = add(robot, new)
        assert (response.status_code, response.json()) == (201, {"robot": "g1-001", "key_id": new.kid})
        assert counts(robot)
        assert counts(new)
        assert retire(new, robot.kid).status_code == 204
        assert not counts(robot)
        assert counts(new)

    def test_lost_replies_do_no_harm(self, robot: Robot) -> None:
        new = with_new_key(robot)
        assert [add(robot, new).status_code for _ in range(3)] == [201, 200, 200]
        assert add(new, new).status_code == 200
        assert [retire(new, robot.kid).status_code for _ in range(3)] == [204] * 3

    def test_the_registry_says_which_key_let_another_in(self, server: Server, robot: Robot) -> None:
        new = with_new_key(robot)
        add(robot, new)
        found = server.bucket.read(f"registry/robots/g1-001/keys/{new.kid}.json")
        assert found is not None
        assert json.loads(found[1])["signed_by"] == robot.kid
        assert Registry(server.bucket).robots() == {"g1-001": sorted([robot.kid, new.kid])}


class TestNewKeyRefused:
    def test_a_key_that_is_not_known_lets_no_other_in(self, robot: Robot) -> None:
        stranger, new = with_new_key(robot), with_new_key(robot)
        assert refusal(add(stranger, new)) == (401, "unknown_key")
        assert refusal(add(new, new)) == (401, "unknown_key")
        assert not counts(new)

    def test_a_retired_key_lets_no_other_in_even_where_it_is_cached(self, storage: Storage) -> None:
        with serve(storage, IngestSettings(key_cache_s=3600)) as caching:
            old = caching.new_robot()
            new, later = with_new_key(old), with_new_key(old)
            assert counts(old)  # and is cached now
            add(old, new)
            retire(new, old.kid)
            assert counts(old)  # for an upload, as long as the view of what was revoked is trusted
            assert refusal(add(old, later)) == (401, "unknown_key")
            assert refusal(retire(old, new.kid)) == (401, "unknown_key")

    def test_another_robot_lets_no_key_in(self, server: Server, robot: Robot) -> None:
        other, new = server.new_robot("g1-002"), with_new_key(robot)
        assert refusal(other.send(other.signed(addition(robot, new)))) == (403, "wrong_robot")
        posing = replace(other, name="g1-001")
        assert refusal(posing.send(posing.signed(addition(robot, new)))) == (401, "unknown_key")
        assert not counts(new)

    def test_one_must_hold_the_key_that_one_makes_known(self, server: Server, robot: Robot) -> None:
        new, target = with_new_key(robot), wire.keys_target("g1-001")
        digest = wire.content_digest(b"\x00" * 32)
        wrong = {
            "signed by the old key": robot.token(target, ""),
            "of another method": new.token(target, "", method="DELETE"),
            "of another target": new.token(f"{target}/{new.kid}", ""),
            "of another digest": new.token(target, digest),
            "of another robot": replace(new, name="g1-002").token(wire.keys_target("g1-002"), ""),
            "of a piece": new.token(target, "", upload=";?0"),
            "no token": "a.b.c",
            "empty": "",
        }
        for proof in wrong.values():
            assert refusal(add(robot, new, proof=proof)) == (400, "bad_new_key")
        assert not counts(new)

    def test_an_old_proof_is_a_matter_of_clocks(self, server: Server, robot: Robot) -> None:
        new = with_new_key(robot)
        proof = new.token(wire.keys_target("g1-001"), "")
        server.clock.offset_ns = 3600 * 10**9
        assert refusal(add(robot, new, proof=proof)) == (401, "clock")
        assert add(robot, new).status_code == 201

    @pytest.mark.parametrize(
        "changes",
        [{"proof": 5}, {"proof": None}, {"proof": "ä"}, {"public_key": "short"}, {"public_key": 7}, {"public_key": ""}],
    )
    def test_a_body_of_another_form_is_refused(self, robot: Robot, changes: dict[str, object]) -> None:
        assert refusal(add(robot, with_new_key(robot), **changes)) == (400, "bad_new_key")

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"{}", b"\xff", b"[" * 4000])
    def test_a_body_that_is_no_object_is_refused(self, robot: Robot, body: bytes) -> None:
        upload = robot.upload(body, target=wire.keys_target("g1-001"))
        assert refusal(robot.send(upload)) == (400, "bad_new_key")

    def test_a_large_body_is_refused_unread(self, robot: Robot) -> None:
        upload = robot.upload(b" " * 5000, target=wire.keys_target("g1-001"))
        assert refusal(robot.send(upload)) == (413, "too_large")

    def test_a_body_that_changed_on_the_way_is_refused(self, robot: Robot) -> None:
        upload = addition(robot, with_new_key(robot))
        assert refusal(robot.send(replace(upload, body=upload.body.replace(b"A", b"B")))) == (400, "digest_mismatch")

    def test_a_retired_key_never_counts_again(self, robot: Robot) -> None:
        new = with_new_key(robot)
        add(robot, new)
        retire(robot, new.kid)
        assert refusal(add(robot, new)) == (409, "key_retired")
        assert not counts(new)


class TestRetirementRefused:
    def test_a_key_does_not_retire_itself(self, robot: Robot) -> None:
        assert refusal(retire(robot, robot.kid)) == (409, "key_in_use")
        assert counts(robot)

    @pytest.mark.parametrize("kid", ["0123456789abcdef", "short", "0123456789ABCDEF", "a" * 5_000, "%00"])
    def test_a_key_that_never_was_cannot_be_retired(self, robot: Robot, kid: str) -> None:
        assert refusal(retire(robot, kid)) == (404, "unknown_key_id")

    def test_another_robot_retires_no_key(self, server: Server, robot: Robot) -> None:
        other = server.new_robot("g1-002")
        assert refusal(retire(other, robot.kid)) == (403, "wrong_robot")
        assert refusal(retire(replace(other, name="g1-001"), robot.kid)) == (401, "unknown_key")
        assert refusal(retire(other, robot.kid, name="g1-002")) == (404, "unknown_key_id")
        assert counts(robot)

    def test_a_retired_key_retires_no_other(self, robot: Robot) -> None:
        new = with_new_key(robot)
        add(robot, new)
        retire(new, robot.kid)
        assert refusal(retire(robot, new.kid)) == (401, "unknown_key")
        assert counts(new)

    def test_a_bad_robot_name_is_refused(self, robot: Robot) -> None:
        assert refusal(retire(robot, robot.kid, name="G1")) == (400, "bad_name")


def test_a_key_added_to_the_registry_counts_until_it_is_revoked(bucket: Bucket) -> None:
    registry = Registry(bucket)
    key = signing.public_bytes(Ed25519PrivateKey.generate().public_key())
    kid = signing.key_id(key)
    added = [registry.add_key("g1-001", key, signed_by="0" * 16, now_ns=NOW_NS).is_new for _ in range(2)]
    assert added == [True, False]
    assert registry.find_key("g1-001", kid) is not None
    assert registry.find_key("g1-002", kid) is None
    registry.revoke("g1-001", kid, now_ns=NOW_NS)
    with pytest.raises(Refused, match="never counts again"):
        registry.add_key("g1-001", key, signed_by="0" * 16, now_ns=NOW_NS)
