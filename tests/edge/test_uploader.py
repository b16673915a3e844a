"""Whatever the way to the server does, a segment stays until its receipt fits, and arrives once."""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest

from edge import signing, wire
from edge.identity import Identity
from edge.settings import EdgeSettings
from edge.spool import Spool, Spooled
from edge.uploader import Uploader

if TYPE_CHECKING:
    from tests.edge.conftest import Answer, Request, ScriptedServer, SpoolView

RECORDING = "01J00000000000000000000000"
OLDER = "01H00000000000000000000000"
NOW_NS = 1_760_000_000_000_000_000
Until = Callable[..., None]


class Robot:
    """An uploader on a spool, with a server to talk to."""

    def __init__(self, folder: Path, server: ScriptedServer, identity: Identity, seen: SpoolView) -> None:
        self.seen, self.server, self._identity = seen, server, identity
        self.spool = Spool(folder)
        self.settings = EdgeSettings(
            folder=folder, url=server.url, scan_s=0.01, max_backoff_s=0.02, timeout_s=5, uploads_at_once=1
        )
        self.clock_ns = NOW_NS

    def uploader(self, **changed: Any) -> Uploader:
        settings = self.settings.model_copy(update=changed)
        clock = lambda: self.clock_ns  # noqa: E731
        return Uploader(self.spool, self._identity, settings=settings, clock=clock, random_=random.Random(1))

    @contextmanager
    def running(self, *, until_empty: bool = False, **changed: Any) -> Iterator[tuple[Uploader, threading.Thread]]:
        uploader, stop, failed = self.uploader(**changed), threading.Event(), []

        def run() -> None:
            try:
                uploader.run(stop, until_empty=until_empty)
            except BaseException as error:  # noqa: BLE001
                failed.append(error)

        working = threading.Thread(target=run)
        working.start()
        try:
            yield uploader, working
        finally:
            stop.set()
            self.server.gate.set()
            working.join(20)
            assert not working.is_alive()
            assert not failed, failed

    def empty(self, **changed: Any) -> Uploader:
        """Upload until nothing waits."""
        with self.running(until_empty=True, **changed) as (uploader, working):
            working.join(20)
            assert not working.is_alive(), f"still trying: {uploader.state.last_error}"
        return uploader

    def seqs(self) -> list[tuple[str, str, int]]:
        """What was asked of the server, in order."""
        asked = [parse_qs(urlsplit(one.target).query) for one in self.server.requests]
        return [(one["recording"][0], one["stream"][0], int(one["seq"][0])) for one in asked]

    def claims(self, request: Request) -> dict[str, Any]:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        return jwt.decode(token, options={"verify_signature": False})


@pytest.fixture
def agent(tmp_path: Path, server: ScriptedServer, robot: Identity, view: Callable[[Path], SpoolView]) -> Robot:
    return Robot(tmp_path, server, robot, view(tmp_path))


def _is_stored(agent: Robot, *added: Spooled) -> bool:
    stored = {one.stem for one in agent.spool.acknowledged(RECORDING)}
    return stored == {one.stem for one in added} and not list(agent.spool.waiting())


def test_everything_that_waits_is_uploaded_and_then_it_ends(agent: Robot) -> None:
    added = [agent.seen.add(seq) for seq in range(5)]
    bodies = [agent.seen.body(one) for one in added]
    uploader = agent.empty()
    assert _is_stored(agent, *added)
    assert list(agent.server.stored.values()) == bodies
    assert (uploader.state.uploaded, uploader.state.uploaded_bytes) == (5, sum(map(len, bodies)))
    assert len(agent.server.requests) == 5


def test_an_empty_spool_ends_at_once(agent: Robot) -> None:
    agent.empty()
    assert agent.server.requests == []


def test_a_request_is_signed_for_just_what_it_carries(agent: Robot, robot: Identity) -> None:
    added = agent.seen.add(3, stream="head")
    body = agent.seen.body(added)
    agent.empty()
    (request,) = agent.server.requests
    assert request.body == body
    assert request.target == wire.upload_target(
        added.named("g1-007"), kind="video", start_ns=added.start_ns, end_ns=added.end_ns
    )
    assert request.headers["Content-Type"] == "application/vnd.mcap"
    assert request.headers[wire.ROBOT_TIME_HEADER] == str(NOW_NS)
    signing.verify_request(
        request.headers["Authorization"].removeprefix("Bearer "),
        robot.key.public_key,
        robot="g1-007",
        method="POST",
        target=request.target,
        digest=wire.content_digest(bytes.fromhex(added.sha256)),
        now_ns=NOW_NS,
        fields=signing.fields_claim(request.headers),
    )


def test_a_busy_server_gets_the_time_it_asks_for(agent: Robot) -> None:
    added = agent.seen.add(0)
    agent.server.script = [lambda _: agent.server.problem(503, "busy", "later", Retry_After="0.4")]
    uploader = agent.empty()
    first, second = agent.server.requests
    assert second.at_s - first.at_s >= 0.4
    assert _is_stored(agent, added)
    assert (uploader.state.failures_in_a_row, uploader.state.last_error) == (0, "")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_fault_is_tried_again(agent: Robot, status: int) -> None:
    added = agent.seen.add(0)
    agent.server.script = [lambda _: agent.server.page(status)] * 3
    agent.empty()
    assert len(agent.server.requests) == 4
    assert _is_stored(agent, added)


def test_a_reset_connection_is_tried_again(agent: Robot) -> None:
    added = agent.seen.add(0)
    agent.server.script = [agent.server.reset, agent.server.reset]
    agent.empty()
    assert _is_stored(agent, added)


def test_a_lost_receipt_does_not_store_or_count_a_segment_twice(agent: Robot) -> None:
    added = agent.seen.add(0)

    def store_and_reset(request: Request) -> Answer:
        agent.server.store(request)
        return agent.server.reset(request)

    agent.server.script = [store_and_reset]
    uploader = agent.empty()
    assert len(agent.server.stored) == 1
    assert _is_stored(agent, added)
    assert uploader.state.uploaded == 1


def test_a_server_that_is_not_there_keeps_everything(agent: Robot, until: Until) -> None:
    agent.seen.add(0)
    agent.server.close()
    with agent.running() as (uploader, _):
        until(lambda: uploader.state.failures_in_a_row >= 3)
        assert "Connection" in uploader.state.last_error
    assert len(list(agent.spool.waiting())) == 1


def _bad_receipts() -> list[Any]:
    return [
        {"sha256": "00" * 32},
        {"bytes": 1},
        {"key": f"raw/g1-007/{RECORDING}/telemetry/0000000001"},
        {"sha256": None},
        [],
        ["key"],
        7,
        "stored",
        None,
        {},
    ]


@pytest.mark.parametrize("bad", _bad_receipts())
def test_a_receipt_that_does_not_fit_frees_nothing(agent: Robot, until: Until, bad: Any) -> None:
    added = agent.seen.add(0)

    def answer(request: Request) -> Answer:
        value = agent.server.receipt(request, **bad) if isinstance(bad, dict) and bad else bad
        return agent.server.json(201, value)

    agent.server.script = [answer] * 1000
    with agent.running() as (uploader, _):
        until(lambda: len(agent.server.requests) >= 3)
        assert agent.spool.acknowledged(RECORDING) == []
        assert agent.spool.data_path(added).exists()
        assert "receipt" in uploader.state.last_error
        agent.server.script.clear()
        until(lambda: _is_stored(agent, added))


def test_a_captive_portal_that_says_200_frees_nothing(agent: Robot, until: Until) -> None:
    added = agent.seen.add(0)
    agent.server.script = [lambda _: agent.server.page(200)] * 2
    agent.empty()
    assert len(agent.server.requests) == 3
    assert _is_stored(agent, added)


def _refuse_first(agent: Robot, status: int, code: str, detail: str) -> Callable[[Request], Answer]:
    """Refuses the segment 0, however often it comes; takes the rest."""

    def answer(request: Request) -> Answer:
        is_first = "seq=0&" in request.target and request.headers["Content-Type"] == wire.MCAP_TYPE
        return agent.server.problem(status, code, detail) if is_first else agent.server.store(request)

    return answer


def test_a_refusal_counts_when_it_is_said_twice_with_the_same_words(agent: Robot) -> None:
    """A bit that changed on the way, there or back, can look like any refusal."""
    added = agent.seen.add(0)
    codes = ("bad_parameter", "conflict", "bad_parameter")
    agent.server.script = [lambda _, code=code: agent.server.problem(400, code, "no") for code in codes]  # type: ignore[misc]
    agent.empty()
    assert len(agent.server.requests) == len(codes) + 1
    assert agent.spool.quarantined() == []
    assert _is_stored(agent, added)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_the_server_refuses_is_quarantined_with_its_words(agent: Robot, status: int) -> None:
    added = [agent.seen.add(seq) for seq in range(2)]
    body = agent.seen.body(added[0])
    agent.server.script = [_refuse_first(agent, status, "bad_body", "this is not MCAP")] * 1000
    uploader = agent.empty()
    assert agent.spool.quarantined() == [(added[0], "bad_body: this is not MCAP")]
    assert (agent.spool.folder / "quarantine" / f"{added[0].stem}.mcap").read_bytes() == body
    stored = agent.spool.acknowledged(RECORDING)
    assert [(one.seq, one.is_gap, one.cause) for one in stored] == [(0, True, "quarantined"), (1, False, "")]
    assert uploader.state.uploaded == 2, "the gap record goes in the segment's place"
    assert not list(agent.spool.waiting())


def test_other_bytes_under_its_name_leave_no_gap_record(agent: Robot) -> None:
    added = [agent.seen.add(seq) for seq in range(2)]
    agent.server.script = [_refuse_first(agent, 409, "conflict", "other bytes are stored")] * 1000
    agent.empty()
    assert [item for item, _ in agent.spool.quarantined()] == [added[0]]
    assert _is_stored(agent, added[1])


@pytest.mark.parametrize("status", [400, 404, 405, 407, 413, 451])
def test_a_proxys_refusal_is_not_the_servers_and_quarantines_nothing(agent: Robot, status: int) -> None:
    added = agent.seen.add(0)
    agent.server.script = [lambda _: agent.server.page(status)] * 2
    agent.empty()
    assert agent.spool.quarantined() == []
    assert _is_stored(agent, added)


@pytest.mark.parametrize(
    ("status", "code"), [(401, "bad_signature"), (401, "unknown_key"), (403, "wrong_robot"), (403, "unknown")]
)
def test_a_robot_that_is_not_let_in_keeps_its_data(agent: Robot, until: Until, status: int, code: str) -> None:
    added = agent.seen.add(0)
    agent.server.script = [lambda _: agent.server.problem(status, code, "not you")] * 1000
    with agent.running() as (uploader, _):
        until(lambda: len(agent.server.requests) >= 3)
        assert agent.spool.quarantined() == []
        assert f"{status} {code}: not you" in uploader.state.last_error
        agent.server.script.clear()
        until(lambda: _is_stored(agent, added))


def test_a_wrong_clock_is_set_right_by_the_servers_word(agent: Robot) -> None:
    added = agent.seen.add(0)
    server_ns = NOW_NS + 7_200 * 10**9
    headers = {wire.SERVER_TIME_HEADER: str(server_ns)}
    refused = replace(agent.server.problem(401, "clock", "your clock is wrong"), headers=headers)
    agent.server.script = [lambda _: refused]
    uploader = agent.empty()
    first, second = (agent.claims(one)["iat"] for one in agent.server.requests)
    assert (first, second) == (NOW_NS // 10**9, server_ns // 10**9)
    assert [one.headers[wire.ROBOT_TIME_HEADER] for one in agent.server.requests] == [str(NOW_NS)] * 2
    assert uploader.state.clock_offset_ns == pytest.approx(7_200 * 10**9, abs=10**10)
    assert _is_stored(agent, added)


@pytest.mark.parametrize("told", ["", "soon", "-5", "1.5", "²"])
@pytest.mark.parametrize("code", ["clock", "bad_signature"])
def test_nonsense_about_the_time_changes_no_clock(agent: Robot, told: str, code: str) -> None:
    agent.seen.add(0)
    headers = {wire.SERVER_TIME_HEADER: told if code == "clock" else "5"}
    refused = replace(agent.server.problem(401, code, "x"), headers=headers)
    agent.server.script = [lambda _: refused]
    assert agent.empty().state.clock_offset_ns == 0


def test_telemetry_goes_before_video_and_the_oldest_first(agent: Robot) -> None:
    for seq, stream, recording in (
        (1, "head", RECORDING),
        (0, "head", OLDER),
        (2, "telemetry", RECORDING),
        (0, "head", RECORDING),
        (0, "telemetry", RECORDING),
        (1, "telemetry", RECORDING),
        (5, "telemetry", OLDER),
        (10, "telemetry", RECORDING),
    ):
        agent.seen.add(seq, stream=stream, recording=recording)
    agent.empty()
    assert agent.seqs() == [
        (OLDER, "telemetry", 5),
        *((RECORDING, "telemetry", seq) for seq in (0, 1, 2, 10)),
        (OLDER, "head", 0),
        *((RECORDING, "head", seq) for seq in (0, 1)),
    ]


def test_telemetry_that_comes_later_overtakes_waiting_video(agent: Robot, until: Until) -> None:
    for seq in range(4):
        agent.seen.add(seq, stream="head")
    agent.server.gate.clear()
    with agent.running() as (uploader, _):
        until(lambda: len(agent.server.requests) == 1)
        agent.seen.add(0)
        until(lambda: len(uploader.backlog) == 5)
        agent.server.gate.set()
        until(lambda: len(agent.server.stored) == 5)
    assert [stream for _, stream, _ in agent.seqs()] == ["head", "telemetry", "head", "head", "head"]


def test_segments_sealed_while_it_runs_are_uploaded(agent: Robot, until: Until) -> None:
    with agent.running():
        for seq in range(3):
            added = agent.seen.add(seq)
            until(lambda stem=added.stem: stem in {one.stem for one in agent.spool.acknowledged(RECORDING)})
    assert len(agent.server.requests) == 3


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_no_more_uploads_run_at_once_than_allowed(agent: Robot, until: Until, at_once: int) -> None:
    added = [agent.seen.add(seq) for seq in range(8)]
    agent.server.gate.clear()
    with agent.running(uploads_at_once=at_once, until_empty=True) as (_, working):
        until(lambda: agent.server.inside == at_once)
        agent.server.gate.set()
        working.join(20)
    assert agent.server.most_inside == at_once
    assert _is_stored(agent, *added)


def test_being_told_to_stop_ends_a_long_wait_soon(agent: Robot, until: Until) -> None:
    agent.seen.add(0)
    agent.server.script = [lambda _: agent.server.problem(503, "busy", "later", Retry_After="3000")]
    stop = threading.Event()
    working = threading.Thread(target=agent.uploader().run, args=(stop,))
    working.start()
    until(lambda: agent.server.requests)
    stop.set()
    working.join(3)
    assert not working.is_alive()
    assert len(list(agent.spool.waiting())) == 1


def test_a_hanging_server_is_given_up_after_the_timeout(agent: Robot) -> None:
    added = agent.seen.add(0)
    never = threading.Event()

    def hang(request: Request) -> Answer:
        never.wait(10)
        return agent.server.reset(request)

    agent.server.script = [hang]
    agent.empty(timeout_s=0.2)
    never.set()
    assert len(agent.server.requests) == 2
    assert _is_stored(agent, added)


def test_two_agents_on_one_folder_store_and_count_each_segment_once(agent: Robot, until: Until) -> None:
    added = [agent.seen.add(seq) for seq in range(6)]
    agent.server.gate.clear()
    with agent.running(until_empty=True) as (_, one), agent.running(until_empty=True) as (_, other):
        until(lambda: agent.server.inside == 2)
        agent.server.gate.set()
        one.join(20)
        other.join(20)
        assert not one.is_alive()
        assert not other.is_alive()
    assert len(agent.spool.acknowledged(RECORDING)) == 6
    assert _is_stored(agent, *added)


def test_a_segment_that_another_agent_carried_meanwhile_is_not_tried_for_ever(agent: Robot) -> None:
    added = agent.seen.add(0)

    def other_agent_was_faster(request: Request) -> Answer:
        receipt = wire.Receipt.from_json(agent.server.receipt(request))
        agent.spool.acknowledge(added, receipt)
        return agent.server.problem(503, "busy", "later")

    agent.server.script = [other_agent_was_faster]
    agent.empty()
    assert len(agent.server.requests) == 1
    assert _is_stored(agent, added)


def test_an_error_that_nobody_expected_ends_the_run_and_is_raised(
    agent: Robot, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seq in range(2):
        agent.seen.add(seq)
    agent.server.script = [lambda _: agent.server.problem(503, "busy", "later", Retry_After="3000")]
    send, failed = Uploader._send, threading.Event()

    def break_one(uploader: Uploader, stem: str) -> Any:
        if stem.endswith("1"):
            until(lambda: uploader.state.failures_in_a_row)
            failed.set()
            raise ZeroDivisionError
        return send(uploader, stem)

    monkeypatch.setattr(Uploader, "_send", break_one)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            agent.uploader(uploads_at_once=2).run(stop)
        except ZeroDivisionError as error:
            raised.append(error)

    stop = threading.Event()
    working = threading.Thread(target=run)
    working.start()
    working.join(10)
    ended = not working.is_alive()
    stop.set()
    working.join(10)
    assert ended
    assert raised
    assert failed.is_set()


def test_the_private_key_is_in_no_request(agent: Robot, robot: Identity) -> None:
    agent.seen.add(0)
    agent.empty()
    raw = robot.key.private_bytes_raw()
    (request,) = agent.server.requests
    sent = request.body + json.dumps(request.headers).encode() + request.target.encode()
    assert not any(secret in sent for secret in (raw, raw.hex().encode(), base64.b64encode(raw)))
