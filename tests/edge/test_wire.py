"""Names cannot leave their prefix, and what robot and server tell each other comes back as it was written."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge import wire
from edge.errors import BadName, EdgeError, GapError, SignatureError
from edge.wire import SegmentId

RECORDING = "01J00000000000000000000000"
NOW_NS = 1_760_000_000_000_000_000
BAD_NAMES = [
    "",
    ".",
    "..",
    "../a",
    "a/b",
    "a\0",
    "a\n",
    "A",
    "gH",
    "é",
    "a" * 64,
    "a" * 1_000_000,
    " a",
    "a b",
    "%2e",
    "-a",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_leave_its_prefix_is_refused(name: str) -> None:
    for check in (wire.check_robot, wire.check_stream, wire.check_recording):
        with pytest.raises(BadName) as caught:
            check(name)
        assert len(str(caught.value)) < 500


@given(st.text() | st.from_regex(r"[a-z0-9_./-]{1,70}", fullmatch=True))
def test_no_accepted_name_can_escape_its_prefix(name: str) -> None:
    for check in (wire.check_robot, wire.check_stream):
        try:
            check(name)
        except BadName:
            continue
        assert re.fullmatch(r"[a-z0-9._-]+", name, re.ASCII)
        assert len(name) <= 63
        assert not set("/\\\0%?#") & set(name)
        assert not name.startswith(".")


@given(robot=st.from_regex(wire._ROBOT, fullmatch=True), stream=st.from_regex(wire._STREAM, fullmatch=True))
def test_a_segments_key_has_five_parts_whatever_its_names(robot: str, stream: str) -> None:
    parts = SegmentId(robot, RECORDING, stream, 3).key.split("/")
    assert parts == ["raw", robot, RECORDING, stream, "0000000003"]
    assert "." not in parts
    assert ".." not in parts


@pytest.mark.parametrize("name", [RECORDING.lower(), "8" + RECORDING[1:], RECORDING[:-1], RECORDING + "0", "I" * 26])
def test_a_recording_that_is_no_ulid_is_refused(name: str) -> None:
    with pytest.raises(BadName):
        wire.check_recording(name)


@pytest.mark.parametrize("seq", [-1, wire.MAX_SEQ + 1])
def test_a_seq_that_would_break_the_keys_order_is_refused(seq: int) -> None:
    with pytest.raises(BadName, match="seq"):
        SegmentId("g1", RECORDING, "telemetry", seq)
    SegmentId("g1", RECORDING, "telemetry", wire.MAX_SEQ)


@given(st.integers(0, wire.MAX_SEQ), st.integers(0, wire.MAX_SEQ))
def test_keys_sort_as_their_seqs_do(one: int, other: int) -> None:
    keys = [SegmentId("g1", RECORDING, "telemetry", seq).key for seq in (one, other)]
    assert (keys[0] < keys[1]) == (one < other)


@given(st.binary(min_size=32, max_size=32))
def test_a_content_digest_comes_back_as_it_was_written(sha256: bytes) -> None:
    assert wire.parse_content_digest(wire.content_digest(sha256)) == sha256
    assert wire.parse_content_digest(f"sha-512=:AAAA:, {wire.content_digest(sha256)}") == sha256


@pytest.mark.parametrize("field", ["", "sha-256=abc", "sha-256=:abc:", "md5=:AAAA:", "sha-256=:" + "=" * 44 + ":"])
def test_a_field_without_a_sha256_is_a_value_error(field: str) -> None:
    with pytest.raises(ValueError):
        wire.parse_content_digest(field)


def test_a_receipt_comes_back_as_it_was_sent() -> None:
    receipt = wire.Receipt("raw/a", "00" * 32, 5, NOW_NS, already_stored=True)
    assert wire.Receipt.from_json(json.loads(json.dumps(receipt.as_json()))) == receipt


GAP = wire.Gap(3, 5, 10, 20, "evicted", "the disk was full", 4096, {"/joint_states": 600})


@given(
    seqs=st.tuples(st.integers(0, wire.MAX_SEQ), st.integers(0, wire.MAX_SEQ)).map(sorted),
    times=st.lists(st.integers(0, wire.MAX_TIME_NS), min_size=2, max_size=2, unique=True).map(sorted),
    cause=st.sampled_from(["evicted", "quarantined", "lost"]),
    reason=st.text(st.characters(exclude_categories=["Cs"])),
    counts=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**63)),
)
def test_a_gap_comes_back_as_it_was_written(
    seqs: list[int], times: list[int], cause: wire.Cause, reason: str, counts: dict[str, int]
) -> None:
    gap = wire.Gap(seqs[0], seqs[1], times[0], times[1], cause, reason, 7, counts)
    assert wire.Gap.parse(gap.as_bytes()) == gap
    assert wire.Gap.parse(gap.as_bytes()).as_bytes() == gap.as_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"first_seq": -1},
        {"first_seq": 6},
        {"last_seq": wire.MAX_SEQ + 1},
        {"first_seq": True},
        {"first_seq": 3.0},
        {"first_seq": "3"},
        {"start_ns": -1},
        {"start_ns": 20},
        {"end_ns": wire.MAX_TIME_NS + 1},
        {"cause": "boredom"},
        {"cause": None},
        {"reason": 7},
        {"size_bytes": None},
        {"counts": []},
        {"counts": {"/a": "many"}},
        {"counts": {"/a": 1.5}},
    ],
)
def test_what_is_no_gap_is_refused_as_such(changed: dict[str, object]) -> None:
    with pytest.raises(GapError):
        wire.Gap.parse(json.dumps({**asdict(GAP), **changed}).encode())


@pytest.mark.parametrize("name", wire.Gap.__slots__)
def test_a_gap_that_leaves_something_out_is_refused(name: str) -> None:
    fields = {other: value for other, value in asdict(GAP).items() if other != name}
    with pytest.raises(GapError):
        wire.Gap.parse(json.dumps(fields).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"null", b"\xff\xfe", b"[" * 60_000, b"9" * 5_000])
def test_bytes_that_are_no_object_are_no_gap(body: bytes) -> None:
    with pytest.raises(GapError):
        wire.Gap.parse(body)


INT64 = st.integers(-(2**63), 2**63 - 1)


@given(
    INT64,
    st.integers(0, 2**63 - 1),
    INT64,
    st.integers(0, 2**63 - 1),
    st.from_regex(r"[0-9a-f-]{1,64}", fullmatch=True),
)
@example(-(2**63), 2**63 - 1, -(2**63), 2**63 - 1, "0")
def test_a_robot_s_clock_comes_back_as_it_was_told(
    offset_ns: int, uncertainty_ns: int, drift_ppb: int, drift_uncertainty_ppb: int, boot: str
) -> None:
    clock = wire.RobotClock(offset_ns, uncertainty_ns, drift_ppb, drift_uncertainty_ppb, boot)
    assert wire.RobotClock.parse_field(clock.as_field()) == clock


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("offset-ns=-5", "offset-ns=+5"),
        ("offset-ns=-5", "offset-ns=5.0"),
        ("offset-ns=-5", "offset-ns=" + "9" * 20),
        ("offset-ns=-5", "offset-ns=" + "9" * 19),  # more than 64 bits hold
        ("uncertainty-ns=6", f"uncertainty-ns={2**63}"),
        ("uncertainty-ns=6, ", "uncertainty-ns=-6, "),
        ("drift-ppb=7, ", ""),
        ('boot="0a-1b"', "boot=0a-1b"),
        ('boot="0a-1b"', 'boot=""'),
        ('boot="0a-1b"', 'boot="0A"'),
        ('boot="0a-1b"', 'boot="0a-1b"\n'),
        ('boot="0a-1b"', f'boot="{"a" * 65}"'),
    ],
)
def test_a_clock_of_another_form_is_a_value_error(good: str, bad: str) -> None:
    field = wire.RobotClock(-5, 6, 7, 8, "0a-1b").as_field()
    with pytest.raises(ValueError):
        wire.RobotClock.parse_field(field.replace(good, bad))


def test_an_upload_has_one_id_for_one_content_at_one_place() -> None:
    target = wire.upload_target(SegmentId("g1", RECORDING, "telemetry", 0), kind="video", start_ns=1, end_ns=2)
    other = wire.upload_target(SegmentId("g1", RECORDING, "telemetry", 1), kind="video", start_ns=1, end_ns=2)
    ids = [wire.upload_id(*what) for what in ((target, "00"), (target, "01"), (other, "00"), (target, "00"))]
    assert ids[0] == ids[3]
    assert len(set(ids)) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in ids)
    assert wire.resume_target("g1", ids[0]) == f"/v1/robots/g1/uploads/{ids[0]}"


def test_no_target_is_made_for_a_name_that_could_leave_its_prefix() -> None:
    for make in (wire.enrol_target, wire.keys_target, lambda robot: wire.resume_target(robot, "0" * 32)):
        with pytest.raises(BadName):
            make("../g1")
    assert wire.keys_target("g1") == "/v1/robots/g1/keys"
    assert wire.keys_target("g1", "0" * 16) == f"/v1/robots/g1/keys/{'0' * 16}"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b"null", b'{"code":"x"}', b"\xff\xfe", b"x" * 10_000])
def test_an_error_page_of_somebody_else_has_the_code_unknown(body: bytes) -> None:
    problem = wire.problem(body)
    assert problem.code == wire.UNKNOWN
    assert len(problem.detail) <= 200


def test_every_error_of_the_robot_side_is_an_edge_error() -> None:
    assert issubclass(BadName, EdgeError)
    assert issubclass(BadName, ValueError)
    assert issubclass(SignatureError, EdgeError)
