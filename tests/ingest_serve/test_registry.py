"""Enrolment: one token lets one key in, however often the robot has to ask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.errors import BadName
from edge.signing import key_id, public_bytes
from ingest_serve.audit import Actor
from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused, StorageUnavailable
from ingest_serve.registry import Registry, Revoked, invite
from tests.ingest_serve.conftest import Robot, Server

NOW_NS = 1_760_000_000_000_000_000
KEYS = [public_bytes(Ed25519PrivateKey.generate().public_key()) for _ in range(4)]


@pytest.fixture
def registry(bucket: Bucket) -> Registry:
    return Registry(bucket)


def test_an_enrolled_key_counts(registry: Registry) -> None:
    token = invite(registry, "g1-001", now_ns=NOW_NS)
    enrolled = registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=NOW_NS)
    assert (enrolled.key_id, enrolled.is_new) == (key_id(KEYS[0]), True)
    found = registry.find_key("g1-001", enrolled.key_id)
    assert found is not None
    assert public_bytes(found) == KEYS[0]
    assert registry.find_key("g1-002", enrolled.key_id) is None


def test_lost_reply_of_an_enrolment_does_no_harm(registry: Registry) -> None:
    token = invite(registry, "g1-001", now_ns=NOW_NS, lifetime_s=60)
    registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=NOW_NS)
    late_ns = NOW_NS + 3600 * 10**9
    assert not registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=late_ns).is_new


def test_an_enrolment_cut_off_in_the_middle_is_finished_by_its_repetition(registry: Registry, bucket: Bucket) -> None:
    token = invite(registry, "g1-001", now_ns=NOW_NS)
    kid = registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=NOW_NS).key_id
    bucket.delete(f"registry/robots/g1-001/keys/{kid}.json")
    assert registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=NOW_NS).is_new
    assert registry.find_key("g1-001", kid) is not None


def test_a_token_lets_only_one_of_many_keys_in(registry: Registry) -> None:
    token = invite(registry, "g1-001", now_ns=NOW_NS)

    def outcome(key: bytes) -> str:
        try:
            return registry.enrol(token, robot="g1-001", public_key=key, now_ns=NOW_NS).key_id
        except Refused as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(outcome, KEYS))
    assert outcomes.count("enrolment_used") == 3
    assert len(registry.robots()["g1-001"]) == 1


@pytest.mark.parametrize(
    ("robot", "token", "late_s", "code"),
    [
        ("g1-002", None, 0, "enrolment_unknown"),
        ("g1-001", "never given out", 0, "enrolment_unknown"),
        ("g1-001", "../robots", 0, "enrolment_unknown"),
        ("g1-001", None, 60, "enrolment_expired"),
    ],
)
def test_a_token_that_is_not_good_is_refused(
    registry: Registry, robot: str, token: str | None, late_s: int, code: str
) -> None:
    given = invite(registry, "g1-001", now_ns=NOW_NS, lifetime_s=60)
    with pytest.raises(Refused) as refused:
        registry.enrol(token or given, robot=robot, public_key=KEYS[0], now_ns=NOW_NS + late_s * 10**9)
    assert refused.value.code == code
    assert registry.robots() == {}


def test_only_the_hash_of_a_token_is_kept(registry: Registry, bucket: Bucket) -> None:
    token = invite(registry, "g1-001", now_ns=NOW_NS)
    for name in bucket.names("registry"):
        found = bucket.read(f"registry/{name}")
        assert found is not None
        assert token not in name
        assert token.encode() not in found[1]


def test_no_one_is_invited_under_a_bad_name(registry: Registry) -> None:
    with pytest.raises(BadName):
        invite(registry, "../g1", now_ns=NOW_NS)


def test_a_revoked_key_does_not_come_back_by_enrolling_again(registry: Registry) -> None:
    token = invite(registry, "g1-001", now_ns=NOW_NS)
    kid = registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=NOW_NS).key_id
    assert registry.revoke("g1-001", kid, now_ns=NOW_NS)
    for given in (token, invite(registry, "g1-001", now_ns=NOW_NS)):
        with pytest.raises(Refused) as refused:
            registry.enrol(given, robot="g1-001", public_key=KEYS[0], now_ns=NOW_NS)
        assert refused.value.code == "key_retired"
    assert registry.find_key("g1-001", kid) is None
    assert registry.robots() == {"g1-001": []}
    assert not registry.revoke("g1-001", "0" * 16, now_ns=NOW_NS)


def test_a_robot_may_have_a_new_key_beside_the_old(registry: Registry) -> None:
    for key in KEYS[:2]:
        token = invite(registry, "g1-001", now_ns=NOW_NS)
        registry.enrol(token, robot="g1-001", public_key=key, now_ns=NOW_NS)
    assert registry.robots() == {"g1-001": sorted(key_id(key) for key in KEYS[:2])}


class Between(Bucket):
    """A bucket in which something else happens, once, right after the first object is created below `prefix`."""

    def __init__(self, bucket: Bucket, prefix: str, happens: Callable[[], object]) -> None:
        super().__init__(bucket._store, bucket._put)
        self._prefix, self._happens = prefix, [happens]

    def create(self, key: str, body: bytes) -> bool:
        is_new = super().create(key, body)
        if key.startswith(self._prefix) and not key.startswith("audit") and self._happens:
            self._happens.pop()()
        return is_new


def enrolled(registry: Registry, key: bytes, robot: str = "g1-001") -> str:
    token = invite(registry, robot, now_ns=NOW_NS)
    return registry.enrol(token, robot=robot, public_key=key, now_ns=NOW_NS).key_id


class TestRobotRevoked:
    def test_every_key_and_every_unused_invitation_ends_and_no_other_robot_s(self, registry: Registry) -> None:
        kids = sorted(enrolled(registry, key) for key in KEYS[:2])
        other = enrolled(registry, KEYS[2], "g1-002")
        unused = invite(registry, "g1-001", now_ns=NOW_NS)
        of_other = invite(registry, "g1-002", now_ns=NOW_NS)
        assert registry.revoke_robot("g1-001", now_ns=NOW_NS) == Revoked(tuple(kids), 1)
        assert registry.robots() == {"g1-001": [], "g1-002": [other]}
        with pytest.raises(Refused) as refused:
            registry.enrol(unused, robot="g1-001", public_key=KEYS[3], now_ns=NOW_NS)
        assert refused.value.code == "enrolment_revoked"
        registry.enrol(of_other, robot="g1-002", public_key=KEYS[3], now_ns=NOW_NS)
        assert registry.revoke_robot("g1-001", now_ns=NOW_NS) == Revoked((), 0)

    def test_only_a_new_invitation_and_a_new_key_let_it_in_again(self, registry: Registry) -> None:
        token = invite(registry, "g1-001", now_ns=NOW_NS)
        registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=NOW_NS)
        registry.revoke_robot("g1-001", now_ns=NOW_NS)
        for given in (token, invite(registry, "g1-001", now_ns=NOW_NS)):
            with pytest.raises(Refused) as refused:
                registry.enrol(given, robot="g1-001", public_key=KEYS[0], now_ns=NOW_NS)
            assert refused.value.code == "key_retired"
        kid = enrolled(registry, KEYS[1])
        assert registry.robots() == {"g1-001": [kid]}

    def test_a_robot_with_nothing_but_an_invitation_is_known(self, registry: Registry) -> None:
        assert registry.revoke_robot("g1-001", now_ns=NOW_NS) is None
        invite(registry, "g1-001", now_ns=NOW_NS)
        assert registry.revoke_robot("g1-001", now_ns=NOW_NS) == Revoked((), 1)

    def test_a_revocation_that_was_cut_off_is_finished_by_its_repetition(
        self, registry: Registry, bucket: Bucket
    ) -> None:
        kid = enrolled(registry, KEYS[0])
        registry.revoke_robot("g1-001", now_ns=NOW_NS)
        bucket.delete(f"registry/revoked/g1-001/{kid}")  # as if it had ended before its last step
        registry.revoke_robot("g1-001", now_ns=NOW_NS)
        assert bucket.names("registry/revoked") == [f"g1-001/{kid}"]

    def test_a_key_that_is_let_in_meanwhile_ends_too(self, registry: Registry, bucket: Bucket) -> None:
        old = enrolled(registry, KEYS[0])
        within = Between(bucket, "registry/robots", lambda: registry.revoke(*("g1-001", old), now_ns=NOW_NS))
        with pytest.raises(Refused) as refused:  # its signer ended after it signed, before the new key was there
            Registry(within).add_key("g1-001", KEYS[1], signed_by=old, now_ns=NOW_NS)
        assert refused.value.code == "unknown_key"
        assert registry.robots() == {"g1-001": []}

    def test_a_key_that_ends_the_one_that_let_it_in_goes_on(self, registry: Registry, bucket: Bucket) -> None:
        """A robot's repeated request may be behind: the new key counts already, and has retired the old one."""
        old, new = enrolled(registry, KEYS[0]), key_id(KEYS[1])
        robot = Actor("robot", new, "g1-001")
        within = Between(bucket, "registry/robots", lambda: registry.revoke("g1-001", old, now_ns=NOW_NS, actor=robot))
        Registry(within).add_key("g1-001", KEYS[1], signed_by=old, now_ns=NOW_NS)
        assert registry.robots() == {"g1-001": [new]}

    def test_an_enrolment_that_is_under_way_does_not_survive(self, registry: Registry, bucket: Bucket) -> None:
        token = invite(registry, "g1-001", now_ns=NOW_NS)
        within = Between(bucket, "registry/enrolments", lambda: registry.revoke_robot("g1-001", now_ns=NOW_NS))
        with pytest.raises(Refused) as refused:
            Registry(within).enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=NOW_NS)
        assert refused.value.code == "key_retired"
        assert registry.robots() == {"g1-001": []}

    def test_no_key_counts_however_the_robot_goes_on_changing_it(self, registry: Registry) -> None:
        """Many at once: each key lets the next one in, while the robot is revoked."""
        keys = [public_bytes(Ed25519PrivateKey.generate().public_key()) for _ in range(12)]
        kids = [enrolled(registry, KEYS[0]), *map(key_id, keys)]

        def let_in(n: int) -> None:
            with contextlib.suppress(Refused):
                if registry.find_key("g1-001", kids[n]) is not None:  # what a route checks
                    registry.add_key("g1-001", keys[n], signed_by=kids[n], now_ns=NOW_NS)

        def chain() -> None:
            for n in range(len(keys)):
                let_in(n)

        with ThreadPoolExecutor(4) as pool:
            chains = [pool.submit(chain) for _ in range(3)]
            revoked = pool.submit(registry.revoke_robot, "g1-001", now_ns=NOW_NS)
            for work in [*chains, revoked]:
                work.result(timeout=60)
        assert registry.robots() == {"g1-001": []}


def test_robots_are_listed_page_by_page(registry: Registry) -> None:
    names = ["g1", "g1-001", "g1.5", "h1"]
    kids = {name: enrolled(registry, key, name) for name, key in zip(names, KEYS, strict=True)}
    assert registry.robots() == {name: [kid] for name, kid in kids.items()}
    assert list(registry.robots(limit=2)) == names[:2]
    assert list(registry.robots(after="g1-001", limit=5)) == names[2:]


def test_what_cannot_be_read_lets_nobody_in(registry: Registry, bucket: Bucket) -> None:
    kid = enrolled(registry, KEYS[0])
    bucket.overwrite(f"registry/robots/g1-001/keys/{kid}.json", b"{")
    with pytest.raises(StorageUnavailable, match="cannot be read"):
        registry.find_key("g1-001", kid)


class TestOverHttp:
    def test_another_robot_s_token_is_refused(self, server: Server) -> None:
        token = invite(Registry(server.bucket), "g1-002", now_ns=server.clock())
        response = Robot(server, "g1-001", Ed25519PrivateKey.generate()).enrol(token)
        assert (response.status_code, response.json()["code"]) == (403, "enrolment_unknown")

    def test_the_same_robot_may_repeat_and_another_key_may_not(self, server: Server) -> None:
        token = invite(Registry(server.bucket), "g1-001", now_ns=server.clock())
        robot = Robot(server, "g1-001", Ed25519PrivateKey.generate())
        assert [robot.enrol(token).status_code for _ in range(2)] == [201, 200]
        thief = replace(robot, key=Ed25519PrivateKey.generate())
        response = thief.enrol(token)
        assert (response.status_code, response.json()["code"]) == (403, "enrolment_used")

    def test_one_must_hold_the_key_that_one_enrols(self, server: Server, robot: Robot) -> None:
        token = invite(Registry(server.bucket), "g1-001", now_ns=server.clock())
        thief = replace(robot, key=Ed25519PrivateKey.generate())
        public = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
        response = thief.enrol(token, public_key=public)
        assert (response.status_code, response.json()["code"]) == (401, "bad_signature")

    @pytest.mark.parametrize(
        "changes",
        [{"token": 5}, {"token": None}, {"token": "ä"}, {"public_key": "short"}, {"public_key": 7}, {"public_key": ""}],
    )
    def test_an_enrolment_of_another_form_is_refused(self, server: Server, changes: dict[str, object]) -> None:
        response = Robot(server, "g1-001", Ed25519PrivateKey.generate()).enrol("token", **changes)
        assert (response.status_code, response.json()["code"]) == (400, "bad_enrolment")

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 4000])
    def test_an_enrolment_that_is_no_object_is_refused(self, server: Server, body: bytes) -> None:
        robot = Robot(server, "g1-001", Ed25519PrivateKey.generate())
        response = robot.send(robot.upload(body, target="/v1/robots/g1-001/enrol"))
        assert (response.status_code, response.json()["code"]) == (400, "bad_enrolment")

    def test_a_large_enrolment_is_refused_unread(self, server: Server) -> None:
        robot = Robot(server, "g1-001", Ed25519PrivateKey.generate())
        response = robot.send(robot.upload(b" " * 5000, target="/v1/robots/g1-001/enrol"))
        assert (response.status_code, response.json()["code"]) == (413, "too_large")


def test_a_token_can_be_pasted_into_a_command(registry: Registry) -> None:
    tokens = [invite(registry, "h1-amber", now_ns=0) for _ in range(5)]
    assert len(set(tokens)) == 5
    assert all(token.startswith("enrol-") for token in tokens)
