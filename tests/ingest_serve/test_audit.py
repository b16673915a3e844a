"""Every act is written down before it is done, by whom and on what, and is read back in order."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.signing import key_id, public_bytes
from ingest_serve.audit import Actor, Audit, who_runs_this
from ingest_serve.bucket import Bucket
from ingest_serve.errors import Refused, StorageUnavailable
from ingest_serve.registry import Registry, invite
from ingest_serve.tokens import Tokens

ADA = Actor("person", "0123456789abcdef", "Ada")
DAY_NS = 86_400 * 10**9
MIDNIGHT_NS = 1_760_054_400 * 10**9  # 2025-10-10T00:00:00Z
KEYS = [public_bytes(Ed25519PrivateKey.generate().public_key()) for _ in range(2)]
KIDS = [key_id(key) for key in KEYS]


@pytest.fixture
def audit(bucket: Bucket) -> Audit:
    return Audit(bucket)


def test_an_act_is_read_back_as_it_was_written(audit: Audit, bucket: Bucket) -> None:
    audit.record("make_token", actor=ADA, subject="tokens/x", now_ns=MIDNIGHT_NS, scopes=["read"])
    (entry,) = audit.read(limit=10)
    assert (entry.t_ns, entry.actor, entry.act, entry.subject) == (MIDNIGHT_NS, ADA, "make_token", "tokens/x")
    assert entry.details == {"scopes": ["read"]}
    (name,) = bucket.names("audit")
    assert name.startswith(f"2025-10-10/{MIDNIGHT_NS:020d}-")
    assert entry.cursor == name


def test_acts_come_in_order_across_days_in_pages_and_half_open_ranges(audit: Audit) -> None:
    times = [MIDNIGHT_NS + n * DAY_NS // 2 for n in range(-3, 4)]
    for time_ns in reversed(times):
        audit.record("act", actor=ADA, subject="x", now_ns=time_ns)
    read, cursor = [], None
    while page := audit.read(after=cursor, limit=3):
        read += page
        cursor = page[-1].cursor
    assert [entry.t_ns for entry in read] == times
    assert [one.t_ns for one in audit.read(start_ns=times[2], end_ns=times[4], limit=10)] == times[2:4]
    assert audit.read(start_ns=times[-1] + 1, limit=10) == []
    assert [one.t_ns for one in audit.read(start_ns=0, end_ns=times[1], limit=10)] == times[:1]


def test_acts_at_the_same_moment_are_all_kept(audit: Audit) -> None:
    for n in range(5):
        audit.record("act", actor=ADA, subject=str(n), now_ns=MIDNIGHT_NS)
    assert {one.subject for one in audit.read(limit=10)} == set("01234")


def test_whoever_runs_a_command_is_named() -> None:
    actor = who_runs_this()
    assert actor.kind == "cli"
    assert actor.id.startswith(f"{actor.name}@")


def acts(audit: Audit) -> list[tuple[str, str, str]]:
    return [(one.act, one.actor.kind, one.subject) for one in audit.read(limit=100)]


def test_every_way_in_and_out_leaves_its_entry(bucket: Bucket, audit: Audit) -> None:
    registry, tokens, at = Registry(bucket), Tokens(bucket), iter(range(MIDNIGHT_NS, MIDNIGHT_NS + 100))
    token = registry.invite("g1-001", now_ns=next(at), actor=ADA).token
    registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=next(at))
    registry.add_key("g1-001", KEYS[1], signed_by=KIDS[0], now_ns=next(at))
    registry.revoke("g1-001", KIDS[0], now_ns=next(at), actor=Actor("robot", KIDS[1], "g1-001"))
    registry.revoke_robot("g1-001", now_ns=next(at), actor=ADA)
    given, _ = tokens.create("Bob", scopes=["read"], now_ns=next(at), actor=ADA)
    tokens.revoke(given.token_id, now_ns=next(at))
    keys = [f"robots/g1-001/keys/{kid}" for kid in KIDS]
    assert acts(audit) == [
        ("invite", "person", "robots/g1-001"),
        ("enrol", "robot", keys[0]),
        ("add_key", "robot", keys[1]),
        ("revoke_key", "robot", keys[0]),
        ("revoke_robot", "person", "robots/g1-001"),
        ("make_token", "person", f"tokens/{given.token_id}"),
        ("revoke_token", "cli", f"tokens/{given.token_id}"),
    ]


def test_what_changes_nothing_leaves_no_entry(bucket: Bucket, audit: Audit) -> None:
    registry, tokens = Registry(bucket), Tokens(bucket)
    token = invite(registry, "g1-001", now_ns=1)
    registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=2)
    registry.add_key("g1-001", KEYS[1], signed_by=KIDS[0], now_ns=3)
    registry.revoke("g1-001", KIDS[1], now_ns=4)
    given, _ = tokens.create("Bob", scopes=["read"], now_ns=5)
    tokens.revoke(given.token_id, now_ns=6)
    before = acts(audit)
    registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=7)
    registry.add_key("g1-001", KEYS[0], signed_by=KIDS[0], now_ns=8)
    registry.revoke("g1-001", KIDS[1], now_ns=9)
    tokens.revoke(given.token_id, now_ns=10)
    assert not tokens.revoke("0" * 16, now_ns=11)
    assert registry.revoke_robot("g1-002", now_ns=12) is None
    with pytest.raises(Refused):
        registry.enrol("never given out", robot="g1-001", public_key=KEYS[0], now_ns=13)
    assert acts(audit) == before


def test_no_entry_holds_a_secret(bucket: Bucket) -> None:
    registry = Registry(bucket)
    token = invite(registry, "g1-001", now_ns=1)
    registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=2)
    _, text = Tokens(bucket).create("Bob", scopes=["admin"], now_ns=3)
    secrets = [token.removeprefix("enrol-").encode(), text[21:].encode()]
    for name in bucket.names("audit"):
        found = bucket.read(f"audit/{name}")
        assert found is not None
        assert not any(secret in found[1] for secret in secrets)


class Silent(Bucket):
    """A bucket that takes everything but the log."""

    def create(self, key: str, body: bytes) -> bool:
        if key.startswith("audit/"):
            raise StorageUnavailable("the log cannot be written")
        return super().create(key, body)


def test_no_act_is_done_that_cannot_be_written_down(bucket: Bucket) -> None:
    registry, tokens = Registry(bucket), Tokens(bucket)
    token = invite(registry, "g1-001", now_ns=1)
    unused = invite(registry, "g1-001", now_ns=1)
    registry.enrol(token, robot="g1-001", public_key=KEYS[0], now_ns=2)
    given, _ = tokens.create("Bob", scopes=["read"], now_ns=3)
    silent, mute = Registry(Silent(bucket._store, bucket._put)), Tokens(Silent(bucket._store, bucket._put))
    attempts: list[Callable[[], object]] = [
        lambda: invite(silent, "g1-001", now_ns=4),
        lambda: silent.enrol(unused, robot="g1-001", public_key=KEYS[1], now_ns=4),
        lambda: silent.add_key("g1-001", KEYS[1], signed_by=KIDS[0], now_ns=4),
        lambda: silent.revoke("g1-001", KIDS[0], now_ns=4),
        lambda: silent.revoke_robot("g1-001", now_ns=4),
        lambda: mute.create("Eve", scopes=["admin"], now_ns=4),
        lambda: mute.revoke(given.token_id, now_ns=4),
    ]
    before = {name: bucket.read(f"registry/{name}") for name in bucket.names("registry")}
    for attempt in attempts:
        with pytest.raises(StorageUnavailable):
            attempt()
    after = {name: bucket.read(f"registry/{name}") for name in bucket.names("registry")}
    assert {name: found and found[1] for name, found in after.items()} == {
        name: found and found[1] for name, found in before.items()
    }


def test_an_entry_that_cannot_be_read_is_told(audit: Audit, bucket: Bucket) -> None:
    bucket.create(f"audit/2025-10-10/{MIDNIGHT_NS:020d}-{'0' * 16}.json", json.dumps({"t_ns": 1}).encode())
    with pytest.raises(StorageUnavailable, match="cannot be read"):
        audit.read(limit=10)
