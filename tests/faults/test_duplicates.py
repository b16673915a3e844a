"""Requests come twice, out of order, at two replicas at once, with other bytes, and their answers are lost.

After every step the bucket is what the model says: each seq holds the bytes that were first acknowledged, with the
facts of the request that brought them, unchanged since; what else came for it is kept beside it; nothing is half there.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dataset_catalog.storage import Storage
from edge import signing, wire
from ingest_serve.bucket import Bucket, Head
from ingest_serve.pieces import Pieces
from ingest_serve.registry import Registry, invite
from tests.faults.campaign import is_soak
from tests.faults.duplicates import THIRDS, Act, Item, Model, Sent, as_pieces, make
from tests.faults.two_replicas import Answer, TwoReplicas, in_process, over_sockets
from tests.ingest_serve.conftest import RECORDING, Clock, Robot, Server, Upload
from tests.ingest_serve.conftest import storage as storage

MOST_KEYS = 3
ITEMS = st.builds(
    Item,
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from(["telemetry", "video"]),
    st.sampled_from(["a", "a", "b", "gap"]),
)
IN_PIECES = st.builds(Item, st.integers(1, 3), st.just("video"), st.sampled_from(["a", "a", "b"]))  # few: steps meet
REPLICA = st.integers(0, 1)
Step = tuple[Act, int]
STEPS: st.SearchStrategy[Step] = st.sampled_from(
    [("whole", 0), ("whole", 0), ("create", 100), ("piece", 100), ("piece", 300), ("cancel", 0)]
)
_robots = itertools.count()


class Duplicates(RuleBasedStateMachine):
    """One robot, four seqs, two replicas."""

    def __init__(self, storage: Storage, replicas: TwoReplicas, statuses: Counter[int]) -> None:
        super().__init__()
        self.statuses = statuses  # of all answers, over all examples
        self.replicas, self.bucket = replicas, Bucket.open(storage)
        server = Server("http://of-no-use", storage, Clock())
        self.robot = Robot(server, f"twin-{next(_robots)}", Ed25519PrivateKey.generate())
        self.model, self.retired = Model(), set[str]()
        self.sent: list[Sent] = []
        self.seen: dict[str, tuple[Head, bytes]] = {}  # what each seq held when it was first looked at
        self.made: dict[int, int] = {}  # how often 201 was said of a seq

    # -- one request at a time: the model knows its answer ---------------------------------------------------------

    @initialize(at=REPLICA)
    def enrol(self, at: int) -> None:
        token = invite(Registry(self.bucket), self.robot.name, now_ns=self.robot.server.clock())
        public = base64.b64encode(signing.public_bytes(self.robot.key.public_key())).decode()
        body = json.dumps({"token": token, "public_key": public}).encode()
        enrolment = self.robot.upload(body, target=wire.enrol_target(self.robot.name))
        self.made_known((at, enrolment), (1 - at, enrolment))

    @rule(item=ITEMS, at=REPLICA)
    def send_whole(self, item: Item, at: int) -> None:
        self.ask(make(self.robot, "whole", item), at)

    @rule(item=IN_PIECES, end=st.sampled_from(THIRDS[:3]), at=REPLICA)
    def create_again(self, item: Item, end: int, at: int) -> None:
        """Perhaps it is the first time, or the segment is there."""
        self.ask(make(self.robot, "create", item, end=end), at)

    @rule(item=IN_PIECES, sizes=st.lists(st.sampled_from(THIRDS[1:]), min_size=1, max_size=3), at=REPLICA)
    def go_on(self, item: Item, sizes: list[int], at: int) -> None:
        """The creation, or pieces from where the upload stands, each by way of the other replica than the last."""
        for number, size in enumerate(sizes):
            self.ask(self.next(item, ("piece", size)), (at + number) % 2)
        answer = self.ask(make(self.robot, "ask", item), at)
        assert answer.status == 404 or int(answer.headers["upload-offset"]) == self.model.offset(self.id_of(item))

    @rule(item=IN_PIECES, piece=st.sampled_from([*itertools.combinations(THIRDS, 2)]), at=REPLICA)
    def send_any_piece(self, item: Item, piece: tuple[int, int], at: int) -> None:
        if self.id_of(item) not in self.model.created:
            self.ask(make(self.robot, "create", item, end=THIRDS[1]), 1 - at)
        self.ask(make(self.robot, "piece", item, begin=piece[0], end=piece[1]), at)

    @rule(item=IN_PIECES, at=REPLICA, blindly=st.booleans())
    def cancel(self, item: Item, at: int, blindly: bool) -> None:
        if blindly or self.id_of(item) in self.model.created:
            self.ask(make(self.robot, "cancel", item), at)

    @rule(number=st.integers(0, 99), at=REPLICA)
    def replay(self, number: int, at: int) -> None:
        """What somebody has captured, or a robot sends again."""
        if self.sent:
            self.ask(self.sent[-1 - number % len(self.sent)], at)

    # -- answers that are lost, bodies that do not come, requests at the same moment -------------------------------

    @rule(item=IN_PIECES, step=STEPS, at=REPLICA)
    def lose_the_answer(self, item: Item, step: Step, at: int) -> None:
        sent = self.next(item, step)
        self.replicas.send((at, sent.upload))
        self.note(sent)

    @rule(item=ITEMS, creates=st.booleans(), at=REPLICA, arrived=st.integers(0, 99))
    def break_off(self, item: Item, creates: bool, at: int, arrived: int) -> None:
        """Nothing changes. The creation of what is stored is another thing: it needs no body to be answered."""
        act: Act = "create" if creates and item.seq not in self.model.stored else "whole"
        self.replicas.break_off(at, make(self.robot, act, item, end=100).upload, arrived=arrived)

    @rule(item=IN_PIECES, step=STEPS, other=IN_PIECES, then=STEPS, same=st.booleans())
    def race(self, item: Item, step: Step, other: Item, then: Step, same: bool) -> None:
        """Two requests at once, one to each replica: the same one, or two for the same seq."""
        first = self.next(item, step)
        second = first if same else self.next(replace(other, seq=item.seq), then)
        answers = self.replicas.send((0, first.upload), (1, second.upload))
        before = set(self.model.stored)
        self.note(first, second)
        for sent, answer in ((first, answers[0]), (second, answers[1])):
            self.believe(sent, answer)
        if 503 not in {answer.status for answer in answers}:
            assert all(self.made.get(seq) == 1 for seq in set(self.model.stored) - before), "nobody was told"

    @rule(at=REPLICA, twice=st.booleans())
    def rotate(self, at: int, twice: bool) -> None:
        """A new key, and the old one's end; each asked for at both replicas at once, or only at one."""
        if len(self.retired) + 1 == MOST_KEYS:
            return
        following = replace(self.robot, key=Ed25519PrivateKey.generate())
        both = [(at, new_key(self.robot, following)), (1 - at, new_key(self.robot, following))][: 1 + twice]
        self.made_known(*both)
        end = following.signed(Upload(wire.keys_target(self.robot.name, self.robot.kid), {}, b"", "DELETE"))
        assert set(self.insist(*((n, end) for n in range(1 + twice)))) == {204}
        self.retired.add(self.robot.kid)
        self.robot = following

    # -- what must be true -----------------------------------------------------------------------------------------

    @invariant()
    def the_bucket_is_as_the_model_says(self) -> None:
        found = self.look()
        assert found.stored == self.model.stored
        assert found.conflicts == self.model.conflicts
        assert (found.created, found.pieces) == (self.model.created, self.model.pieces)

    def teardown(self) -> None:
        """Whatever is sent again ends well, and nothing is left but what was stored and what was in its way."""
        for seq in range(4):
            self.ask(make(self.robot, "whole", Item(seq, "telemetry", "a")), seq % 2)
        Pieces(self.bucket).expire(before_ns=self.robot.server.clock() + 2_000_000_000)
        found = self.look()
        assert (found.stored, found.conflicts) == (self.model.stored, self.model.conflicts)
        assert not found.created
        assert not found.pieces

    # -- the steps' own steps --------------------------------------------------------------------------------------

    def ask(self, sent: Sent, at: int) -> Answer:
        """Send one request, and hold its answer against the model."""
        (answer,) = self.replicas.send((at, sent.upload))
        if answer.status == 503:
            self.statuses[503] += 1
            self.note(sent)
            return self.ask(sent, at)
        if answer.status == 401 and sent.key_id in self.retired:
            return answer  # a replica that has just used the key may take it a little longer
        expected = self.model.take(sent)
        assert (answer.status, answer.said.get("code", "")) == expected, f"{sent.act} {sent.item}"
        self.sent.append(sent)
        self.believe(sent, answer)
        return answer

    def insist(self, *sent: tuple[int, Upload]) -> list[int]:
        """The statuses of requests that are sent again while S3 is too slow."""
        while 503 in (statuses := [one.status for one in self.replicas.send(*sent)]):
            self.statuses.update(statuses)
        return statuses

    def made_known(self, *sent: tuple[int, Upload]) -> None:
        """Send the same request to each; one of them is told that the key is new, where nobody was put off."""
        before, statuses = self.statuses[503], self.insist(*sent)
        assert set(statuses) <= {200, 201}
        assert statuses.count(201) == 1 or self.statuses[503] > before

    def next(self, item: Item, step: Step) -> Sent:
        """A new request that goes on where the model stands, with so many bytes where it is a piece."""
        act, size = step
        if act != "piece":
            return make(self.robot, act, item, end=size)
        if self.id_of(item) not in self.model.created:
            return make(self.robot, "create", item, end=min(size, THIRDS[-2]))
        begin = self.model.offset(self.id_of(item))
        return make(self.robot, "piece", item, begin=begin, end=min(begin + size, THIRDS[-1]))

    def note(self, *sent: Sent) -> None:
        """Nobody knows what these came to: the model takes over what is there, where they can have made it."""
        self.sent.extend(sent)
        found, before = self.look(), self.model
        new = {seq: sha256 for seq, sha256 in found.stored.items() if seq not in before.stored}
        assert {**found.stored, **before.stored} == found.stored
        possible = {(one.item.seq, one.item.sha256) for one in sent if one.completes}
        assert set(new.items()) | (found.conflicts - before.conflicts) <= possible
        assert before.conflicts <= found.conflicts
        assert found.created - before.created <= {one.id for one in sent if one.act == "create"}
        self.model = found

    def believe(self, sent: Sent, answer: Answer) -> None:
        """An acknowledgement is of what is stored, a conflict of something else; 201 is said once."""
        assert answer.status in (200, 201, 204, 404, 409, 503), answer
        self.statuses[answer.status] += 1
        stored = self.model.stored.get(sent.item.seq)
        if "sha256" in answer.said:
            receipt = wire.Receipt.from_json(answer.said)
            assert receipt.already_stored is (answer.status == 200)
            assert (receipt.sha256, receipt.key) == (sent.item.sha256, sent.item.key(self.robot.name))
            assert receipt.sha256 == stored
            self.made[sent.item.seq] = self.made.get(sent.item.seq, 0) + (answer.status == 201)
            assert self.made[sent.item.seq] <= 1, "created twice"
        if answer.said.get("code") == "conflict":
            assert answer.said["stored_sha256"] == stored != sent.item.sha256

    def look(self) -> Model:
        """The bucket as a model; fails where a name is of no form of ours, or bytes are not what their name says."""
        name = self.robot.name
        stored = {int(seq): self.unchanged(seq) for seq in self.bucket.names(f"raw/{name}/{RECORDING}/telemetry")}
        conflicts = set()
        for entry in self.bucket.entries(f"conflicts/{name}/{RECORDING}/telemetry"):
            seq, _, sha256 = entry.name.partition("/")
            kept = self.bucket.read(f"conflicts/{name}/{RECORDING}/telemetry/{entry.name}")
            assert kept is not None
            assert hashlib.sha256(kept[1]).hexdigest() == sha256 == kept[0].attributes["sha256"]
            conflicts.add((int(seq), sha256))
        created, pieces = as_pieces((one.name, one.size) for one in self.bucket.entries(f"uploads/{name}"))
        return Model(stored, conflicts, created, pieces)

    def unchanged(self, seq: str) -> str:
        """The SHA-256 of a stored segment, which is that of a request, and is as it was when it was first looked at."""
        found = self.bucket.read(f"raw/{self.robot.name}/{RECORDING}/telemetry/{seq}")
        assert found is not None
        assert self.seen.setdefault(seq, found) == found
        assert any(facts_of(found[0]) == one.facts and found[1] == one.item.body for one in self.sent)
        return found[0].attributes["sha256"]

    def id_of(self, item: Item) -> str:
        return make(self.robot, "ask", item).id


def facts_of(head: Head) -> dict[str, str]:
    return {name: value for name, value in head.attributes.items() if name != "received-ns"}


def new_key(robot: Robot, following: Robot) -> Upload:
    """The request that makes the key of `following` known, in the name of `robot`."""
    target = wire.keys_target(robot.name)
    public = base64.b64encode(signing.public_bytes(following.key.public_key())).decode()
    body = json.dumps({"public_key": public, "proof": following.token(target, "")}).encode()
    return robot.upload(body, target=target)


@pytest.mark.parametrize(
    ("way", "test", "soak"), [(in_process, 30, 2000), (over_sockets, 4, 200)], ids=["in-process", "over-sockets"]
)
def test_duplicates_at_two_replicas_leave_the_first_bytes_of_each_segment(
    storage: Storage, way: Callable[[Storage], AbstractContextManager[TwoReplicas]], test: int, soak: int
) -> None:
    limits = settings(
        max_examples=soak if is_soak() else test,
        stateful_step_count=20,
        deadline=None,
        derandomize=not is_soak(),
        phases=[Phase.generate, *([Phase.shrink] if is_soak() else [])],  # races do not shrink fast
        suppress_health_check=list(HealthCheck),
    )
    statuses = Counter[int]()
    with way(storage) as replicas:
        run_state_machine_as_test(lambda: Duplicates(storage, replicas, statuses), settings=limits)
    print(f"answers: {dict(sorted(statuses.items()))}")
    assert statuses[503] <= statuses.total() // 50, "S3 was too slow to say much"
