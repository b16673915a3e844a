"""load_telemetry on a real S3 and a real Ray."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dataset_catalog import publish, versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from edge.segment import Message, Topic, build
from ray_jobs import index_segments, load_telemetry, telemetry
from ray_jobs.settings import JobsSettings

T0 = 1_760_000_000_000_000_000
KINDS = {"streams": {"type": "object"}, "clock": {"type": ["object", "null"]}, "alarms": {"type": "array"}}
STATUS = Topic("/agent/status", "json", "S", "jsonschema", json.dumps({"type": "object", "properties": KINDS}).encode())


def tables(storage: Storage) -> dict[str, list[dict[str, Any]]]:
    manifest = versions.newest(storage, versions.TELEMETRY)
    order = [(name, "ascending") for name in ("recording_id", "stream", "seq", "sequence")]
    return {
        table: open_table(storage, versions.TELEMETRY, manifest, table).to_table().sort_by(order).to_pylist()
        for table in (manifest.tables if manifest else {})
    }


def run_both(storage: Storage, jobs: JobsSettings) -> Any:
    index_segments.run(storage, jobs)
    return load_telemetry.run(storage, jobs)


def test_every_message_becomes_a_row_and_a_second_run_changes_nothing(robot: Any, jobs: JobsSettings) -> None:
    robot.log(("/joint_states", T0, {"position": [1, 2.5]}), ("/arm.left", T0 + 1, {"pose": {"x": 0.5}, "on": True}))
    summary = run_both(robot.storage, jobs)
    assert (summary.versions, summary.rows) == ((1,), {"arm~2Eleft": 1, "joint_states": 1})
    found = tables(robot.storage)
    own = {"robot_id": robot.name, "recording_id": robot.recording, "stream": "telemetry", "seq": 0}
    assert found["joint_states"] == [{**own, "t_ns": T0, "sequence": 0, "position": [1.0, 2.5], "extra": None}]
    assert found["arm~2Eleft"] == [{**own, "t_ns": T0 + 1, "sequence": 1, "pose_x": 0.5, "on": True, "extra": None}]
    assert run_both(robot.storage, jobs).versions == ()
    assert tables(robot.storage) == found


def test_what_the_table_has_no_column_for_stays_in_extra(robot: Any, jobs: JobsSettings) -> None:
    robot.log(("/battery", T0, {"percent": 80}))
    run_both(robot.storage, jobs)
    robot.log(("/battery", T0 + 1, {"percent": "full", "cells": [{"v": 3.7}]}), ("/new", T0 + 2, {"a": 2**60}))
    summary = run_both(robot.storage, jobs)
    assert (summary.versions, summary.counts["messages"]) == ((2,), 2)
    _, second = tables(robot.storage)["battery"]
    assert (second["percent"], second["percent_as_string"]) == (None, "full")
    assert json.loads(second["extra"]) == {"cells": [{"v": 3.7}]}
    assert json.loads(tables(robot.storage)["new"][0]["extra"]) == {"a": 2**60}


def test_a_table_grows_with_its_topic(robot: Any, jobs: JobsSettings) -> None:
    robot.log(("/arm", T0, {"q": [1.0], "mode": "on"}))
    robot.log(("/arm", T0 + 1, {"q": [2.0], "grip": {"force": 3}}))  # in the same run, too
    run_both(robot.storage, jobs)
    robot.log(("/arm", T0 + 2, {"q": 4, "mode": 7, "grip": {"force": 5, "slip": True}}))
    run_both(robot.storage, jobs)
    rows = tables(robot.storage)["arm"]
    own = ("robot_id", "recording_id", "stream", "seq", "t_ns", "sequence")
    assert [{name: value for name, value in row.items() if name not in own and value is not None} for row in rows] == [
        {"q": [1.0], "mode": "on"},
        {"q": [2.0], "grip_force": 3.0},
        {"q_as_double": 4.0, "mode_as_double": 7.0, "grip_force": 5.0, "grip_slip": True},
    ]
    assert [row["seq"] for row in rows] == [0, 1, 2]


def test_numbers_of_one_length_are_vectors_and_one_of_another_length_goes_beside(
    robot: Any, jobs: JobsSettings
) -> None:
    robot.log(*(("/arm", T0 + n, {"q": [n, 0.5], "pose": {"at": [1.0, 2, n]}, "ids": [n] * n}) for n in range(3)))
    run_both(robot.storage, jobs)
    robot.log(("/arm", T0 + 9, {"q": [1, 2, 3]}), ("/arm", T0 + 10, {"q": None}), ("/arm", T0 + 11, {"q": [None, 1]}))
    robot.log(("/arm", T0 + 12, {"q": [7.5, 8], "pose": {"at": []}}))
    run_both(robot.storage, jobs)
    manifest = versions.newest(robot.storage, versions.TELEMETRY)
    schema = open_table(robot.storage, versions.TELEMETRY, manifest, "arm").schema
    assert (schema.field("q").type, schema.field("pose_at").type) == (
        pa.list_(pa.float64(), 2),
        pa.list_(pa.float64(), 3),
    )
    assert schema.field("ids").type == pa.list_(pa.float64())
    rows = tables(robot.storage)["arm"]
    assert [row["q"] for row in rows] == [[0, 0.5], [1, 0.5], [2, 0.5], None, None, None, [7.5, 8]]
    assert [row["q_as_doubles"] for row in rows] == [None, None, None, [1, 2, 3], None, [None, 1], None]
    assert [row["pose_at"] for row in rows] == [[1, 2, 0], [1, 2, 1], [1, 2, 2], None, None, None, None]
    catalog = Catalog(robot.storage)
    joined = "coalesce(q_as_doubles, q::double[]) AS joined"
    found = catalog.sql(f"SELECT q[1] AS first, len(q) AS size, {joined} FROM telemetry.arm ORDER BY t_ns").to_pydict()
    assert found["first"] == [0, 1, 2, None, None, None, 7.5]
    assert found["size"] == [2, 2, 2, None, None, None, 2]
    assert found["joined"] == [[0, 0.5], [1, 0.5], [2, 0.5], [1, 2, 3], None, [None, 1], [7.5, 8]]
    assert catalog.telemetry("/arm", columns=["q"])["q"].to_pylist() == [row["q"] for row in rows]


def test_a_task_that_holds_more_than_memory_may_writes_its_rows_in_several_files(
    robot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [b'{"n":%d}' % number for number in range(5)]
    segments = [robot.log(("/n", T0 + number, one)) for number, one in enumerate(data)]
    schemas = {"n": telemetry.infer_schema([Message(Topic("/n", "json"), 0, 0, data[0])])}
    publish.begin(robot.storage, versions.TELEMETRY, planned_on=None, schemas=schemas)
    monkeypatch.setattr(load_telemetry, "TOGETHER_BYTES", 2 * len(data[0]))

    part = load_telemetry.load_batch(robot.storage, schemas, [asdict(segment) for segment in segments])

    assert part.written["n"].rows == 5
    assert [json.loads(text)["physical_rows"] for text in part.written["n"].fragments] == [2, 2, 1]


def test_a_topic_that_cannot_be_decoded_is_kept_and_named_and_stops_no_other(robot: Any, jobs: JobsSettings) -> None:
    robot.log(("/bad", T0, b"{torn"), ("/good", T0 + 1, {"n": 1}))
    summary = run_both(robot.storage, jobs)
    assert (summary.counts["undecoded"], summary.notes) == (1, ("1 messages of /bad could not be decoded",))
    found = tables(robot.storage)
    assert json.loads(found["bad"][0]["extra"]) == {"_undecoded": "e3Rvcm4="}
    assert found["good"][0]["n"] == 1


def test_words_and_labels_load_from_their_own_stream_and_from_telemetry(robot: Any, jobs: JobsSettings) -> None:
    for stream in ("_events", "telemetry"):  # `telemetry`: where older recorders put them
        robot.log(("/log", T0, {"message": "on"}), ("/episode", T0 + 1, {"event": "start"}), stream=stream)
    robot.gap("_events", 1, 3, counts={"/log": 5, "/lost": 2})
    summary = run_both(robot.storage, jobs)
    assert (summary.counts["segments"], summary.rows) == (2, {"episode": 2, "log": 2})
    for table in ("episode", "log"):
        assert [row["stream"] for row in tables(robot.storage)[table]] == ["_events", "telemetry"]


def test_the_status_of_an_agent_loads_whatever_is_nested_in_it(robot: Any, jobs: JobsSettings) -> None:
    first = {"streams": {"head_camera": {"sealed": 4}, "a.b": {"sealed": 1}, "a_b": {"sealed": 2}}, "alarms": []}
    then = {"streams": {"head_camera": {"sealed": "?"}, "new": {"sealed": 9}}, "clock": None, "alarms": [{"x": 1}]}
    last: dict[str, Any] = {"streams": {}, "clock": {"offset_ns": -5}, "alarms": "none"}
    for number, message in enumerate((first, then, last)):
        built = build([Message(STATUS, T0 + number, 0, json.dumps(message).encode())])
        robot.store("_agent", built[1] if built else b"")
    summary = run_both(robot.storage, jobs)
    assert (summary.rows, summary.counts["undecoded"]) == ({"agent.status": 3}, 0)
    one, two, three = tables(robot.storage)["agent.status"]
    assert [one[f"streams_{name}"] for name in ("head_camera_sealed", "a_b_sealed", "a_b_sealed_")] == [4, 1, 2]
    assert (two["streams_head_camera_sealed_as_string"], two["streams_new_sealed"]) == ("?", 9)
    assert json.loads(two["extra"]) == {"clock": None, "alarms": [{"x": 1}]}
    assert three["streams_head_camera_sealed"] is None
    assert (three["clock_offset_ns"], three["alarms"]) == (-5, "none")
    assert json.loads(three["extra"])["streams"] == {}


def test_what_a_first_run_left_behind_without_a_manifest_is_gone(
    robot: Any, jobs: JobsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.log(("/battery", T0, {"percent": 80}))
    with monkeypatch.context() as patch:
        patch.setattr("dataset_catalog.versions.publish", _die)
        with pytest.raises(KeyboardInterrupt):
            run_both(robot.storage, jobs)
    assert tables(robot.storage) == {}
    assert run_both(robot.storage, jobs).rows == {"battery": 1}
    assert len(tables(robot.storage)["battery"]) == 1


def _die(*args: Any, **more: Any) -> None:
    raise KeyboardInterrupt


def test_ros2_bags_load_with_every_message_they_hold(robot: Any, jobs: JobsSettings, real_data: Path) -> None:
    expected: Counter[str] = Counter()
    for bag in sorted((real_data / "rosbag2").glob("*.mcap")):
        robot.store("telemetry", bag.read_bytes())
        expected.update(_summarized(bag))
    summary = run_both(robot.storage, jobs)
    assert summary.counts["undecoded"] == 0
    assert summary.counts["messages"] == expected.total()
    found = tables(robot.storage)
    assert {name: len(rows) for name, rows in found.items()} == {
        (topic[1:].replace("/", ".") if topic.startswith("/") else f"~~{topic}"): n for topic, n in expected.items()
    }
    assert found["topic"][0]["data"] == "Hello, world! 0"
    events = [json.loads(row["extra"]) for row in found["add_two_ints._service_event"]]
    assert [event["response"] for event in events if event["response"]] == [[{"sum": 4}], [{"sum": 5}], [{"sum": 6}]]


def _summarized(bag: Path) -> Counter[str]:
    """Message counts by topic as the file's own summary states them."""
    from mcap.reader import make_reader

    with bag.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary
    assert summary.statistics
    counts = summary.statistics.channel_message_counts
    return Counter({summary.channels[channel].topic: count for channel, count in counts.items()})


def test_a_declared_schema_fixes_columns_that_the_first_messages_leave_out(robot: Any, jobs: JobsSettings) -> None:
    schema = {"type": "object", "properties": {"note": {"type": ["string", "null"]}, "n": {"type": "integer"}}}
    topic = Topic("/n", "json", "N", "jsonschema", json.dumps(schema).encode())
    built = build([Message(topic, T0, 0, b'{"n": 1}')])
    robot.store("telemetry", built[1] if built else b"")
    run_both(robot.storage, jobs)
    assert tables(robot.storage)["n"][0] | {"n": 1.0, "note": None} == tables(robot.storage)["n"][0]
