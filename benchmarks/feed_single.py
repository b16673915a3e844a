"""Single frames at 224×224: ours as JPEG, as H.264 at random and grouped; the other libraries; the limit. And bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import feed_lake, feed_real
from benchmarks.feed_bench import PEERS, Bench, limit, ours, read_once, store_ours, store_theirs
from benchmarks.feed_check import tell_quality
from benchmarks.feed_figures import Figure, not_measured, ratio, result, take_turns
from benchmarks.feed_lake import PICTURES, SMALL
from benchmarks.feed_packets import JPEG, ORIGINAL
from benchmarks.feed_sides import side
from benchmarks.measure import console
from dataset_catalog import Catalog


def of_single(bench: Bench) -> Iterator[Figure]:
    """At 224×224: ours three ways, the others, the limit."""
    store_ours(bench)
    store_theirs(bench)
    read_once(bench.lake, *(bench.folder / name for name in PEERS))
    random = bench.asked(SMALL)
    whole = bench.batches(1)
    with ExitStack() as ended:
        sides = {
            "jpeg": ended.enter_context(ours("jpeg", bench.asked(PICTURES))),
            "h264": ended.enter_context(ours("h264", random)),
            "h264 grouped": ended.enter_context(ours("h264 grouped", replace(random, order="grouped"))),
        }
        if isinstance(bench.peers, Path):
            for name in PEERS:
                words = ["serve", name, str(bench.folder / name)]
                sides[name] = ended.enter_context(side(name, "benchmarks.feed_peers", words, python=bench.peers))
        tell_quality(sides, bench.footage)
        console.print(f"  grouped: {sides['h264 grouped'].said.splitlines()[0]}")
        sides["limit"] = ended.enter_context(limit("limit", random))
        found = take_turns({name: (one, whole) for name, one in sides.items()}, rounds=bench.sizes.rounds)
    for name, one, other in (
        *((f"single_jpeg_vs_{peer}", "jpeg", peer) for peer in PEERS),
        ("single_vs_litdata", "h264", "litdata"),
        ("single_grouped_vs_litdata", "h264 grouped", "litdata"),
        ("random224_vs_limit", "h264", "limit"),
    ):
        yield ratio(name, found, one, other) if other in found else not_measured(name, str(bench.peers))
    yield of_bytes(bench)


def of_bytes(bench: Bench) -> Figure:
    """Bytes of pictures a frame; totals are printed."""
    dataset = Catalog.open(str(bench.lake)).dataset(feed_lake.DATASET)
    each = {name: feed_real.payload_bytes(dataset, name) for name in (SMALL, PICTURES, ORIGINAL)}
    theirs, frames = bench.footage.payload_bytes(JPEG) / len(bench.footage), len(bench.footage)
    rest = _size(bench.lake) / frames - sum(each.values())
    told = {**each, "JPEG q90": theirs}
    console.print(
        "  footage, bytes of pictures a frame: " + ", ".join(f"{name} {size:,.0f}" for name, size in told.items())
    )
    stores = {name: _size(bench.folder / name) / frames for name in PEERS if (bench.folder / name).exists()}
    totals = {SMALL: each[SMALL] + rest, PICTURES: each[PICTURES] + rest, **stores}
    console.print("  everything on disk a frame: " + _listed(totals))
    if bench.real is None:
        seen = f"{each[SMALL]:,.0f} | {theirs:,.0f} bytes a frame"
        return result("bytes_vs_litdata", each[SMALL] / theirs, "of litdata", f"{frames:,} frames of footage", seen)
    place = bench.folder.parent / "g1"
    shutil.rmtree(place, ignore_errors=True)  # it is small, and its encoding is what is weighed
    weighed = feed_real.weigh(bench.real / "g1", place)
    for name, one in weighed.items():
        console.print(f"  real G1: {name} {one.bytes_each:,.0f} bytes a frame, {one.psnr_db:.1f} dB over RGB")
    small, jpeg = weighed[SMALL], weighed[feed_real.THEIRS]
    seen = f"{small.bytes_each:,.0f} | {jpeg.bytes_each:,.0f} bytes, {small.psnr_db:.1f} | {jpeg.psnr_db:.1f} dB"
    return result("bytes_vs_litdata", small.bytes_each / jpeg.bytes_each, "of litdata", "real G1 episodes", seen)


def _listed(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size:,.0f}" for name, size in sizes.items())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
