"""align_frames on a real S3 and a real Ray: from raw segments to a dataset that decodes and leads back to them."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest
from dataset_catalog.video import decode_gop
from edge.wire import MP4_TYPE
from ingest_serve.raw_store import RawStore
from ray_jobs import align_frames, index_segments
from ray_jobs.align_episode import EpisodeReader
from ray_jobs.align_spec import AlignSpec
from ray_jobs.episodes import Episode
from ray_jobs.errors import SpecError
from ray_jobs.settings import JobsSettings

T0 = 1_760_000_000_000_000_000
S, MS = 1_000_000_000, 1_000_000
CHAIN = "datasets/arm"
SPEC = AlignSpec.model_validate(
    {
        "name": "arm",
        "reference": "head_camera",
        "columns": {
            "state": {"topic": "/q", "field": "position", "policy": "nearest", "tolerance_ms": 20, "size": 2}
            | {"names": "name"}
        },
    }
)


def newest(storage: Storage) -> Manifest:
    manifest = versions.newest(storage, CHAIN)
    assert manifest
    return manifest


def table(storage: Storage, name: str, *, chain: str = CHAIN) -> Any:
    manifest = versions.newest(storage, chain)
    assert manifest
    return open_table(storage, chain, manifest, name)


def rows(storage: Storage, name: str) -> list[dict[str, Any]]:
    opened = table(storage, name)
    return list(opened.to_table(columns=[n for n in opened.schema.names if n != "payload"]).to_pylist())


def label(episode: str, event: str, t_ns: int, **more: Any) -> tuple[str, int, Any]:
    return ("/episode", t_ns, {"episode_id": episode, "event": event, "task": "wave", **more})


def state(t_ns: int, value: float) -> tuple[str, int, Any]:
    return ("/q", t_ns, {"name": ["a", "b"], "position": [value, -value]})


def run_both(robot: Any, jobs: JobsSettings, spec: AlignSpec = SPEC) -> Any:
    index_segments.run(robot.storage, jobs)
    return align_frames.run(robot.storage, jobs, spec)


def record_two_episodes(robot: Any) -> None:
    """4 s of pictures at 20 Hz and states at 100 Hz; E1 is [0.5 s, 1.5 s), E2 [2 s, 3 s); states pause in E2."""
    states = [state(T0 + n * 10 * MS, n) for n in range(400) if not 220 <= n < 260]
    labels = [
        label("E1", "start", T0 + S // 2),
        label("E1", "end", T0 + 3 * S // 2, success=True, notes="good"),
        label("E2", "start", T0 + 2 * S),
        label("E2", "end", T0 + 3 * S, success=False),
    ]
    robot.log(*(states[:200] + labels[:2]))
    robot.log(*(labels[2:] + states[200:]))
    robot.film(T0, 40)
    robot.film(T0 + 2 * S, 40)


def test_episodes_become_steps_that_point_to_frames_and_values(robot: Any, jobs: JobsSettings) -> None:
    record_two_episodes(robot)
    robot.close(T0 + 5 * S)
    summary = run_both(robot, jobs)
    assert (summary.versions, summary.counts["episodes"], summary.rows["steps"]) == ((1,), 2, 40)
    steps = rows(robot.storage, "steps")
    assert [(s["episode_id"], s["step"]) for s in steps] == [(e, n) for e in ("E1", "E2") for n in range(20)]
    assert [s["t_ns"] for s in steps[:2]] == [T0 + 500 * MS, T0 + 550 * MS]
    assert (steps[1]["state"], steps[1]["state_age_ns"]) == ([55.0, -55.0], 0)
    in_pause = [s for s in steps if T0 + 2220 * MS <= s["t_ns"] < T0 + 2580 * MS]
    assert len(in_pause) == 7
    assert all(s["state"] is None and s["state_age_ns"] is None for s in in_pause)
    one, two = rows(robot.storage, "episodes")
    assert (one["task"], one["success"], one["notes"], one["start_ns"]) == ("wave", True, "good", T0 + S // 2)
    assert json.loads(one["columns"])["state"]["names"] == ["a", "b"]
    assert json.loads(one["columns"])["head_camera"] == {"camera": True, "tolerance_ns": 0, "rendition": "original"}
    assert len(one["sources"]) == 2
    assert len(two["sources"]) == 3  # the last states of the first segment lie within the tolerance
    first = [s for s in rows(robot.storage, "series") if s["episode_id"] == "E1"]
    assert [first[0]["t_ns"], first[-1]["t_ns"]] == [T0 + 480 * MS, T0 + 1510 * MS]
    assert_steps_show_their_frames(robot.storage)


def test_a_long_episodes_telemetry_is_in_memory_a_segment_at_a_time(robot: Any) -> None:
    padding = "x" * 4000  # what the spec does not ask for
    segments = []
    for number in range(30):
        states = [state(T0 + (number * 50 + n) * 10 * MS, n) for n in range(50)]
        segments.append(robot.log(*((topic, t_ns, value | {"pad": padding}) for topic, t_ns, value in states)))
    named = {"robot": "robot_id", "recording": "recording_id"}
    rows = [{named.get(name, name): value for name, value in asdict(one).items()} for one in segments]
    episode = Episode("E", robot.name, robot.recording, "", None, None, T0, T0 + 15 * S)
    reader = EpisodeReader(
        RawStore.open(robot.storage), SPEC, {"episode": asdict(episode), "segments": rows, "unusable": ""}
    )
    reader.series()  # what is loaded once is not counted
    tracemalloc.start()
    try:
        series = reader.series()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert series["state"].values.shape == (30 * 50, 2)
    assert peak < 30 * 50 * len(padding) / 5


def assert_steps_show_their_frames(storage: Storage) -> None:
    """Decode the frame that each step points to: picture n of a segment has gray 40 + n."""
    gops = {(g["episode_id"], g["gop"]): (number, g) for number, g in enumerate(rows(storage, "gops"))}
    for step in rows(storage, "steps"):
        number, gop = gops[step["episode_id"], step["head_camera_gop"]]
        assert gop["frame_t_ns"][step["head_camera_k"]] == step["t_ns"]
        (payload,) = (blob.read() for blob in table(storage, "gops").take_blobs("payload", indices=[number]))
        cuts = np.cumsum([0, *gop["packet_bytes"]])
        packets = [payload[a:b] for a, b in pairwise(cuts)]
        frame = decode_gop(gop["codec"], gop["extradata"], packets)[step["head_camera_k"]]
        gray = 40 + (step["t_ns"] - T0) % (2 * S) // (50 * MS)
        assert frame.to_ndarray(format="gray").mean() == pytest.approx(gray, abs=3)


def test_each_episode_is_aligned_once_as_soon_as_all_of_it_has_arrived(robot: Any, jobs: JobsSettings) -> None:
    record_two_episodes(robot)
    first = run_both(robot, jobs)
    assert (first.counts["episodes"], first.counts["waiting for data"]) == (2, 0)
    before = {name: rows(robot.storage, name) for name in ("steps", "series", "gops", "episodes")}
    again = run_both(robot, jobs)
    assert (again.versions, again.counts["episodes"]) == ((), 0)
    robot.log(label("E3", "start", T0 + 4 * S), *(state(T0 + 4 * S + n * 10 * MS, n) for n in range(100)))
    robot.film(T0 + 4 * S, 10)
    assert run_both(robot, jobs).versions == ()
    robot.log(label("E3", "end", T0 + 4 * S + 400 * MS), state(T0 + 5 * S, 0))
    assert run_both(robot, jobs).counts["waiting for data"] == 0
    robot.close(T0 + 5 * S)
    assert run_both(robot, jobs).versions in ((), (2,))
    assert newest(robot.storage).n == 2
    for name, old in before.items():
        assert rows(robot.storage, name)[: len(old)] == old
    assert [row["episode_id"] for row in rows(robot.storage, "episodes")] == ["E1", "E2", "E3"]


def test_an_episode_waits_for_every_stream_and_a_recording_without_labels_for_its_last_word(
    robot: Any, jobs: JobsSettings
) -> None:
    robot.log(*(state(T0 + n * 10 * MS, n) for n in range(100)))
    robot.film(T0, 20)
    assert run_both(robot, jobs).versions == ()
    last_word = robot.last_word(T0 + S)
    robot.last_seq["_agent"] = -1
    robot.store("_agent", last_word, seq=1)
    assert run_both(robot, jobs).versions == ()
    robot.store("_agent", robot.telemetry(("/recording/opened", T0, {})), seq=0)
    summary = run_both(robot, jobs)
    assert (summary.versions, summary.rows["steps"]) == ((1,), 20)
    (episode,) = rows(robot.storage, "episodes")
    assert (episode["episode_id"], episode["start_ns"]) == (robot.recording, T0)


RATE = AlignSpec.model_validate(
    {
        "name": "arm",
        "rate_hz": 20,
        "cameras": {"head_camera": {"tolerance_ms": 30}},
        "columns": {
            policy: {"topic": "/q", "field": "position", "policy": policy, "tolerance_ms": 20, "size": 2}
            for policy in ("nearest", "previous", "linear")
        },
    }
)


def states(start_ns: int, end_ns: int) -> list[tuple[str, int, Any]]:
    return [state(t_ns, (t_ns - T0) // (10 * MS)) for t_ns in range(start_ns, end_ns, 10 * MS)]


def test_steps_that_lie_in_a_gap_are_null(robot: Any, jobs: JobsSettings) -> None:
    """An episode of 3 s; the second one is lost, of telemetry and of video."""
    robot.log(label("E", "start", T0), label("E", "end", T0 + 3 * S), stream="_events")
    lost = {"start_ns": T0 + S, "end_ns": T0 + 2 * S}
    robot.log(*states(T0, T0 + S))
    robot.gap("telemetry", 1, 4, counts={"/q": 100}, **lost)
    robot.log(*states(T0 + 2 * S, T0 + 3 * S + 50 * MS), seq=5)
    robot.film(T0, 20)
    robot.gap("head_camera", 1, 1, counts={"/head_camera": 20}, **lost)
    robot.film(T0 + 2 * S, 22)
    summary = run_both(robot, jobs, RATE)
    assert (summary.counts["episodes"], summary.rows["steps"]) == (1, 60)
    steps = rows(robot.storage, "steps")
    inside = [s for s in steps if T0 + S + 20 * MS < s["t_ns"] < T0 + 2 * S - 20 * MS]
    assert len(inside) == 19
    taken = ["nearest", "previous", "linear", "head_camera_gop", "head_camera_k", "nearest_age_ns"]
    assert all(s[name] is None for s in inside for name in taken)
    outside = [s for s in steps if not T0 + S <= s["t_ns"] < T0 + 2 * S]
    assert len(outside) == 40
    for step in outside:
        value = (step["t_ns"] - T0) // (10 * MS)
        assert step["nearest"] == step["previous"] == step["linear"] == [value, -value]
        assert step["head_camera_k"] is not None
    (episode,) = rows(robot.storage, "episodes")
    assert len(episode["sources"]) == 4


@pytest.mark.parametrize(
    ("spec", "named"),
    [(SPEC, "head_camera"), (RATE, "head_camera"), (RATE.model_copy(update={"cameras": {}}), "telemetry")],
)
def test_an_episode_that_lies_in_gaps_is_left_out_with_their_reason(
    robot: Any, jobs: JobsSettings, spec: AlignSpec, named: str
) -> None:
    """Of E2 the camera's pictures are lost, and where the camera is not the clock the telemetry too."""
    robot.log(*(label("E1", event, t) for event, t in (("start", T0), ("end", T0 + S))), stream="_events")
    robot.log(*(label("E2", event, T0 + t * S) for event, t in (("start", 2), ("end", 3))), stream="_events")
    robot.log(*states(T0, T0 + S + 50 * MS))
    robot.film(T0, 25)
    lost = {"start_ns": T0 + 3 * S // 2, "end_ns": T0 + 4 * S}
    if spec is SPEC:
        robot.log(*states(T0 + 2 * S, T0 + 4 * S))
    else:
        robot.gap("telemetry", 1, 3, **lost)  # the robot does not know what was in it
    robot.gap("head_camera", 1, 3, counts={"/head_camera": 50}, **lost)
    summary = run_both(robot, jobs, spec)
    assert [row["episode_id"] for row in rows(robot.storage, "episodes")] == ["E1"]
    key = f"raw/{robot.name}/{robot.recording}/{named}/0000000001"
    reason = f"all of it lies in gaps: {key}, evicted: the disk is full"
    assert summary.notes == (f"skipped 1 (E2): {reason}",)
    assert newest(robot.storage).facts["skipped"] == {"E2": reason}


def test_an_episode_whose_label_is_lost_is_left_out(robot: Any, jobs: JobsSettings) -> None:
    robot.log(*states(T0, T0 + S))
    robot.film(T0, 20)
    gap = robot.gap("_events", 0, 1, start_ns=T0, end_ns=T0 + S, counts={"/episode": 4})
    robot.close(T0 + S)
    summary = run_both(robot, jobs)
    assert summary.versions == ()
    assert summary.notes == (
        f"skipped 1 ({robot.recording}): its labels are lost: {gap.key}, evicted: the disk is full",
    )


def test_labels_may_come_before_the_telemetry_and_after_it(robot: Any, jobs: JobsSettings) -> None:
    """E1's labels come first, E2's last, when the recording is closed already."""
    robot.log(label("E1", "start", T0), label("E1", "end", T0 + S, success=True), stream="_events")
    robot.film(T0, 60)
    first = run_both(robot, jobs)
    assert (first.versions, first.counts["waiting for data"]) == ((), 1)
    robot.log(*states(T0, T0 + 3 * S))
    assert run_both(robot, jobs).counts["episodes"] == 1
    robot.last_seq["_events"] = 1
    robot.close(T0 + 3 * S)
    assert run_both(robot, jobs).versions == ()
    robot.log(label("E2", "start", T0 + 2 * S), label("E2", "end", T0 + 3 * S), stream="_events", seq=1)
    assert run_both(robot, jobs).counts["episodes"] == 1
    assert [(row["episode_id"], row["success"]) for row in rows(robot.storage, "episodes")] == [
        ("E1", True),
        ("E2", None),
    ]
    steps = rows(robot.storage, "steps")
    assert [s["episode_id"] for s in steps] == ["E1"] * 20 + ["E2"] * 20
    assert all(s["state"] is not None for s in steps)


def test_a_closed_recording_whose_labels_are_late_is_not_one_episode(robot: Any, jobs: JobsSettings) -> None:
    robot.log(*states(T0, T0 + 2 * S))
    robot.film(T0, 40)
    robot.last_seq["_events"] = 1
    robot.close(T0 + 2 * S)
    assert run_both(robot, jobs).versions == ()
    robot.log(label("E", "start", T0), stream="_events", seq=0)
    assert run_both(robot, jobs).versions == ()
    robot.log(label("E", "end", T0 + S), stream="_events", seq=1)
    assert run_both(robot, jobs).rows["steps"] == 20
    assert [row["episode_id"] for row in rows(robot.storage, "episodes")] == ["E"]


@pytest.mark.parametrize("step", ["_append", "versions.publish", "tag"])
def test_a_run_that_dies_while_publishing_shows_nothing_or_everything(
    robot: Any, jobs: JobsSettings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    record_two_episodes(robot)
    robot.close(T0 + 5 * S)
    index_segments.run(robot.storage, jobs)
    with monkeypatch.context() as patch:
        patch.setattr(f"dataset_catalog.publish.{step}", _die)
        with pytest.raises(KeyboardInterrupt):
            align_frames.run(robot.storage, jobs, SPEC)
    assert (versions.newest(robot.storage, CHAIN) is None) == (step != "tag")
    run_both(robot, jobs)
    assert newest(robot.storage).n == 1
    assert [len(rows(robot.storage, name)) for name in ("steps", "episodes")] == [40, 2]
    assert tagged(robot.storage, "v1") == newest(robot.storage).tables["steps"]


def tagged(storage: Storage, tag: str) -> int:
    uri = versions.table_uri(storage, CHAIN, "steps")
    return int(lance.dataset(uri, version=tag, storage_options=storage.lance_options()).version)


def _die(*args: Any, **more: Any) -> None:
    raise KeyboardInterrupt


def test_an_episode_that_does_not_fit_is_left_out_with_its_reason(robot: Any, jobs: JobsSettings) -> None:
    record_two_episodes(robot)
    robot.close(T0 + 5 * S)
    three = {**SPEC.model_dump(), "columns": {"state": {**SPEC.columns["state"].model_dump(), "size": 3}}}
    summary = run_both(robot, jobs, AlignSpec.model_validate(three))
    assert (summary.versions, summary.counts["skipped"]) == ((), 2)
    assert "/q position has 2 numbers, not 3" in summary.notes[0]
    assert run_both(robot, jobs).counts["episodes"] == 2
    with pytest.raises(SpecError, match="another spec"):
        run_both(robot, jobs, AlignSpec.model_validate(three))


def test_an_episode_between_two_pictures_is_left_out(robot: Any, jobs: JobsSettings) -> None:
    between = [label("E", "start", T0 + 60 * MS), label("E", "end", T0 + 90 * MS)]
    robot.log(*between, *(state(T0 + n * 10 * MS, n) for n in range(100)))
    robot.film(T0, 20)
    robot.close(T0 + S)
    summary = run_both(robot, jobs)
    assert summary.notes == ("skipped 1 (E): no picture of the reference camera head_camera",)


def test_long_runs_publish_in_pieces(robot: Any, jobs: JobsSettings) -> None:
    record_two_episodes(robot)
    robot.close(T0 + 5 * S)
    assert run_both(robot, jobs.model_copy(update={"episodes_per_commit": 1})).versions == (1, 2)
    assert [row["episode_id"] for row in rows(robot.storage, "episodes")] == ["E1", "E2"]
    assert run_both(robot, jobs).versions == ()


def test_a_real_g1_keeps_its_packets_and_gets_a_rendition_to_train_from(
    robot: Any, jobs: JobsSettings, real_data: Path
) -> None:
    g1 = real_data / "g1"
    table_ = pq.read_table(g1 / "data/chunk-000/episode_000001.parquet")
    times = [T0 + round(n * S / 30) for n in range(table_.num_rows)]
    messages = []
    for t_ns, row in zip(times, table_.to_pylist(), strict=True):
        for topic in ("observation.state", "action"):
            messages.append((f"/{topic}", t_ns, {"data": row[topic]}))
    robot.log(*messages)
    mp4 = (g1 / "videos/chunk-000/observation.images.cam_high/episode_000001.mp4").read_bytes()
    robot.store("cam_high", mp4, content_type=MP4_TYPE, start_ns=T0, end_ns=times[-1] + 1, kind="video")
    robot.close(T0 + 20 * S)
    spec = AlignSpec.load(Path(align_frames.__file__).with_name("specs") / "g1.toml")
    summary = run_both(robot, jobs, spec)
    assert summary.rows["steps"] == table_.num_rows == 393
    assert "h264-g10: 393 frames" in summary.notes[0]
    gops = table(robot.storage, "gops", chain="datasets/g1").to_table(
        columns=["rendition", "codec", "packet_bytes", "frame_t_ns"]
    )
    by_rendition = {name: [g for g in gops.to_pylist() if g["rendition"] == name] for name in ("original", "h264-g10")}
    assert {name: sum(len(g["frame_t_ns"]) for g in found) for name, found in by_rendition.items()} == {
        "original": 393,
        "h264-g10": 393,
    }
    assert max(len(g["frame_t_ns"]) for g in by_rendition["h264-g10"]) == 10
    steps = table(robot.storage, "steps", chain="datasets/g1").to_table()
    assert steps["t_ns"].to_pylist() == pytest.approx(times, abs=1)
    assert steps["cam_high_gop"].to_pylist() == [n // 10 for n in range(393)]
    assert np.array(steps["state"].to_pylist(), np.float32).tolist() == table_["observation.state"].to_pylist()
