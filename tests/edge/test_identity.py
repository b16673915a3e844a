"""A robot's key is kept to its owner, never sent, and replaced so that the robot can sign at any time."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.adapters import BaseAdapter

from edge import identity, signing, wire
from edge.disk import DISK, Disk
from edge.errors import BadName, EdgeError, NotEnrolled, RotationError, SignatureError
from edge.identity import KEY_FILE, NEXT_FILE, OLD_FILE, Identity
from tests.faults.failing_disk import FailingDisk
from tests.faults.losing_disk import LosingDisk
from tests.faults.power_loss import after_power_loss

if TYPE_CHECKING:
    from tests.edge.conftest import Answer, Request, ScriptedServer

NOW_NS = 1_760_000_000_000_000_000


def _enrol(folder: Path, server: ScriptedServer, *, robot: str = "g1-007") -> identity.Identity:
    with requests.Session() as session:
        return identity.enrol(folder, robot, "one-time", url=server.url, session=session, now_ns=NOW_NS)


@pytest.fixture
def willing(server: ScriptedServer) -> ScriptedServer:
    server.script = [lambda _: server.json(201, {})] * 5
    return server


def test_an_enrolled_robot_is_loaded_as_who_it_is(tmp_path: Path, willing: ScriptedServer) -> None:
    made = _enrol(tmp_path / "new" / "robot", willing)
    loaded = identity.load(tmp_path / "new" / "robot")
    assert loaded.robot == made.robot == "g1-007"
    assert loaded.key.private_bytes_raw() == made.key.private_bytes_raw()


def test_the_key_file_is_its_owners_alone(tmp_path: Path, willing: ScriptedServer) -> None:
    _enrol(tmp_path, willing)
    assert (tmp_path / identity.KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*.tmp"))


def test_the_request_proves_that_the_robot_holds_the_key_it_names(tmp_path: Path, willing: ScriptedServer) -> None:
    _enrol(tmp_path, willing)
    request = willing.requests[0]
    body = json.loads(request.body)
    assert request.target == "/v1/robots/g1-007/enrol"
    assert body["token"] == "one-time"
    signing.verify_request(
        request.headers["Authorization"].removeprefix("Bearer "),
        lambda: Ed25519PublicKey.from_public_bytes(base64.b64decode(body["public_key"])),
        robot="g1-007",
        method="POST",
        target=request.target,
        digest=request.headers["Content-Digest"],
        now_ns=NOW_NS,
    )


def test_the_private_key_is_in_no_request(tmp_path: Path, willing: ScriptedServer) -> None:
    key = _enrol(tmp_path, willing).key
    raw = key.private_bytes_raw()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    secrets = [raw, raw.hex().encode(), base64.b64encode(raw), pem, pem.split(b"\n")[1]]
    for request in willing.requests:
        sent = request.body + json.dumps(request.headers).encode() + request.target.encode()
        assert not any(secret in sent for secret in secrets)


def test_enrolling_again_uses_the_same_key(tmp_path: Path, willing: ScriptedServer) -> None:
    _enrol(tmp_path, willing)
    _enrol(tmp_path, willing)
    sent = [json.loads(request.body)["public_key"] for request in willing.requests]
    assert len(sent) == 2
    assert len(set(sent)) == 1


def test_a_lost_reply_leaves_a_key_that_the_next_try_uses(tmp_path: Path, server: ScriptedServer) -> None:
    server.script = [server.reset, lambda _: server.json(201, {})]
    with pytest.raises(NotEnrolled, match="could not be reached"):
        _enrol(tmp_path, server)
    with pytest.raises(NotEnrolled):
        identity.load(tmp_path)
    _enrol(tmp_path, server)
    assert len({json.loads(request.body)["public_key"] for request in server.requests}) == 1
    assert identity.load(tmp_path).robot == "g1-007"


def test_a_refusal_is_told_in_the_servers_words_and_leaves_no_enrolled_robot(
    tmp_path: Path, server: ScriptedServer
) -> None:
    server.script = [lambda _: server.problem(403, "bad_token", "this token was used already")]
    with pytest.raises(NotEnrolled, match="this token was used already"):
        _enrol(tmp_path, server)
    with pytest.raises(NotEnrolled, match="fleetfeed edge enrol"):
        identity.load(tmp_path)


def test_a_forbidden_name_is_refused_before_anything_is_made(tmp_path: Path, server: ScriptedServer) -> None:
    with pytest.raises(BadName):
        _enrol(tmp_path / "robot", server, robot="../g1")
    assert not (tmp_path / "robot").exists()
    assert not server.requests


@pytest.mark.parametrize("robot_file", ["", "{}", "[]", "nonsense"])
def test_a_damaged_folder_is_not_enrolled(tmp_path: Path, willing: ScriptedServer, robot_file: str) -> None:
    _enrol(tmp_path, willing)
    (tmp_path / identity.ROBOT_FILE).write_text(robot_file)
    with pytest.raises(NotEnrolled):
        identity.load(tmp_path)


def _other_key() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"nonsense", _other_key()])
def test_a_key_that_is_not_ours_is_never_replaced(tmp_path: Path, willing: ScriptedServer, content: bytes) -> None:
    (tmp_path / identity.KEY_FILE).write_bytes(content)
    with pytest.raises(NotEnrolled, match="not an Ed25519 key"):
        _enrol(tmp_path, willing)
    assert (tmp_path / identity.KEY_FILE).read_bytes() == content


def test_a_request_is_signed_with_the_robots_key(robot: identity.Identity) -> None:
    header = robot.authorization(method="GET", target="/v1/robots/g1-007/update", digest="", now_ns=NOW_NS)
    assert header.startswith("Bearer ")
    signing.verify_request(
        header.removeprefix("Bearer "),
        robot.key.public_key,
        robot="g1-007",
        method="GET",
        target="/v1/robots/g1-007/update",
        digest="",
        now_ns=NOW_NS,
    )


def test_a_piece_of_an_upload_is_signed_with_its_place(robot: Identity) -> None:
    request = {"method": "PATCH", "target": "/v1/robots/g1-007/uploads/ab", "digest": "", "now_ns": NOW_NS}
    token = robot.authorization(**request, upload="1048576;?0").removeprefix("Bearer ")  # type: ignore[arg-type]
    signing.verify_request(token, robot.key.public_key, robot="g1-007", upload="1048576;?0", **request)  # type: ignore[arg-type]
    with pytest.raises(SignatureError, match="Upload-Offset"):
        signing.verify_request(token, robot.key.public_key, robot="g1-007", upload="0;?0", **request)  # type: ignore[arg-type]


# -- a new key -------------------------------------------------------------------------------------------------


class KeyServer(BaseAdapter):
    """Knows which keys of g1-007 count, and answers as the protocol says, without a network between.

    `faults`, one a request: "lost" breaks off before the server has heard it, "unheard" after; a function answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Ed25519PublicKey] = {}
        self.counting: set[str] = set()
        self.faults: list[str | Callable[[], requests.Response]] = []
        self.requests: list[requests.PreparedRequest] = []
        self.on_change: Callable[[], object] = lambda: None
        self.session = requests.Session()
        self.session.mount("http://keys", self)

    def let_in(self, public: bytes) -> None:
        kid = signing.key_id(public)
        self.known[kid] = Ed25519PublicKey.from_public_bytes(public)
        self.counting.add(kid)
        self.on_change()

    def knows(self, who: Identity | None) -> bool:
        return who is not None and who.key_id in self.counting

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:  # type: ignore[override]
        self.requests.append(request)
        fault = self.faults.pop(0) if self.faults else None
        if callable(fault):
            return fault()
        if fault == "lost":
            raise requests.ConnectionError("the network is gone")
        response = self._answer(request)
        if fault == "unheard":
            raise requests.ConnectionError("the reply is lost")
        return response

    def close(self) -> None:
        """Nothing is open."""

    def _answer(self, request: requests.PreparedRequest) -> requests.Response:
        target, digest = request.path_url, request.headers.get("Content-Digest", "")
        token = request.headers["Authorization"].removeprefix("Bearer ")
        signer = signing.token_key_id(token)
        if signer not in self.counting:
            return self.problem(401, "unknown_key", "robot g1-007 has no such key")
        self._verify(token, self.known[signer], request.method, target, digest)
        if request.method == "POST" and target == wire.keys_target("g1-007"):
            return self._add(json.loads(request.body or b""), target)
        if request.method == "DELETE":
            return self._retire(target.rpartition("/")[2], signer)
        return self.problem(404, "no_route", target)

    def _add(self, body: dict[str, str], target: str) -> requests.Response:
        public = base64.b64decode(body["public_key"])
        kid = signing.key_id(public)
        self._verify(body["proof"], Ed25519PublicKey.from_public_bytes(public), "POST", target, "")
        if kid in self.known and kid not in self.counting:
            return self.problem(409, "key_retired", "it never counts again")
        is_new = kid not in self.known
        self.let_in(public)
        return self.answer(201 if is_new else 200, {"robot": "g1-007", "key_id": kid})

    def _retire(self, kid: str, signer: str) -> requests.Response:
        if kid == signer:
            return self.problem(409, "key_in_use", "it signed this request")
        if kid not in self.known:
            return self.problem(404, "unknown_key_id", "never had it")
        self.counting.discard(kid)
        self.on_change()
        return self.answer(204, None)

    def _verify(self, token: str, key: Ed25519PublicKey, method: str | None, target: str, digest: str) -> None:
        signing.verify_request(
            token, lambda: key, robot="g1-007", method=method or "", target=target, digest=digest, now_ns=NOW_NS
        )

    def answer(self, status: int, body: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = status
        response._content = b"" if body is None else json.dumps(body).encode()
        return response

    def problem(self, status: int, code: str, detail: str) -> requests.Response:
        return self.answer(status, {"code": code, "detail": detail})


@dataclass
class Robot:
    """One that is enrolled, in `folder`."""

    folder: Path
    server: KeyServer = field(default_factory=KeyServer)
    disk: Disk = DISK

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        made = Identity("g1-007", identity._make_key(self.folder / KEY_FILE, DISK))
        DISK.write_json(self.folder / identity.ROBOT_FILE, {"robot": "g1-007"})
        self.server.let_in(made.public_key)

    @property
    def present(self) -> Identity:
        return identity.load(self.folder)

    @property
    def keys(self) -> set[str]:
        return {path.name for path in self.folder.glob("robot.key*")}

    def rotate(self) -> Identity:
        return identity.rotate(
            self.folder, url="http://keys", session=self.server.session, now_ns=NOW_NS, disk=self.disk
        )

    def retire_old(self, who: Identity | None = None) -> None:
        identity.retire_old(
            self.folder,
            who or self.present,
            url="http://keys",
            session=self.server.session,
            now_ns=NOW_NS,
            disk=self.disk,
        )

    def fall_back(self) -> Identity | None:
        return identity.fall_back(self.folder, disk=self.disk)


@pytest.fixture
def owner(tmp_path: Path) -> Robot:
    return Robot(tmp_path / "robot")


def test_a_rotated_robot_signs_with_a_new_key_and_the_old_one_still_counts(owner: Robot) -> None:
    before = owner.present
    after = owner.rotate()
    assert after.key_id != before.key_id
    assert after.key_id == owner.present.key_id
    assert owner.server.counting == {before.key_id, after.key_id}
    assert owner.keys == {KEY_FILE, OLD_FILE}


def test_the_old_key_counts_no_longer_once_it_is_retired(owner: Robot) -> None:
    owner.rotate()
    for _ in range(2):
        owner.retire_old()
        assert owner.server.counting == {owner.present.key_id}
        assert owner.keys == {KEY_FILE}
    assert [request.method for request in owner.server.requests] == ["POST", "DELETE"]


def test_every_key_file_is_its_owners_alone(owner: Robot) -> None:
    owner.server.faults = ["lost"]
    with pytest.raises(RotationError):
        owner.rotate()
    assert (owner.folder / NEXT_FILE).stat().st_mode & 0o777 == 0o600
    owner.rotate()
    assert {(owner.folder / name).stat().st_mode & 0o777 for name in owner.keys} == {0o600}


def test_no_private_key_is_in_the_requests_of_a_rotation(owner: Robot) -> None:
    keys = [owner.present.key]
    keys.append(owner.rotate().key)
    owner.retire_old()
    for request in owner.server.requests:
        sent = (request.body or b"") + json.dumps(dict(request.headers)).encode() + request.path_url.encode()
        for key in keys:
            raw = key.private_bytes_raw()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            assert not any(one in sent for one in (raw, raw.hex().encode(), base64.b64encode(raw), pem.split(b"\n")[1]))


@pytest.mark.parametrize("fault", ["lost", "unheard"])
def test_a_rotation_without_an_answer_goes_on_with_the_same_new_key(owner: Robot, fault: str) -> None:
    before = owner.present
    owner.server.faults = [fault]
    with pytest.raises(RotationError, match="could not be reached") as raised:
        owner.rotate()
    assert raised.value.code == "unreachable"
    assert owner.present.key_id == before.key_id
    assert owner.server.knows(owner.present)
    owner.rotate()
    assert len({json.loads(request.body or b"")["public_key"] for request in owner.server.requests}) == 1
    assert owner.server.knows(owner.present)


@pytest.mark.parametrize("fault", ["lost", "unheard"])
def test_a_retirement_without_an_answer_is_asked_for_again(owner: Robot, fault: str) -> None:
    owner.rotate()
    owner.server.faults = [fault]
    with pytest.raises(RotationError, match="could not be reached"):
        owner.retire_old()
    assert owner.keys == {KEY_FILE, OLD_FILE}
    owner.retire_old()
    assert owner.server.counting == {owner.present.key_id}
    assert owner.keys == {KEY_FILE}


def test_a_refusal_is_told_in_the_servers_words_and_changes_nothing(owner: Robot) -> None:
    before = owner.present
    owner.server.faults = [lambda: owner.server.problem(429, "too_often", "one new key a day")]
    with pytest.raises(RotationError, match="one new key a day") as raised:
        owner.rotate()
    assert raised.value.code == "too_often"
    assert owner.present.key_id == before.key_id


@pytest.mark.parametrize("page", [["log", "in"], "ok", {}, {"key_id": "0123456789abcdef"}, None])
def test_a_page_that_is_not_the_servers_takes_no_key(owner: Robot, page: Any) -> None:
    before = owner.present
    owner.server.faults = [lambda: owner.server.answer(200, page)]
    with pytest.raises(RotationError, match="did not take the new key"):
        owner.rotate()
    assert owner.present.key_id == before.key_id


def test_a_page_that_is_not_the_servers_retires_no_key(owner: Robot) -> None:
    owner.rotate()
    owner.server.faults = [lambda: owner.server.answer(200, "ok"), lambda: owner.server.answer(404, "gone")]
    for _ in range(2):
        with pytest.raises(RotationError, match="did not retire the old key"):
            owner.retire_old()
    assert owner.keys == {KEY_FILE, OLD_FILE}


def test_a_new_key_that_will_never_count_is_replaced_by_another(owner: Robot) -> None:
    owner.server.faults = ["unheard"]
    with pytest.raises(RotationError):
        owner.rotate()
    (dead,) = owner.server.counting - {owner.present.key_id}
    owner.server.counting.remove(dead)
    with pytest.raises(RotationError, match="never counts again") as raised:
        owner.rotate()
    assert raised.value.code == "key_retired"
    assert owner.rotate().key_id != dead
    assert owner.server.knows(owner.present)


def test_a_second_rotation_first_retires_the_key_before_the_present_one(owner: Robot) -> None:
    first = owner.present
    second = owner.rotate()
    third = owner.rotate()
    assert owner.server.counting == {second.key_id, third.key_id}
    assert first.key_id not in owner.server.counting


def test_an_old_key_that_the_server_never_had_is_let_go(owner: Robot) -> None:
    owner.rotate()
    del owner.server.known[identity._identity("g1-007", owner.folder / OLD_FILE).key_id]
    owner.retire_old()
    assert owner.keys == {KEY_FILE}


def test_an_identity_that_was_replaced_meanwhile_retires_nothing(owner: Robot) -> None:
    before = owner.present
    owner.rotate()
    with pytest.raises(RotationError, match="no longer holds") as raised:
        owner.retire_old(before)
    assert raised.value.code == "other_key"
    assert owner.server.counting == {before.key_id, owner.present.key_id}


def test_without_a_robot_there_is_nothing_to_rotate(tmp_path: Path) -> None:
    server = KeyServer()
    with pytest.raises(NotEnrolled):
        identity.rotate(tmp_path, url="http://keys", session=server.session)
    with pytest.raises(NotEnrolled):
        identity.fall_back(tmp_path)
    assert not server.requests


def test_rotations_at_the_same_time_take_turns(owner: Robot) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [one.key_id for one in pool.map(lambda _: owner.rotate(), range(8))]
    assert len(set(made)) == 8
    old = identity._identity("g1-007", owner.folder / OLD_FILE)
    assert owner.server.counting == {owner.present.key_id, old.key_id}


# -- back to the old key ---------------------------------------------------------------------------------------


def test_a_robot_falls_back_to_its_old_key_where_the_new_one_is_not_known(owner: Robot) -> None:
    before = owner.present
    lost = owner.rotate()
    owner.server.counting.remove(lost.key_id)  # a registry that was restored from a backup, say
    del owner.server.known[lost.key_id]
    found = owner.fall_back()
    assert found is not None
    assert found.key_id == owner.present.key_id == before.key_id
    assert owner.rotate().key_id == lost.key_id  # the key is not lost, and is offered again
    assert owner.server.knows(owner.present)


def test_a_server_that_did_not_mean_it_costs_no_key(owner: Robot) -> None:
    before, after = owner.present, owner.rotate()
    for expected in (before, after, before, after):
        found = owner.fall_back()
        assert found is not None
        assert found.key_id == owner.present.key_id == expected.key_id
    owner.retire_old()
    assert owner.server.counting == {after.key_id}


def test_a_robot_takes_a_new_key_of_which_it_did_not_hear_where_its_own_is_revoked(owner: Robot) -> None:
    owner.server.faults = ["unheard"]
    with pytest.raises(RotationError):
        owner.rotate()
    owner.server.counting.remove(owner.present.key_id)
    assert owner.server.knows(owner.fall_back())
    assert owner.server.knows(owner.present)


def test_a_rotation_cut_off_before_its_last_step_loses_no_key_in_a_fall_back(tmp_path: Path) -> None:
    disk = FailingDisk()
    owner = Robot(tmp_path / "robot", disk=disk)
    before = owner.present
    disk.fail("rename", where=lambda path: path.name == KEY_FILE)
    with pytest.raises(OSError, match="No space"):
        owner.rotate()
    disk.heal()
    assert owner.keys == {KEY_FILE, OLD_FILE, NEXT_FILE}
    owner.server.counting.remove(before.key_id)
    assert owner.server.knows(owner.fall_back())


def test_a_fall_back_cut_off_before_its_last_step_leaves_no_key_to_be_taken_for_a_new_one(owner: Robot) -> None:
    before = owner.present
    shutil.copy(owner.folder / KEY_FILE, owner.folder / NEXT_FILE)
    assert owner.rotate().key_id != before.key_id
    owner.retire_old()
    assert owner.server.counting == {owner.present.key_id}


def test_a_robot_with_one_key_has_none_to_fall_back_to(owner: Robot) -> None:
    before = owner.present
    assert owner.fall_back() is None
    assert owner.present.key_id == before.key_id


# -- cut off at every step -------------------------------------------------------------------------------------


class Unsynced(Disk):
    """Saves the time of syncs, where nothing is ever lost."""

    def sync(self, file: IO[bytes]) -> None:
        file.flush()

    def sync_folder(self, folder: Path) -> None:
        """Nothing is lost."""


def _cuts(folder: Path, *, times: int | None) -> Iterator[tuple[Robot, FailingDisk]]:
    """A robot whose disk fails at the first operation, at the second, … until nothing fails any more."""
    for after in range(1000):
        disk = FailingDisk()
        robot = Robot(folder / str(after), disk=disk)
        fault = disk.fail(after=after, times=times)
        yield robot, disk
        if not fault.fired:
            assert after > 10
            return


def _try(*actions: Callable[[], object]) -> None:
    for action in actions:
        try:
            action()
        except (OSError, EdgeError):
            return


@pytest.mark.parametrize("times", [1, None])
def test_wherever_a_rotation_is_cut_off_the_robot_can_sign_and_go_on(tmp_path: Path, times: int | None) -> None:
    for owner, disk in _cuts(tmp_path, times=times):
        _try(owner.rotate, owner.retire_old)
        assert owner.server.knows(owner.present)
        disk.heal()
        owner.rotate()
        owner.retire_old()
        assert owner.server.counting == {owner.present.key_id}
        assert owner.keys - {"robot.key.next.tmp", "robot.key.old.tmp"} == {KEY_FILE}


@pytest.mark.parametrize("times", [1, None])
def test_wherever_a_fall_back_is_cut_off_it_can_be_repeated(tmp_path: Path, times: int | None) -> None:
    for after in range(1000):
        disk = FailingDisk()
        owner = Robot(tmp_path / str(after), disk=disk)
        lost = owner.rotate()
        owner.server.counting.remove(lost.key_id)
        fault = disk.fail(after=after, times=times)
        _try(owner.fall_back)
        disk.heal()
        if not owner.server.knows(owner.present):
            owner.fall_back()
        assert owner.server.knows(owner.present)
        if not fault.fired:
            assert after >= 5
            return


def test_no_power_cut_at_any_time_leaves_a_robot_with_a_key_that_does_not_count(tmp_path: Path) -> None:
    """A program that is killed leaves on a running machine what a power cut may then take away."""
    trials = 0
    for killed_after in range(20):
        disk = FailingDisk()
        owner = Robot(tmp_path / str(killed_after), disk=disk)
        losing = disk.inner = LosingDisk(owner.folder)
        owner.server.on_change = lambda log=losing.log, server=owner.server: log.promise(set(server.counting))
        owner.server.on_change()
        disk.fail(after=killed_after)
        _try(owner.rotate, owner.retire_old)
        disk.heal()
        _try(owner.rotate, owner.retire_old)
        for at in range(losing.log.start, len(losing.log) + 1):
            for seed in range(3):
                trials += 1
                target = tmp_path / f"{killed_after}-{at}-{seed}"
                after_power_loss(losing.log, target, seed=seed, at_operation=at)
                assert identity.load(target).key_id in losing.log.promised(at)[-1]
                shutil.rmtree(target)
    assert trials > 500


def test_a_rotation_that_has_returned_outlasts_a_power_cut(tmp_path: Path) -> None:
    owner = Robot(tmp_path / "robot")
    losing = owner.disk = LosingDisk(owner.folder)
    after = owner.rotate()
    for seed in range(10):
        after_power_loss(losing.log, tmp_path / str(seed), seed=seed)
        assert identity.load(tmp_path / str(seed)).key_id == after.key_id


actions = st.sampled_from(["rotate", "retire_old", "fall_back", "go on"])
faults = st.lists(st.sampled_from(["lost", "unheard", "", ""]), max_size=2)


@settings(deadline=None)
@given(st.lists(st.tuples(actions, st.none() | st.integers(0, 25), faults), max_size=8))
def test_whatever_fails_one_of_two_keys_counts(steps: list[tuple[str, int | None, list[str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disk = FailingDisk(Unsynced())
        owner = Robot(Path(folder) / "robot", disk=disk)
        for action, after, faults in steps:
            owner.server.faults = list(faults)
            if after is not None:
                disk.fail(after=after)
            _try(*([owner.rotate, owner.retire_old] if action == "go on" else [getattr(owner, action)]))
            disk.heal()
            assert _can_sign(owner)
        owner.server.faults = []
        if not owner.server.knows(owner.present):
            owner.fall_back()
        _try(owner.rotate)  # a new key that was retired meanwhile is replaced at the next try
        owner.rotate()
        owner.retire_old()
        assert owner.server.counting == {owner.present.key_id}


def _can_sign(owner: Robot) -> bool:
    """With the present key, or with that to which an unknown one makes it fall back (tried on a copy)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "robot"
        shutil.copytree(owner.folder, copy)
        return owner.server.knows(owner.present) or owner.server.knows(identity.fall_back(copy))


def test_a_robot_whose_clock_is_wrong_enrols_by_the_servers_time(tmp_path: Path, server: ScriptedServer) -> None:
    server_ns = time.time_ns() + 10 * 365 * 86_400 * 10**9

    def refuse(_: Request) -> Answer:
        answer = server.problem(401, "clock", "your clock is wrong")
        return replace(answer, headers={**answer.headers, wire.SERVER_TIME_HEADER: str(server_ns)})

    server.script = [refuse, lambda _: server.json(201, {})]
    identity.enrol(tmp_path, "g1-007", "enrol-x", url=server.url, session=requests.Session())
    tokens = [request.headers["Authorization"].removeprefix("Bearer ") for request in server.requests]
    issued = [jwt.decode(token, options={"verify_signature": False})["iat"] for token in tokens]
    assert issued[1] == server_ns // 10**9
    assert abs(issued[0] - time.time()) < 60
