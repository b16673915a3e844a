"""The benchmark of uploads measures what really happens, and its last line is what programs read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import measure, ready_requests
from benchmarks.bench_ingest import GOALS, OURS, PYTHON, STRAIGHT, Load, compare, results, show, show_fleet
from benchmarks.ingest_servers import PROXY, REPLICA, S3, Took, send
from benchmarks.measure import BenchmarkFailed
from benchmarks.ready_client import Seen
from benchmarks.ready_requests import Bodies, Robot
from benchmarks.robots import Server
from fleetfeed.demo.work import storage_of
from fleetfeed.stack import StackInfo
from ingest_serve.bucket import Bucket
from ingest_serve.raw_store import RawStore
from ingest_serve.registry import Registry

LOAD = Load("telemetry", 20_000, bodies=3, requests=32, connections=4)
pytestmark = pytest.mark.stack


@pytest.fixture
def server(stack: StackInfo) -> Server:
    return Server(stack, storage_of(stack))


@pytest.fixture
def found(server: Server, tmp_path: Path) -> dict[str, list[Took]]:
    """One round of each side, against the real thing."""
    return compare(tmp_path, LOAD, {OURS: server, STRAIGHT: server}, rounds=1)


def test_every_request_of_either_side_ends_in_the_bucket(found: dict[str, list[Took]], server: Server) -> None:
    bucket = Bucket.open(server.storage)

    uploads = [key for key in bucket.names("raw/telemetry-0") if "/round_" in key]
    puts = bucket.names("straight/telemetry")

    for took in found.values():
        assert [len(one.seen.latencies_s) for one in took] == [LOAD.requests]
        assert 0 < max(took[0].seen.latencies_s) <= took[0].seen.whole_s
    assert (
        len(uploads) >= 2 * LOAD.requests // 16
    )  # a robot's share of the first round, which does not count, and of one
    assert len(puts) >= 2 * LOAD.requests
    stored = RawStore(bucket).read(segment_of(uploads[0]))
    assert stored[0].bytes == len(stored[1]) == LOAD.size_bytes


def segment_of(name: str) -> ready_requests.wire.SegmentId:
    recording, stream, seq = name.split("/")
    return ready_requests.wire.SegmentId("telemetry-0", recording, stream, int(seq))


def test_the_servers_own_cpu_time_is_told(server: Server, tmp_path: Path) -> None:
    """A tick of the kernel's is ten milliseconds: enough is sent for each of them to take some."""
    load = Load("video", 1_000_000, bodies=2, requests=48, connections=4)

    (took,) = compare(tmp_path, load, {OURS: server}, rounds=1)[OURS]

    assert took.cpu_s[REPLICA] > 0
    assert took.cpu_s[S3] > 0
    assert set(took.cpu_s) == {REPLICA, PROXY, S3}


def test_an_answer_that_stores_nothing_new_is_no_measurement(server: Server, tmp_path: Path) -> None:
    bodies = Bodies.make(tmp_path / "bodies", count=1, size_bytes=1000)
    robots = [Robot.let_in(Registry(Bucket.open(server.storage)), "repeating")]
    address = server.url.removeprefix("http://")
    again = ready_requests.uploads(bodies, robots, kind="telemetry", stream="s", count=2, host=address)
    batch = ready_requests.as_batch(bodies, again)

    assert len(send(server, address, batch, connections=1, status=201).seen.latencies_s) == 2
    with pytest.raises(BenchmarkFailed):
        send(server, address, batch, connections=1, status=201)


def took(requests_per_s: float) -> Took:
    seen = Seen(whole_s=100 / requests_per_s, latencies_s=[0.01] * 98 + [0.5] * 2, cpu_s=0.1)
    return Took(seen, {REPLICA: 0.5, PROXY: 0.1, S3: 2.0})


def rounds() -> Iterator[tuple[Load, dict[str, list[Took]], dict[str, str]]]:
    """Rounds of three machines' moods; ours beside the others always in the same ratio."""
    moods = (1.0, 0.5, 2.0)
    sides = {OURS: 60.0, STRAIGHT: 80.0, PYTHON: 15.0}
    video = {side: [took(rate * mood) for mood in moods] for side, rate in sides.items()}
    telemetry = {side: video[side] for side in (OURS, STRAIGHT)}
    yield (
        Load("video", 3_000_000, 16, 100, 8),
        video,
        {"video_vs_direct_put": STRAIGHT, "video_vs_python_proxy": PYTHON},
    )
    yield Load("telemetry", 50_000, 64, 100, 16), telemetry, {"telemetry_vs_direct_put": STRAIGHT}


def test_the_last_line_holds_the_three_figures_with_their_goals(capsys: pytest.CaptureFixture[str]) -> None:
    measure.close("ingest", [one for load, found, names in rounds() for one in results(load, found, names)])

    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["benchmark"] == "ingest"
    assert {one["name"]: (one["value"], one["goal"], one["meets"]) for one in told["results"]} == {
        "video_vs_direct_put": (0.75, 0.8, False),
        "video_vs_python_proxy": (4.0, 3.0, True),
        "telemetry_vs_direct_put": (0.75, 0.6, True),
    }
    assert list(GOALS) == [one["name"] for one in told["results"]]


def test_people_are_told_latencies_and_what_the_fleet_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """5 ms of a replica and 1 ms of HAProxy a request are, at 400 requests a second, 2.4 cores."""
    (video, seen, _), _ = rounds()
    show(video, seen)
    show_fleet(video, {"video": seen[OURS], "telemetry": seen[OURS]})

    told = capsys.readouterr().out
    assert "10.0 ms │ 500.0 ms" in told
    assert "2.4 cores" in told
    assert "1.67 CPU-s per GB" in told
    assert "5.00 CPU-s per 1,000 telemetry segments" in told
    assert "1 nodes" in told
