"""The same dataset in a folder, and in SeaweedFS behind 20 ms of latency each way, with the node's cache."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

from benchmarks import feed_footage, feed_lake
from benchmarks.feed_bench import Bench, once, ours
from benchmarks.feed_figures import By, Figure, ratio, take_turns
from benchmarks.feed_lake import SMALL
from benchmarks.feed_latency import far
from benchmarks.jobs_lake import S3, s3_server
from benchmarks.measure import console
from dataset_catalog.storage import Storage

FAR_S = 0.02


def of_s3(bench: Bench) -> Iterator[Figure]:
    """The same dataset in a folder and in S3; the cache is filled by one pass in order."""
    feed_footage.make(bench.footage)
    local = bench.folder / "lake-small"
    once(local, lambda place: feed_lake.write_footage(Storage.open(str(place)), bench.footage, [SMALL]))
    with tempfile.TemporaryDirectory(prefix="fleetfeed-bench-") as place, s3_server(Path(place) / "s3") as s3:
        _copy(local, s3.lake("feed"))
        with far(s3.url, delay_s=FAR_S) as url:
            yield _warm_vs_local(bench, Path(place), local, s3, url)


def _warm_vs_local(bench: Bench, place: Path, local: Path, s3: S3, url: str) -> Figure:
    there = s3.lake("feed")
    asked, whole = replace(bench.asked(SMALL), lake=str(local)), bench.batches(1)
    distant = replace(asked, lake=there.url)
    told = _as_environment(s3, url)
    warm, cold = ({**told, "FLEETFEED_FEED_CACHE_DIR": str(place / name)} for name in ("warm", "cold"))
    with ours("filling", replace(distant, order="sequential"), **warm) as filling:
        pass_ = filling.run(len(bench.footage) // 64)
    console.print(f"  cold, in order: {pass_.per_wall_s:,.0f} windows/s, {pass_.per_cpu_s:,.0f} per CPU-second")
    with ours("cold", distant, **cold) as one:
        first = one.run(bench.batches(0.3))
    console.print(f"  cold, random: {first.per_wall_s:,.0f} windows/s, {first.per_cpu_s:,.0f} per CPU-second")
    with ours("s3 warm", distant, **warm) as far_side, ours("local", asked) as near_side:
        found = take_turns({"s3 warm": (far_side, whole), "local": (near_side, whole)}, rounds=bench.sizes.rounds)
    both = [ratio("s3_warm_vs_local", found, "s3 warm", "local", by=by) for by in get_args(By)]
    return min(both, key=lambda one: one.value)


def _copy(local: Path, storage: Storage) -> None:
    filesystem = storage.filesystem()
    filesystem.put(f"{local}/", f"{storage.path('')}", recursive=True)


def _as_environment(s3: S3, url: str) -> dict[str, str]:
    key = s3.credentials
    names = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": key.access_key_id, "SECRET_ACCESS_KEY": key.secret_access_key}
    return {f"FLEETFEED_STORAGE_{name}": value for name, value in names.items()}
