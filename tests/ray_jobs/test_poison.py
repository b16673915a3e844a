"""Bytes that make a library fail in ways nobody foresaw are quarantined or kept undecoded; nothing is raised."""

from __future__ import annotations

import json

import pytest

from edge.segment import Message, Topic, build
from edge.wire import MCAP_TYPE, RobotClock, SegmentId
from ingest_serve.raw_store import RawObject
from ray_jobs import telemetry
from ray_jobs.errors import MediaError, MessageError, SpecError
from ray_jobs.examine import Stored, examine, examine_apart
from ray_jobs.flatten import MAX_COLUMNS, OWN, table_name
from ray_jobs.poison import blamed_on
from ray_jobs.sandbox import Sandbox

SEGMENT = SegmentId("g1-007", "01J00000000000000000000000", "telemetry", 0)
T_NS = 1_760_000_000_000_000_000


def mcap(*messages: Message) -> bytes:
    built = build(messages)
    assert built
    return built[1]


def stored(body: bytes, *, kind: str = "telemetry", robot_clock: str | None = None) -> Stored:
    raw = RawObject(
        segment=SEGMENT,
        kind=kind,  # type: ignore[arg-type]
        content_type=MCAP_TYPE,
        bytes=len(body),
        sha256="",
        start_ns=T_NS,
        end_ns=T_NS + 1,
        robot_time_ns=None,
        key_id="",
        received_ns=0,
        robot_clock=robot_clock,
    )
    return Stored(SEGMENT, raw, body)


def topic(*, schema: bytes = b"") -> Topic:
    return Topic("/x", "json", "x", "jsonschema", schema) if schema else Topic("/x", "json")


def load(*messages: Message) -> tuple[list[dict[str, object]], int]:
    """The rows, and how many messages could not be decoded."""
    schema = telemetry.infer_schema(messages)
    loaded = telemetry.load(schema, telemetry.read(SEGMENT, mcap(*messages)))
    return [row for batch in loaded.batches for row in batch.to_pylist()], loaded.undecoded


@pytest.mark.parametrize("error", [AttributeError("codec"), MemoryError(), RecursionError(), OverflowError()])
def test_whatever_a_decoder_raises_quarantines_the_segment(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("ray_jobs.examine.read_track", fail)
    row = examine(stored(b"", kind="video"), index_version=1)
    assert row["state"] == "quarantined"
    assert type(error).__name__ in row["reason"]


def test_what_ends_its_process_twice_is_quarantined_and_the_next_is_looked_into() -> None:
    body = mcap(Message(topic(), T_NS, 0, b"{}"))
    sandbox = Sandbox(memory_bytes=512 << 20, limit_s=30)
    try:
        sandbox.limit_s = 0.0
        row = examine_apart(stored(body), sandbox, index_version=3)
        assert (row["state"], row["index_version"], row["key"]) == ("quarantined", 3, SEGMENT.key)
        assert row["reason"] == "looking into it failed 2 times: it took longer than 0 s"
        sandbox.limit_s = 30.0
        assert examine_apart(stored(body), sandbox, index_version=3) == examine(stored(body), index_version=3)
    finally:
        sandbox.close()


def test_a_time_that_no_table_can_hold_quarantines_the_segment() -> None:
    row = examine(stored(mcap(Message(topic(), 2**63, 0, b"{}"))), index_version=1)
    assert row["state"] == "quarantined"
    assert "time must be below" in row["reason"]


def test_what_the_robot_knew_of_its_clock_is_kept_with_the_segment() -> None:
    told = RobotClock(-81_250, 900_000, 140, 20, "4b1e").as_field()
    row = examine(stored(mcap(Message(topic(), T_NS, 0, b"{}")), robot_clock=told), index_version=1)
    assert [row[f"clock_{name}"] for name in ("offset_ns", "uncertainty_ns", "drift_ppb")] == [-81_250, 900_000, 140]
    row = examine(stored(mcap(Message(topic(), T_NS, 0, b"{}")), robot_clock="of another release"), index_version=1)
    assert (row["state"], row.get("clock_offset_ns")) == ("ok", None)


def test_a_deeply_nested_message_is_kept_as_its_bytes_and_the_others_become_rows() -> None:
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    deeper = b"[" * 100_000 + b"]" * 100_000
    rows, undecoded = load(*(Message(topic(), T_NS + n, n, data) for n, data in enumerate([b'{"v":1}', deep, deeper])))
    assert rows[0]["v"] == 1
    assert len(rows) == 3
    assert undecoded >= 1
    assert all(row["extra"] for row in rows[1:])


@pytest.mark.parametrize(
    "properties",
    [
        {"a": {"type": [["x"]]}},
        {"a": {"type": {"x": 1}}},
        {"a": {"type": "array", "items": {"type": ["number"]}}},
        {"a": {"type": [{}]}},
    ],
)
def test_a_json_schema_of_nonsense_stops_nothing(properties: dict[str, object]) -> None:
    declared = json.dumps({"properties": properties}).encode()
    rows, undecoded = load(Message(topic(schema=declared), T_NS, 0, b'{"a": 1.5}'))
    assert (len(rows), undecoded) == (1, 0)
    assert rows[0].get("a") == 1.5 or "1.5" in str(rows[0]["extra"])


def test_a_json_schema_nested_without_end_stops_nothing() -> None:
    declared = b'{"properties":' + b"[" * 100_000
    rows, _ = load(Message(topic(schema=declared), T_NS, 0, b'{"a": 1.5}'))
    assert rows[0]["a"] == 1.5


def test_a_message_with_endless_fields_makes_no_endless_table() -> None:
    wide = json.dumps({f"f{n}": n for n in range(5 * MAX_COLUMNS)}).encode()
    rows, undecoded = load(Message(topic(), T_NS, 0, wide))
    assert undecoded == 0
    assert len(rows[0]) == len(OWN) + MAX_COLUMNS + 1
    assert f'"f{5 * MAX_COLUMNS - 1}"' in str(rows[0]["extra"])


def test_errors_of_ours_keep_their_words() -> None:
    with pytest.raises(MediaError, match=r"^a picture is missing$"), blamed_on(MessageError, "x"):
        raise MediaError("a picture is missing")
    with pytest.raises(SpecError, match="x: ZeroDivisionError: "), blamed_on(SpecError, "x"):
        _ = 1 / 0


def test_field_names_that_lance_refuses_get_others() -> None:
    data = json.dumps({"observation.state": [1.0, 2.0], "_rowid": 7, "A": 1, "a": 2, "\ud800": 3}).encode()
    rows, undecoded = load(Message(topic(), T_NS, 0, data))
    assert undecoded == 0
    assert rows[0]["observation_state"] == [1.0, 2.0]
    assert rows[0]["__rowid"] == 7
    assert (rows[0]["A"], rows[0]["a_"]) == (1, 2)  # SQL takes no notice of case


def test_a_nullable_array_declared_by_a_json_schema_is_a_column() -> None:
    declared = json.dumps({"properties": {"a": {"type": "array", "items": {"type": ["number", "null"]}}}}).encode()
    rows, _ = load(Message(topic(schema=declared), T_NS, 0, b'{"a": [1.5]}'))
    assert rows[0]["a"] == [1.5]


def test_a_topic_that_cannot_name_a_table_quarantines_its_segment() -> None:
    row = examine(stored(mcap(Message(Topic("/" + "x" * 10_000, "json"), T_NS, 0, b"{}"))), index_version=1)
    assert row["state"] == "quarantined"
    assert "can name a table" in row["reason"]


def test_a_segment_of_more_topics_than_become_tables_is_quarantined_and_escaped_bytes_count() -> None:
    many = [Message(Topic(f"/t{number}", "json"), T_NS, 0, b"{}") for number in range(1001)]
    assert examine(stored(mcap(*many[1:])), index_version=1)["state"] == "ok"
    assert "has 1001 topics" in examine(stored(mcap(*many)), index_version=1)["reason"]
    for umlauts, state in ((41, "ok"), (42, "quarantined")):  # six bytes each in the name of the table
        row = examine(stored(mcap(Message(Topic("/" + "ä" * umlauts, "json"), T_NS, 0, b"{}"))), index_version=1)
        assert row["state"] == state


def test_no_topic_is_a_table_without_a_name() -> None:
    assert table_name("/") not in ("", table_name(""), table_name("~"), table_name("/~"))
