"""Gap records on a real S3 and a real Ray: a stream goes on behind them, and they are told."""

from __future__ import annotations

import json
from typing import Any

import lance
import pyarrow as pa
import pytest

from dataset_catalog import versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.schema import SEGMENTS
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest
from edge.wire import GAP_TYPE, SegmentId
from ingest_serve.raw_store import RawStore
from ray_jobs import index_segments, load_telemetry
from ray_jobs.settings import JobsSettings

T0 = 1_760_000_000_000_000_000
S = 1_000_000_000


def rows(storage: Storage) -> list[dict[str, Any]]:
    manifest = versions.newest(storage, versions.SEGMENTS)
    assert manifest
    order = [(name, "ascending") for name in ("stream", "seq")]
    return list(open_table(storage, versions.SEGMENTS, manifest, "segments").to_table().sort_by(order).to_pylist())


def seqs(storage: Storage) -> list[tuple[int, str, int]]:
    return [(row["seq"], row["state"], row["index_version"]) for row in rows(storage)]


def log(robot: Any, *numbers: int) -> None:
    for seq in numbers:
        robot.log(("/n", T0 + seq * S, {"seq": seq}), seq=seq)


def test_a_gap_becomes_a_row_that_tells_what_is_missing(robot: Any, jobs: JobsSettings) -> None:
    robot.film(T0, 10)
    counts = {"/head_camera": 100, "/other": 7}
    segment = robot.gap("head_camera", 1, 5, start_ns=T0 + S, end_ns=T0 + 6 * S, cause="quarantined", counts=counts)
    summary = index_segments.run(robot.storage, jobs)
    assert [summary.counts[what] for what in ("segments", "gaps", "quarantined", "waiting behind a hole")] == [
        1,
        1,
        0,
        0,
    ]
    assert summary.notes == (f"gap {segment.key} to 0000000005: quarantined: the disk is full",)
    video, gap = rows(robot.storage)
    assert (video["state"], video["last_seq"]) == ("ok", None)
    raw = RawStore.open(robot.storage).head(segment)
    assert {name: gap[name] for name in ("state", "seq", "last_seq", "kind", "content_type", "bytes", "sha256")} == {
        "state": "gap",
        "seq": 1,
        "last_seq": 5,
        "kind": "video",
        "content_type": GAP_TYPE,
        "bytes": raw.bytes,
        "sha256": raw.sha256,
    }
    assert (gap["start_ns"], gap["end_ns"], gap["messages"], gap["frames"]) == (T0 + S, T0 + 6 * S, 107, None)
    assert gap["reason"] == "quarantined: the disk is full"
    assert gap["topics"] == [
        {"name": name, "encoding": "", "schema_name": "", "count": count} for name, count in counts.items()
    ]


def test_a_stream_goes_on_behind_a_gap_that_came_first(robot: Any, jobs: JobsSettings) -> None:
    log(robot, 0)
    robot.gap("telemetry", 1, 4)
    assert index_segments.run(robot.storage, jobs).counts["gaps"] == 1
    log(robot, 6)
    assert index_segments.run(robot.storage, jobs).counts["waiting behind a hole"] == 1
    log(robot, 3)
    assert index_segments.run(robot.storage, jobs).counts["segments"] == 1
    log(robot, 5)
    assert index_segments.run(robot.storage, jobs).counts["segments"] == 2
    assert seqs(robot.storage) == [(0, "ok", 1), (1, "gap", 1), (3, "ok", 2), (5, "ok", 3), (6, "ok", 3)]
    assert load_telemetry.run(robot.storage, jobs).counts["segments"] == 4
    log(robot, 2)  # late: the stream is beyond it
    assert index_segments.run(robot.storage, jobs).versions == (4,)
    assert index_segments.run(robot.storage, jobs).versions == ()
    assert seqs(robot.storage)[2] == (2, "ok", 4)
    assert load_telemetry.run(robot.storage, jobs).counts["segments"] == 1


def test_a_gap_and_what_is_stored_inside_it_are_published_together(robot: Any, jobs: JobsSettings) -> None:
    log(robot, 1, 2, 6, 9)
    robot.gap("telemetry", 0, 7)
    summary = index_segments.run(robot.storage, jobs.model_copy(update={"segments_per_commit": 2}))
    assert (summary.versions, summary.counts["waiting behind a hole"]) == ((1,), 1)
    assert seqs(robot.storage) == [(0, "gap", 1), (1, "ok", 1), (2, "ok", 1), (6, "ok", 1)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{torn", "a gap record is a JSON object"),
        (b"[" * 60_000, "a gap record is a JSON object"),
        (b'{"first_seq":2}', "begins at seq 2"),
        (b'{"counts":{"/x":-1}}', "counts"),
        (b'{"counts":{"/x":9223372036854775807,"/y":1}}', "counts"),
        (b'{"cause":"tired"}', "cause must be one of"),
        (b'{"reason":"\\ud800"}', "a gap record is a JSON object"),
        (b'{"counts":{"/\\ud800":1}}', "a gap record is a JSON object"),
    ],
)
def test_a_record_that_cannot_be_read_is_quarantined_and_covers_its_own_seq_alone(
    robot: Any, jobs: JobsSettings, body: bytes, reason: str
) -> None:
    whole = {"first_seq": 1, "last_seq": 5, "start_ns": T0, "end_ns": T0 + 1, "cause": "lost", "reason": "gone"}
    if body.endswith(b"}"):
        body = json.dumps(whole | {"size_bytes": 0, "counts": {}} | json.loads(body)).encode()
    log(robot, 0, 2, 4)
    robot.store("telemetry", body, seq=1, content_type=GAP_TYPE)
    summary = index_segments.run(robot.storage, jobs)
    assert (summary.counts["quarantined"], summary.counts["waiting behind a hole"]) == (1, 1)
    assert [seq for seq, *_ in seqs(robot.storage)] == [0, 1, 2]
    assert rows(robot.storage)[1]["state"] == "quarantined"
    assert reason in rows(robot.storage)[1]["reason"]


def test_a_record_that_changed_in_the_store_is_quarantined_and_covers_its_own_seq_alone(
    robot: Any, jobs: JobsSettings
) -> None:
    robot.change_in_store(robot.gap("telemetry", 0, 5))
    log(robot, 6)
    assert index_segments.run(robot.storage, jobs).counts["waiting behind a hole"] == 1
    assert "sha-256" in rows(robot.storage)[0]["reason"]


def test_only_what_a_hole_follows_is_looked_at_before_it_is_read(
    robot: Any, jobs: JobsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(robot, 0, 1, 2, 5, 6)
    robot.film(T0, 10)
    robot.gap("_events", 0, 3)
    looked: list[str] = []
    head = RawStore.head

    def watched(store: RawStore, segment: SegmentId) -> Any:
        looked.append(segment.key)
        return head(store, segment)

    monkeypatch.setattr(RawStore, "head", watched)
    index_segments.run(robot.storage, jobs)
    assert [key[-20:] for key in looked] == ["telemetry/0000000002"]


def test_gaps_are_counted_apart_and_are_no_videos(robot: Any, jobs: JobsSettings) -> None:
    robot.film(T0, 10)
    robot.gap("head_camera", 1, 3, start_ns=T0 + S, end_ns=T0 + 4 * S, counts={"/head_camera": 60})
    index_segments.run(robot.storage, jobs)
    catalog = Catalog(robot.storage)
    for table in (catalog.robots(), catalog.recordings()):
        (row,) = table.to_pylist()
        assert (row["segments"], row["gaps"], row["quarantined"], row["end_ns"]) == (1, 1, 0, T0 + 4 * S)
    assert catalog.videos()["seq"].to_pylist() == [0]
    assert catalog.sql("SELECT last_seq FROM segments WHERE state = 'gap'")["last_seq"].to_pylist() == [3]


def test_an_index_that_an_older_release_made_gets_the_new_column(robot: Any, jobs: JobsSettings) -> None:
    log(robot, 0)
    index_segments.run(robot.storage, jobs)
    older_release(robot.storage)
    assert load_telemetry.run(robot.storage, jobs).counts["segments"] == 1
    robot.gap("telemetry", 1, 3)
    log(robot, 4)
    index_segments.run(robot.storage, jobs)
    assert [(row["seq"], row["last_seq"]) for row in rows(robot.storage)] == [(0, None), (1, 3), (4, None)]


def older_release(storage: Storage) -> None:
    """Make the index what it was before gaps: without `last_seq`, with a manifest that has no facts."""
    before = [{k: v for k, v in row.items() if k != "last_seq"} for row in rows(storage)]
    manifest = versions.newest(storage, versions.SEGMENTS)
    assert manifest
    schema = pa.schema([field for field in SEGMENTS if field.name != "last_seq"])
    table = lance.write_dataset(
        pa.Table.from_pylist(before, schema=schema),
        versions.table_uri(storage, versions.SEGMENTS, "segments"),
        mode="overwrite",
        data_storage_version="2.2",
        storage_options=storage.lance_options(),
    )
    older = Manifest(manifest.n + 1, {"segments": table.version}, manifest.positions)
    versions.publish(storage, versions.SEGMENTS, older)
