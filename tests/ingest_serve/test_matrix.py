"""Nobody gets in where they don't belong: every route of the application against every wrong token.

The routes are taken from the application, so that one without an entry in `ENTRIES` fails.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.routing import APIRoute

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from edge import signing, wire
from ingest_serve.app import create_app
from ingest_serve.registry import Registry, invite
from ingest_serve.settings import IngestSettings
from ingest_serve.tokens import SCOPES
from tests.ingest_serve.acting import Holder, holder
from tests.ingest_serve.conftest import BODY, START_NS, Robot, Server, Upload, refusal, serve

HOUR_NS = 3600 * 10**9
# not "arrivals": hints of what is stored come some seconds later
ROOTS = ("raw", "conflicts", "uploads", "registry", "audit", "lake", "datasets", "probes")
ROBOT = "/v1/robots/{robot}"
CLIP = f"stream=head&start={START_NS}&end={START_NS + 10**9}"

Outcome = tuple[int, str | None]
BAD_SIGNATURE: Outcome = (401, "bad_signature")
CLOCK: Outcome = (401, "clock")


@dataclass
class World:
    """A server with two robots, keys of the first that no longer count, and people of every kind."""

    server: Server
    robot: Robot = field(init=False)
    other: Robot = field(init=False)
    revoked: Robot = field(init=False)
    retired: Robot = field(init=False)
    people: dict[str, Holder] = field(init=False)
    revoked_people: dict[str, Holder] = field(init=False)
    expired_people: dict[str, Holder] = field(init=False)
    _seq: int = 0

    def __post_init__(self) -> None:
        self.robot, self.other = self.server.new_robot(), self.server.new_robot("g1-002")
        self.revoked, self.retired = self.new_key(), self.new_key()
        assert Registry(self.server.bucket).revoke("g1-001", self.revoked.kid, now_ns=1)
        retire = Upload(f"/v1/robots/g1-001/keys/{self.retired.kid}", {}, b"", "DELETE")
        assert self.robot.send(self.robot.signed(retire)).status_code == 204
        self.people = {scope: holder(self.server, scope) for scope in SCOPES}
        self.revoked_people = {scope: holder(self.server, scope) for scope in SCOPES}
        self.expired_people = {scope: holder(self.server, scope, days=1e-9) for scope in SCOPES}
        for one in self.revoked_people.values():
            assert self.people["admin"].send("DELETE", f"/v1/tokens/{one.token_id}").status_code == 204

    def new_key(self) -> Robot:
        """The first robot, with another key that counts."""
        return self.server.new_robot("g1-001")

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def objects(self) -> dict[str, tuple[int, int]]:
        """Everything that is stored: names, sizes, and when it was last written."""
        bucket = self.server.bucket
        return {f"{root}/{one.name}": (one.size, one.modified_ns) for root in ROOTS for one in bucket.entries(root)}


# -- a right request for every route ----------------------------------------------------------------------------------


def upload(kind: wire.Kind) -> Callable[[World], Upload]:
    return lambda world: world.robot.upload(seq=world.next_seq(), kind=kind)


def unfinished(method: str, body: bytes | None = None, **headers: str) -> Callable[[World], Upload]:
    """A request about an upload that has begun."""

    def request(world: World) -> Upload:
        target, digest = world.robot.target(seq=world.next_seq()), content_digest(BODY[:10])
        creation = Upload(target, {"Content-Type": wire.MCAP_TYPE, "Content-Digest": digest}, BODY[:10]).changed(
            Repr_Digest=content_digest(BODY), Upload_Length=str(len(BODY)), Upload_Complete="?0"
        )
        begun = world.robot.send(world.robot.signed(creation))
        assert begun.status_code == 201, begun.text
        fields = {} if body is None else {"Content-Digest": content_digest(body)}
        one = Upload(begun.headers["Location"], fields, body or b"", method).changed(**headers)
        return world.robot.signed(one)

    return request


def new_key(world: World) -> Upload:
    target, new = wire.keys_target("g1-001"), replace(world.robot, key=Ed25519PrivateKey.generate())
    body = json.dumps({"public_key": public(new), "proof": new.token(target, "")}).encode()
    return world.robot.upload(body, target=target, content_type="application/json")


def retire(world: World) -> Upload:
    kid = world.new_key().kid
    return world.robot.signed(Upload(f"/v1/robots/g1-001/keys/{kid}", {}, b"", "DELETE"))


def asked(method: str, path: str, body: bytes = b"") -> Callable[[World], Upload]:
    return lambda _: Upload(path, {}, body, method)


def revoke_token(world: World) -> Upload:
    return Upload(f"/v1/tokens/{holder(world.server, 'read').token_id}", {}, b"", "DELETE")


def revoke_robot(world: World) -> Upload:
    return Upload(f"/v1/robots/{world.server.new_robot('g1-003').name}/revoke", {}, b"", "POST")


@dataclass(frozen=True)
class Entry:
    """Who may use a route: robots that sign, persons with a scope, or both; and a right request but for its token."""

    request: Callable[[World], Upload]
    robots: bool = False
    scope: str | None = None


def robots(request: Callable[[World], Upload], *, scope: str | None = None) -> Entry:
    return Entry(request, robots=True, scope=scope)


def reading(path: str, query: str = "") -> dict[str, Entry]:
    target = path.replace("{robot}", "g1-001") + (f"?{query}" if query else "")
    return {f"{method} {path}": Entry(asked(method, target), scope="read") for method in ("GET", "HEAD")}


PIECE = {"Content_Type": wire.PIECE_TYPE, "Upload_Offset": "10", "Upload_Complete": "?0"}
ENTRIES: dict[str, Entry] = {
    f"POST {ROBOT}/telemetry": robots(upload("telemetry")),
    f"POST {ROBOT}/video": robots(upload("video")),
    f"HEAD {ROBOT}/uploads/{{upload}}": robots(unfinished("HEAD")),
    f"PATCH {ROBOT}/uploads/{{upload}}": robots(unfinished("PATCH", BODY[10:20], **PIECE)),
    f"DELETE {ROBOT}/uploads/{{upload}}": robots(unfinished("DELETE")),
    f"POST {ROBOT}/keys": robots(new_key),
    f"DELETE {ROBOT}/keys/{{kid}}": robots(retire, scope="admin"),
    f"POST {ROBOT}/invitations": Entry(asked("POST", "/v1/robots/g1-001/invitations"), scope="admin"),
    f"POST {ROBOT}/revoke": Entry(revoke_robot, scope="admin"),
    "GET /v1/registry/robots": Entry(asked("GET", "/v1/registry/robots?limit=5"), scope="admin"),
    "POST /v1/tokens": Entry(asked("POST", "/v1/tokens", b'{"name": "Bob", "scopes": ["read"]}'), scope="admin"),
    "GET /v1/tokens": Entry(asked("GET", "/v1/tokens"), scope="admin"),
    "DELETE /v1/tokens/{token_id}": Entry(revoke_token, scope="admin"),
    "GET /v1/quarantine": Entry(asked("GET", "/v1/quarantine"), scope="admin"),
    "GET /v1/audit": Entry(asked("GET", "/v1/audit"), scope="admin"),
    **reading("/v1/robots"),
    **reading("/v1/videos", "limit=5"),
    **reading(f"{ROBOT}/telemetry", f"topic=/x&start={START_NS}&end={START_NS + 1}"),
    **reading(f"{ROBOT}/video", CLIP),
    **reading(f"{ROBOT}/video/playlist.m3u8", CLIP),
    **reading(f"{ROBOT}/video/init.mp4", f"{CLIP}&base={START_NS}"),
    **reading(f"{ROBOT}/video/segment.m4s", f"{CLIP}&base={START_NS}"),
}
ENROL = f"POST {ROBOT}/enrol"  # its token is signed by the key in its body: `test_enrolment_…`
OPEN = {"GET /healthz", "GET /readyz"}


def test_every_route_has_its_entry() -> None:
    storage = Storage.open("s3://any", settings=StorageSettings(url="s3://any"))
    routes = [one for one in create_app(storage, IngestSettings()).routes if isinstance(one, APIRoute)]
    assert {f"{method} {one.path}" for one in routes for method in one.methods} == set(ENTRIES) | {ENROL} | OPEN
    assert len(create_app(storage, IngestSettings()).routes) == len(routes)  # nothing is mounted beside them


# -- wrong tokens -----------------------------------------------------------------------------------------------------


def signed(by: Robot, right: Upload, *, robot: str = "g1-001", moved_ns: int = 0, **other: str) -> str:
    """The token of a right request, but for what is `other`."""
    headers = right.headers
    claims = {
        "method": right.method,
        "target": right.target,
        "digest": headers.get("Content-Digest", ""),
        "upload": signing.upload_claim(headers.get("Upload-Offset", ""), headers.get("Upload-Complete", "")),
    }
    return signing.sign_request(by.key, robot=robot, now_ns=by.server.clock() + moved_ns, **(claims | other))


def wrong_signatures(world: World, right: Upload, *, by: Robot) -> dict[str, tuple[str | None, Outcome]]:
    """Tokens of robots that must not pass, and what each is answered."""
    path, _, query = right.target.partition("?")
    claims = jwt.decode(signed(by, right), options={"verify_signature": False})
    unsigned = jwt.encode(claims, None, algorithm="none", headers={"kid": by.kid})
    return {
        "no token": (None, (401, "no_token")),
        "no JWT": ("x", (401, "bad_token")),
        "nobody's signature": (unsigned, (401, "bad_token")),
        "another robot's": (signed(world.other, right, robot="g1-002"), (403, "wrong_robot")),
        "expired": (signed(by, right, moved_ns=-HOUR_NS), CLOCK),
        "not yet valid": (signed(by, right, moved_ns=HOUR_NS), CLOCK),
        "of another path": (
            signed(by, right, target=right.target.replace("g1-001", "g1-002")),
            BAD_SIGNATURE,
        ),
        "of a longer path": (signed(by, right, target=f"{path}/x?{query}"), BAD_SIGNATURE),
        "of another query": (signed(by, right, target=f"{path}?{query}&seq=999"), BAD_SIGNATURE),
        "of another offset": (signed(by, right, upload="999;?0"), BAD_SIGNATURE),
        "of another end": (signed(by, right, upload="10;?1"), BAD_SIGNATURE),
        "of another body": (signed(by, right, digest=content_digest(b"other")), BAD_SIGNATURE),
        "of another method": (signed(by, right, method="PUT"), BAD_SIGNATURE),
        "of other fields": (signed(by, right, fields="0" * 32), BAD_SIGNATURE),
    }


def wrong_keys(world: World, right: Upload) -> dict[str, tuple[str | None, Outcome]]:
    """Right tokens of keys that do not count for this robot."""
    keys = {"revoked": world.revoked, "retired": world.retired, "another robot's": world.other}
    keys["unknown"] = replace(world.robot, key=Ed25519PrivateKey.generate())
    return {f"by a key that is {what}": (signed(one, right), (401, "unknown_key")) for what, one in keys.items()}


def wrong_people(world: World, scope: str) -> dict[str, tuple[str | None, Outcome]]:
    """Tokens of persons that must not pass where `scope` is asked for."""
    right = world.people[scope].text
    wrong: dict[str, tuple[str | None, Outcome]] = {
        f"only {one}": (world.people[one].text, (403, "wrong_scope")) for one in SCOPES if one != scope
    }
    return wrong | {
        "no token": (None, (401, "no_token")),
        "revoked": (world.revoked_people[scope].text, (401, "token_revoked")),
        "expired": (world.expired_people[scope].text, (401, "token_expired")),
        "with another secret": (right[:21] + secrets.token_urlsafe(32), (401, "bad_token")),
        "with another's id": (world.people["publish"].text[:21] + right[21:], (401, "bad_token")),
        "cut short": (right[:-1], (401, "bad_token")),
        "unknown": (f"fft_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}", (401, "bad_token")),
    }


def wrong_tokens(world: World, entry: Entry, right: Upload) -> dict[str, tuple[str | None, Outcome]]:
    wrong: dict[str, tuple[str | None, Outcome]] = {}
    if entry.robots:
        wrong |= wrong_signatures(world, right, by=world.robot) | wrong_keys(world, right)
    if entry.scope:
        wrong |= wrong_people(world, entry.scope)
    if entry.robots and not entry.scope:
        wrong |= {f"a person's, {scope}": (one.text, (401, "bad_token")) for scope, one in world.people.items()}
    if entry.scope and not entry.robots:
        wrong |= {"a robot's": (signed(world.robot, right), (403, "wrong_scope"))}
    return wrong


# -- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(s3_endpoint: str) -> Iterator[World]:
    settings = StorageSettings(
        endpoint_url=s3_endpoint, access_key_id="test", secret_access_key="test-secret", url="s3://fleetfeed/matrix"
    )
    with serve(Storage.open("s3://fleetfeed/matrix", settings=settings), IngestSettings(key_cache_s=0)) as server:
        yield World(server)


@pytest.mark.parametrize("route", ENTRIES)
def test_a_wrong_token_is_refused_and_nothing_is_stored(world: World, route: str) -> None:
    entry = ENTRIES[route]
    right = entry.request(world)
    wrong, before = wrong_tokens(world, entry, right), world.objects()
    told = {what: outcome(world, right, token) for what, (token, _) in wrong.items()}
    assert told == {what: seen(right, expected) for what, (_, expected) in wrong.items()}
    assert world.objects() == before
    for token in right_tokens(world, entry, right):  # all else was right about it
        assert send(world, right, token).status_code not in (400, 401, 403), route


def test_enrolment_with_a_wrong_token_is_refused_and_nothing_is_stored(world: World) -> None:
    robot = replace(world.robot, key=Ed25519PrivateKey.generate())
    invitation = invite(Registry(world.server.bucket), "g1-001", now_ns=world.server.clock())
    right = enrolment(robot, invitation)
    of_other = invite(Registry(world.server.bucket), "g1-002", now_ns=world.server.clock())
    wrong = wrong_signatures(world, right, by=robot)
    wrong["another robot's"] = (signed(robot, right, robot="g1-002"), (403, "wrong_robot"))
    wrong["by another key"] = (signed(world.robot, right), (401, "bad_signature"))
    wrong |= {f"a person's, {scope}": (one.text, (401, "bad_token")) for scope, one in world.people.items()}
    before = world.objects()
    told = {what: outcome(world, right, token) for what, (token, _) in wrong.items()}
    assert told == {what: expected for what, (_, expected) in wrong.items()}
    assert refusal(robot.send(enrolment(robot, of_other))) == (403, "enrolment_unknown")
    assert refusal(world.revoked.send(enrolment(world.revoked, invitation))) == (409, "key_retired")
    assert world.objects() == before
    assert robot.send(right).status_code == 201


def test_the_open_routes_tell_nothing(world: World) -> None:
    for route in OPEN:
        method, path = route.split()
        response = requests.request(method, world.server.url + path, timeout=30)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


def right_tokens(world: World, entry: Entry, right: Upload) -> Iterator[str]:
    if entry.robots:
        yield signed(world.robot, right)
    if entry.scope:
        yield world.people[entry.scope].text


def send(world: World, right: Upload, token: str | None) -> requests.Response:
    one = right.changed(Authorization=None if token is None else f"Bearer {token}")
    return world.robot.send(one)


def outcome(world: World, right: Upload, token: str | None) -> Outcome:
    response = send(world, right, token)
    if right.method == "HEAD":
        return response.status_code, None
    return refusal(response) if response.status_code >= 400 else (response.status_code, response.text)


def seen(right: Upload, expected: Outcome) -> Outcome:
    """An answer to HEAD tells no code."""
    return (expected[0], None) if right.method == "HEAD" else expected


def enrolment(robot: Robot, token: str) -> Upload:
    body = json.dumps({"token": token, "public_key": public(robot)}).encode()
    return robot.upload(body, target=wire.enrol_target("g1-001"), content_type="application/json")


def public(robot: Robot) -> str:
    return base64.b64encode(signing.public_bytes(robot.key.public_key())).decode()


def content_digest(body: bytes) -> str:
    return wire.content_digest(hashlib.sha256(body).digest())
