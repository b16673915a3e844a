"""Gap records: uploaded as a segment is, stored once at the key of their first seq."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import requests

from edge import wire
from ingest_serve.raw_store import RawStore
from tests.ingest_serve.conftest import BODY, RECORDING, START_NS, Robot, Server, refusal

END_NS = START_NS + 10_000_000_000
GAP = wire.Gap(3, 5, START_NS, END_NS, "evicted", "the disk was full", 4096, {"/joint_states": 600})
KEY = f"raw/g1-001/{RECORDING}/telemetry/0000000003"


def send(robot: Robot, body: bytes, *, seq: int = 3, kind: wire.Kind = "telemetry") -> requests.Response:
    return robot.send(robot.upload(body, seq=seq, kind=kind, content_type=wire.GAP_TYPE))


@pytest.mark.parametrize("kind", ["telemetry", "video"])
def test_a_gap_is_stored_once_at_the_key_of_its_first_seq(server: Server, robot: Robot, kind: wire.Kind) -> None:
    for status in (201, 200):
        response = send(robot, GAP.as_bytes(), kind=kind)
        assert response.status_code == status
        receipt = wire.Receipt.from_json(response.json())
        sha256 = hashlib.sha256(GAP.as_bytes()).hexdigest()
        assert (receipt.key, receipt.sha256, receipt.already_stored) == (KEY, sha256, status == 200)
    raw, body = RawStore.open(server.storage).read(wire.SegmentId("g1-001", RECORDING, "telemetry", 3))
    assert (raw.kind, raw.content_type, raw.start_ns, raw.end_ns) == (kind, wire.GAP_TYPE, START_NS, END_NS)
    assert wire.Gap.parse(body) == GAP
    assert server.stored() == [KEY]


def test_a_gap_whose_first_segment_did_arrive_learns_so(server: Server, robot: Robot) -> None:
    assert robot.send(robot.upload(seq=3)).status_code == 201
    response = send(robot, GAP.as_bytes())
    assert refusal(response) == (409, "conflict")
    assert response.json()["stored_sha256"] == hashlib.sha256(BODY).hexdigest()
    assert RawStore.open(server.storage).get(wire.SegmentId("g1-001", RECORDING, "telemetry", 3)) == BODY


def test_a_segment_inside_a_gap_is_stored_all_the_same(server: Server, robot: Robot) -> None:
    send(robot, GAP.as_bytes())
    assert robot.send(robot.upload(seq=4)).status_code == 201
    assert RawStore.open(server.storage).list_after("g1-001", RECORDING, "telemetry", -1) == [3, 4]


@pytest.mark.parametrize(
    "gap",
    [
        replace(GAP, first_seq=2),
        replace(GAP, first_seq=4),
        replace(GAP, start_ns=START_NS + 1),
        replace(GAP, end_ns=END_NS + 1),
    ],
)
def test_a_gap_that_says_other_than_its_query_is_refused(server: Server, robot: Robot, gap: wire.Gap) -> None:
    assert refusal(send(robot, gap.as_bytes())) == (400, "bad_gap")
    assert server.stored() == []


@pytest.mark.parametrize(
    "changed",
    [{"last_seq": 2}, {"cause": "boredom"}, {"cause": "\ud800" * 9000}, {"counts": None}, {"size_bytes": "4 kB"}],
)
def test_a_gap_of_another_form_is_refused(server: Server, robot: Robot, changed: dict[str, Any]) -> None:
    response = send(robot, json.dumps({**asdict(GAP), **changed}).encode())
    assert refusal(response) == (400, "bad_gap")
    assert len(response.content) < 2_000
    assert server.stored() == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", BODY, b"[" * 60_000], ids=range(7))
def test_what_is_no_json_object_is_no_gap(server: Server, robot: Robot, body: bytes) -> None:
    assert refusal(send(robot, body)) == (400, "bad_gap")
    assert server.stored() == []


def test_a_gap_record_of_another_segment_s_type_is_no_segment(server: Server, robot: Robot) -> None:
    assert refusal(robot.send(robot.upload(GAP.as_bytes(), seq=3))) == (400, "not_a_segment")
    assert server.stored() == []


def test_a_gap_is_small(server: Server, robot: Robot) -> None:
    long = replace(GAP, reason="x" * (wire.MAX_GAP_BYTES - len(replace(GAP, reason="").as_bytes())))
    assert send(robot, long.as_bytes()).status_code == 201
    response = send(robot, replace(long, reason=long.reason + "x").as_bytes(), seq=4)
    assert refusal(response) == (413, "too_large")
    assert response.json()["max_bytes"] == wire.MAX_GAP_BYTES
