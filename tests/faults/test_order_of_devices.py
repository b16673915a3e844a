"""Whatever order a fleet's segments come in: every table has each device's readings in the order of their making, and
what was recorded is what is there, what is damaged, what is lost, and what is waited for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from dataset_catalog import versions
from dataset_catalog.catalog import Catalog
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from ray_jobs import index_segments, load_telemetry
from ray_jobs.settings import JobsSettings
from tests.faults.campaign import is_soak
from tests.faults.disordered_fleet import Device, devices, upload
from tests.ray_jobs.conftest import jobs as jobs
from tests.ray_jobs.conftest import ray_address as ray_address
from tests.ray_jobs.conftest import s3_lake as s3_lake

DEVICES, SEGMENTS = (200, 30) if is_soak() else (12, 12)
SEED = 4
TABLE = "readings"


@pytest.fixture
def fleet() -> list[Device]:
    made = devices(DEVICES, segments=SEGMENTS, seed=SEED)
    drawn = Counter(one.fate for device in made for one in device.segments)
    assert len(drawn) == 7, f"each fate is drawn: {drawn}"
    return made


def test_a_fleet_out_of_order_is_in_order_in_the_tables(
    fleet: list[Device], s3_lake: Storage, jobs: JobsSettings
) -> None:
    upload(s3_lake, fleet, late=False, seed=1)
    waiting = run(s3_lake, jobs)
    check(s3_lake, fleet, late=False, waiting=waiting)
    upload(s3_lake, fleet, late=True, seed=2)
    waiting = run(s3_lake, jobs)
    check(s3_lake, fleet, late=True, waiting=waiting)
    assert run(s3_lake, jobs.model_copy(update={"hole_grace_s": 0})) == 0
    check_all(s3_lake, fleet)


def run(storage: Storage, jobs: JobsSettings) -> int:
    """Both jobs; how many segments are waited behind."""
    summary = index_segments.run(storage, jobs)
    load_telemetry.run(storage, jobs)
    return int(summary.counts["waiting behind a hole"])


def check(storage: Storage, fleet: list[Device], *, late: bool, waiting: int) -> None:
    """Up to each device's first hole everything is there, and nothing behind it."""
    told = states(storage)
    for device in fleet:
        before = device.segments[: device.reach(late=late)]
        assert told.get(device.robot, Counter()) == expected(before), device.robot
    behind = [one for device in fleet for one in device.segments[device.reach(late=late) :]]
    absent = [one for one in behind if one.fate == "never" or (one.fate == "late" and not late)]
    lost = [one for one in behind if one.gap and one.fate == "gap" and one.seq != one.gap[0]]
    assert waiting == len(behind) - len(absent) - len(lost)
    assert sum(map(Counter.total, told.values())) + waiting + len(absent) + len(lost) == DEVICES * SEGMENTS
    check_order(storage, fleet, {device.robot: device.segments[: device.reach(late=late)] for device in fleet})


def check_all(storage: Storage, fleet: list[Device]) -> None:
    """Once the holes are named, each segment is one thing or the other."""
    told = states(storage)
    for device in fleet:
        assert told[device.robot] == expected(device.segments), device.robot
    total = sum(told.values(), Counter[str]())
    assert total.total() == DEVICES * SEGMENTS
    check_order(storage, fleet, {device.robot: device.segments for device in fleet})
    print(f"{DEVICES} devices, {total.total()} segments recorded: {dict(total)}")


def expected(segments: Any) -> Counter[str]:
    """State → how many of these segments."""
    return Counter({"damaged": "quarantined", "gap": "gap", "never": "missing"}.get(one.fate, "ok") for one in segments)


def states(storage: Storage) -> dict[str, Counter[str]]:
    """Robot → state → how many segments, as the index tells: a gap covers all its seqs but those that are stored."""
    found: dict[str, Counter[str]] = {}
    rows = Catalog(storage).sql("SELECT robot_id, seq, last_seq, state, reason FROM segments").to_pylist()
    stored = {(row["robot_id"], row["seq"]) for row in rows if row["state"] != "gap"}
    for row in rows:
        seqs = range(row["seq"], (row["last_seq"] if row["state"] == "gap" else row["seq"]) + 1)
        lost = row["state"] == "gap"
        state = "missing" if lost and row["reason"].startswith("missing:") else row["state"]
        own = [seq for seq in seqs if not lost or (row["robot_id"], seq) not in stored]
        found.setdefault(row["robot_id"], Counter())[state] += len(own)
    return found


def check_order(storage: Storage, fleet: list[Device], there: dict[str, Any]) -> None:
    """Read as it lies in the table, without sorting anything."""
    manifest = versions.newest(storage, versions.TELEMETRY)
    assert manifest
    rows = open_table(storage, versions.TELEMETRY, manifest, TABLE).to_table(columns=["robot_id", "number"]).to_pylist()
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["robot_id"], []).append(row["number"])
    for device in fleet:
        whole = [one for one in there[device.robot] if one.fate not in ("damaged", "gap", "never")]
        assert found.get(device.robot, []) == [number for one in whole for number in one.numbers], device.robot
