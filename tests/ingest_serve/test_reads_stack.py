"""The reads in a deployment of their own, behind the ingress: the same answers, and nobody's pace but the client's."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from dataset_catalog import Catalog, versions
from dataset_catalog.storage import Storage
from fleetfeed.demo.work import storage_of
from fleetfeed.processes import marked
from fleetfeed.stack import StackInfo
from ingest_serve.read_settings import ReadSettings
from tests.dataset_catalog.filmed import T0, Filmed, gray_packets
from tests.ingest_serve.conftest import refusal
from tests.ingest_serve.reading import Researcher, S, lazy_reader, publish_telemetry, wide_rows

pytestmark = pytest.mark.stack
ROBOT, TOPIC, ROWS, WIDTH = "reads-robot", "reads.wide", 40_000, 250  # 80 MB of columns, 190 MB of JSON
WIDE = f"/v1/robots/{ROBOT}/telemetry?topic=/reads/wide"


@dataclass
class Behind:
    """As much of a test's server as a researcher needs."""

    url: str
    storage: Storage

    @staticmethod
    def clock() -> int:
        return time.time_ns()


@pytest.fixture(scope="module")
def ada(stack: StackInfo) -> Researcher:
    return Researcher(Behind(stack.http_url, storage_of(stack)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def filmed(stack: StackInfo) -> Filmed:
    """Two segments, in the next version of the shared lake's index."""
    storage = storage_of(stack)
    newest = versions.newest(storage, versions.SEGMENTS)
    filmed = Filmed(storage, robot=ROBOT, published=newest.n if newest else 0)
    for seq in range(2):
        filmed.film(gray_packets(T0 + seq * S, 20), seq=seq)
    filmed.publish()
    return filmed


def get(ada: Researcher, **more: Any) -> Any:
    query = {"stream": "head", "start": T0, "end": T0 + 10 * S} | more
    return ada.get(f"robots/{ROBOT}/video", **query)


def test_a_clip_comes_through_both_deployments_as_the_catalog_cuts_it(ada: Researcher, filmed: Filmed) -> None:
    expected = Catalog(filmed.storage).clip(ROBOT, "head", T0, T0 + 10 * S)
    got = get(ada)
    assert (got.status_code, got.headers["ETag"]) == (200, f'"{expected.digest}"'), got.text
    assert got.content == expected.to_bytes()
    part = ada.get(
        f"robots/{ROBOT}/video", stream="head", start=T0, end=T0 + 10 * S, headers={"Range": "bytes=100-199"}
    )
    assert (part.status_code, part.content) == (206, got.content[100:200])
    assert refusal(get(ada, stream="tail")) == (404, "no_video")
    assert refusal(get(ada, end=T0 + 700 * S)) == (400, "clip_too_long")
    found = ada.get("videos", robot=ROBOT).json()["videos"]
    assert [row["seq"] for row in found] == [0, 1]


def test_a_reader_that_takes_nothing_fills_no_process(ada: Researcher, stack: StackInfo) -> None:
    publish_wide(storage_of(stack))
    replicas = [one for one in marked(stack.stack_id) if "ServeReplica" in " ".join(one.cmdline())]
    assert len(replicas) >= 2
    warm = ada.get(f"robots/{ROBOT}/telemetry", topic="/reads/wide", start=T0 + ROWS * 3 // 4)
    assert len(warm.content.splitlines()) == ROWS // 4
    before = _resident(replicas)
    with lazy_reader(ada, WIDE):
        held = _settled(replicas)
    assert held - before < 80 << 20
    whole = ada.get(f"robots/{ROBOT}/telemetry", topic="/reads/wide", start=T0 + ROWS - 3)
    assert [json.loads(line)["t_ns"] - T0 for line in whole.content.splitlines()] == [ROWS - 3, ROWS - 2, ROWS - 1]


def test_readers_that_go_leave_their_turns_to_others(ada: Researcher, stack: StackInfo) -> None:
    for _ in range(ReadSettings().at_once + 1):
        with lazy_reader(ada, WIDE):
            """And it goes."""
    assert ada.get(f"robots/{ROBOT}/telemetry", topic="/reads/wide", start=T0 + ROWS - 3).status_code == 200


def publish_wide(storage: Storage) -> None:
    newest = versions.newest(storage, versions.TELEMETRY)
    rows = wide_rows(ROBOT, rows=ROWS, width=WIDTH)
    publish_telemetry(storage, {TOPIC: rows}, n=newest.n + 1 if newest else 1)


def _resident(processes: list[psutil.Process]) -> int:
    return sum(one.memory_info().rss for one in processes)


def _settled(processes: list[psutil.Process]) -> int:
    """Resident bytes once they have stopped growing for two seconds."""
    deadline, since, seen = time.monotonic() + 30, time.monotonic(), _resident(processes)
    while time.monotonic() - since < 2 and time.monotonic() < deadline:
        now = _resident(processes)
        if now > seen + (1 << 20):
            since, seen = time.monotonic(), now
        time.sleep(0.1)
    return seen
