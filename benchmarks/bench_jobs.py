"""`make bench-jobs`: what the jobs cost, beside the least that each task needs, and beside two others' way.

    index_vs_bare_decode      frames per CPU-second of index_segments, of a bare libav loop over the same segments
    align_vs_byte_copy        bytes per CPU-second of align_frames, of copying the same objects from S3 to Lance blobs
    telemetry_vs_mcap_reader  messages per CPU-second of load_telemetry, of the `mcap` reader with decoding
    way_vs_lerobot            frames per CPU-second of index_segments and align_frames, of LeRobot's dataset writer
    way_vs_read_videos        the same, of Ray Data's read_videos over the same pictures as mp4
    growth_16_vs_4            CPU time per recording of all three jobs with 16 times the recordings, over 4 times

All of it is CPU time, user and system, so that a busy machine does not count; sides run in turns in the same minutes on
the same data. Of the jobs everything counts from the call of `run` to its summary: planning, reading from S3, Ray Data,
workers with their children, commit, manifest. Not counted: starting Ray, and the first round of each side, in which
workers import what they need; Ray's own processes (raylet, GCS, agents, and the actors that keep statistics and wishes
for an autoscaler, one a cluster) and S3, which are printed apart. Of the bare loops only the loop counts: `decode` and
`mcap` have their bytes in memory, nothing is checked, nothing is written.
LeRobot gets its pictures decoded, and counts with the cheapest of its ways of writing (H.264, encoded as it streams).

Robots record 640×480 at 20 fps, 2.5 Mbit/s H.264 in GOPs of ten, segments of 10 s, and 2 × 20 messages a second of
500 bytes, JSON and protobuf; episodes are aligned to the camera with five columns. Where FLEETFEED_REAL_DATA names a
folder with g1/ (LeRobot v2.1), index and align of those episodes are printed too.

SeaweedFS and Ray run on this machine, in a temporary folder (TMPDIR says where). decord (14 MB) and LeRobot's
environment (8 GB, needs a C compiler) are put into .bench/ once; what cannot be had is told as not measured. The exit
code is 0 whatever the figures are, unless something failed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

os.environ.setdefault("LANCE_LOG", "error")  # "no existing dataset, it will be created" is no news; set before Lance

from benchmarks import jobs_footage as footage
from benchmarks import jobs_growth, jobs_lerobot, jobs_read_videos, jobs_real, measure
from benchmarks.jobs_growth import grow
from benchmarks.jobs_lake import S3, Put, Shape, count, record, s3_server
from benchmarks.jobs_peers import Loop, Peer, peer
from benchmarks.jobs_runs import Cluster, Took, index_all, telemetry_alone, whole_way
from benchmarks.machine import tell_machine
from benchmarks.measure import BenchmarkFailed, NotMeasured, Result, console, interleaved, median_ratio
from dataset_catalog.errors import CatalogError
from dataset_catalog.storage import Storage
from fleetfeed.errors import StackError
from ingest_serve.errors import IngestError
from ray_jobs.__main__ import SPECS
from ray_jobs.align_spec import AlignSpec
from ray_jobs.errors import JobError

TOOLS = Path(__file__).parents[1] / ".bench"
FILM = ("index_vs_bare_decode", "align_vs_byte_copy", "way_vs_lerobot", "way_vs_read_videos")
TELEMETRY, GROWTH = ("telemetry_vs_mcap_reader",), ("growth_16_vs_4",)
GOALS = {
    "index_vs_bare_decode": 0.65,
    "align_vs_byte_copy": 0.5,
    "telemetry_vs_mcap_reader": 0.8,
    "way_vs_lerobot": 3.0,
    "way_vs_read_videos": 1.5,
    "growth_16_vs_4": 1.2,
}
OURS = "jobs"
Figure = Result | NotMeasured


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. The first round of each side is not: workers import and open what they need in it."""

    rounds: int
    clips: int  # different ones
    film: Shape
    telemetry: Shape
    lerobot_episodes: int
    growth_rounds: int
    growth: Shape


WHOLE = Sizes(5, 8, Shape(32, 2, 200), Shape(40, 15, 200, film=False), 1, 3, Shape(8, 1, 40))
QUICK = Sizes(1, 1, Shape(2, 1, 60), Shape(2, 2, 60, film=False), 1, 1, Shape(1, 1, 20))


@dataclass(frozen=True)
class Bench:
    """What every part of the benchmark needs."""

    s3: S3
    cluster: Cluster
    folder: Path
    sizes: Sizes
    telemetry: footage.Telemetry
    clips: Sequence[footage.Clip]


def of_film(bench: Bench, others: Others) -> Iterator[Figure]:
    """Index, align and both together."""
    lake = bench.s3.lake("film")
    puts = record(lake, bench.sizes.film, bench.telemetry, bench.clips)
    frames = count(puts, "video")
    rate = 8 * sum(len(one.body) for one in puts if one.kind == "video") / frames * footage.HZ / 1e6
    console.print(f"{len(puts)} segments, {frames:,} frames, {rate:.1f} Mbit/s")
    with ExitStack() as ended:
        sides: dict[str, Callable[[int], Took]] = {
            OURS: lambda _: whole_way(bench.cluster, lake, puts, frames=frames),
            **{name: _loop(name, ended.enter_context(peer(name, lake))) for name in ("decode", "copy")},
        }
        if not others.no_decord:
            sides["read_videos"] = _read_videos(bench, lake, puts, frames)
        if others.lerobot:
            sides |= _lerobot(bench, puts, others.lerobot)
        found = _counted(interleaved(bench.sizes.rounds + 1, sides))
    show(found)
    yield _ratio("index_vs_bare_decode", found, "index", "decode", "frames")
    yield _ratio("align_vs_byte_copy", found, "align", "copy", "bytes")
    yield from _way("way_vs_lerobot", found, list(jobs_lerobot.CONFIGURATIONS), others.no_lerobot)
    yield from _way("way_vs_read_videos", found, ["read_videos"], others.no_decord)


def of_telemetry(bench: Bench) -> Iterator[Figure]:
    lake = bench.s3.lake("telemetry")
    puts = record(lake, bench.sizes.telemetry, bench.telemetry, ())
    messages = count(puts, "telemetry")
    console.print(f"{len(puts)} segments, {messages:,} messages, {sum(len(one.body) for one in puts) / 1e6:.0f} MB")
    index_all(bench.cluster, lake, segments=len(puts))
    with peer("mcap", lake) as bare:
        sides = {OURS: lambda _: telemetry_alone(bench.cluster, lake, messages=messages), "mcap": _loop("mcap", bare)}
        found = _counted(interleaved(bench.sizes.rounds + 1, sides))
    show(found)
    yield _ratio("telemetry_vs_mcap_reader", found, "load", "mcap", "messages")


def of_growth(bench: Bench) -> Iterator[Figure]:
    sizes = grow(
        bench.s3, bench.cluster, bench.sizes.growth, bench.telemetry, bench.clips, rounds=bench.sizes.growth_rounds
    )
    jobs_growth.show(sizes)
    ours, theirs = sizes[16].per_recording_s(), sizes[4].per_recording_s()
    medians = f"{statistics.median(ours) * 1e3:,.0f} | {statistics.median(theirs) * 1e3:,.0f} ms CPU a recording"
    ran = f"{len(ours)} interleaved rounds of {sizes[16].recordings} and {sizes[4].recordings} recordings"
    yield _result("growth_16_vs_4", median_ratio(ours, theirs), "of 4 times", ran, medians, better="lower")


def tell_real(bench: Bench, folder: Path) -> None:
    """The same of real episodes, in no figure."""
    lake, spec = bench.s3.lake("real"), AlignSpec.load(SPECS / f"{jobs_real.SPEC}.toml")
    puts = jobs_real.record_real(lake, folder / "g1")
    frames = count(puts, "video")
    with ExitStack() as ended:
        sides: dict[str, Callable[[int], Took]] = {
            OURS: lambda _: whole_way(bench.cluster, lake, puts, frames=frames, spec=spec),
            **{name: _loop(name, ended.enter_context(peer(name, lake))) for name in ("decode", "copy")},
        }
        found = _counted(interleaved(bench.sizes.rounds + 1, sides))
    show(found)
    index, align = (_rounds_ratio(found, ours, other) for ours, other in (("index", "decode"), ("align", "copy")))
    console.print(f"  {frames:,} frames: index {index:.2f} of bare decode, align {align:.2f} of a copy")


def show(found: Mapping[str, Sequence[Took]]) -> None:
    """What each side and each job took, medians of the rounds."""
    table = Table("side", "CPU-s", "Ray's own", "S3", "wall s", "per CPU-second", title_justify="left")
    for side, took in found.items():
        for name in took[0].loops:
            per_s = statistics.median(one.loops[name].per_cpu_s for one in took)
            cpu_s = statistics.median(one.loops[name].cpu_s for one in took)
            table.add_row(side if side == name else f"{side}: {name}", f"{cpu_s:.2f}", "", "", "", f"{per_s:,.0f}")
        for name in took[0].spent:
            each = [one.spent[name] for one in took]
            parts = ("cpu_s", "ray_s", "s3_s", "wall_s")
            medians = (statistics.median(getattr(one, part) for one in each) for part in parts)
            table.add_row(f"  {name}", *(f"{value:.2f}" for value in medians), "")
    console.print(table)


def _loop(name: str, bare: Peer) -> Callable[[int], Took]:
    return lambda number: Took({name: bare.run(number)})


def _read_videos(bench: Bench, lake: Storage, puts: Sequence[Put], frames: int) -> Callable[[int], Took]:
    jobs_read_videos.store_mp4s(lake, puts)
    read = jobs_read_videos.reader(lake)

    def run(_: int) -> Took:
        found, spent = bench.cluster.measured(read)
        if found != frames:
            raise BenchmarkFailed(f"read_videos found {found} frames, expected {frames}")
        return Took({"read_videos": Loop(found, spent.cpu_s)}, {"read": spent})

    return run


def _lerobot(bench: Bench, puts: Sequence[Put], python: Path) -> dict[str, Callable[[int], Took]]:
    episodes, target = bench.folder / "episodes", bench.folder / "lerobot"
    jobs_lerobot.store_episodes(episodes, puts, episodes=bench.sizes.lerobot_episodes)

    def side(name: str) -> Callable[[int], Took]:
        return lambda _: Took({name: jobs_lerobot.write(python, episodes, target, name)})

    return {name: side(name) for name in jobs_lerobot.CONFIGURATIONS}


def _counted(found: dict[str, list[Took]]) -> dict[str, list[Took]]:
    return {side: took[1:] for side, took in found.items()}


def _way(name: str, found: Mapping[str, Sequence[Took]], others: Sequence[str], reason: str) -> Iterator[Figure]:
    """Beside the fastest of the others, or why there is none."""
    if others[0] not in found:
        yield NotMeasured(name, f"of {name.removeprefix('way_vs_')}", GOALS[name], "higher", reason)
        return
    fastest = min(others, key=lambda other: _rounds_ratio(found, "way", other))
    yield _ratio(name, found, "way", fastest, "frames")


def _ratio(name: str, found: Mapping[str, Sequence[Took]], ours: str, other: str, what: str) -> Result:
    rates = {loop: [one.loops[loop].per_cpu_s for one in found[side]] for side, loop in ((OURS, ours), (other, other))}
    medians = f"{statistics.median(rates[ours]):,.0f} | {statistics.median(rates[other]):,.0f} {what}/CPU-s"
    count_ = found[OURS][0].loops[ours].count
    ran = f"{len(found[OURS])} interleaved rounds of {count_:,} {what}"
    return _result(name, _rounds_ratio(found, ours, other), f"of {other}", ran, medians)


def _result(
    name: str, value: float, unit: str, ran: str, seen: str, *, better: Literal["lower", "higher"] = "higher"
) -> Result:
    return Result(name, value, unit, GOALS[name], better, ran, seen)


def _rounds_ratio(found: Mapping[str, Sequence[Took]], ours: str, other: str) -> float:
    return median_ratio(
        [one.loops[ours].per_cpu_s for one in found[OURS]], [one.loops[other].per_cpu_s for one in found[other]]
    )


@dataclass(frozen=True)
class Others:
    """The others' programs: LeRobot's Python, whether decord is there; and why not, in words."""

    lerobot: Path | None
    no_lerobot: str
    no_decord: str

    @classmethod
    def find(cls, names: set[str], *, build: bool) -> Others:
        """Those that the figures of these names need."""
        lerobot, no_lerobot, no_decord = None, "not asked for", "not asked for"
        try:
            if "way_vs_lerobot" in names:
                lerobot, no_lerobot = jobs_lerobot.lerobot_python(TOOLS / "lerobot", build=build), ""
        except BenchmarkFailed as error:
            no_lerobot = str(error)
        try:
            if "way_vs_read_videos" in names:
                jobs_read_videos.offer_decord(TOOLS / "decord")
                no_decord = ""
        except BenchmarkFailed as error:
            no_decord = str(error)
        return cls(lerobot, no_lerobot, no_decord)


def run(folder: Path, sizes: Sizes, *, names: set[str], others: Others, real: str | None) -> Iterator[Figure]:
    """Measure the figures that are asked for, one after the other, on one Ray and one S3."""
    with s3_server(folder / "s3") as s3:
        cluster = Cluster(s3)
        cluster.connect()
        clips = footage.film(folder, clips=sizes.clips, frames=sizes.film.ticks)
        bench = Bench(s3, cluster, folder, sizes, footage.Telemetry.make(), clips)
        parts: dict[tuple[str, ...], Callable[[], Iterator[Figure]]] = {
            FILM: lambda: of_film(bench, others),
            TELEMETRY: lambda: of_telemetry(bench),
            GROWTH: lambda: of_growth(bench),
        }
        for figures, measure_them in parts.items():
            if names & set(figures):
                console.rule(", ".join(figures), align="left")
                yield from (one for one in measure_them() if one.name in names)
        if real and names & set(FILM):
            console.rule("real G1 episodes, in no figure", align="left")
            tell_real(bench, Path(real))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--only", action="append", choices=GOALS, metavar="NAME", help="this figure; can be repeated")
    return parser.parse_args()


def main() -> None:
    asked = _asked()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is ended then, too
    real = None if asked.quick else os.environ.get("FLEETFEED_REAL_DATA")
    for name in [name for name in os.environ if name.startswith("FLEETFEED_") or name == "RAY_ADDRESS"]:
        del os.environ[name]  # what is measured is what comes without settings
    try:
        with tempfile.TemporaryDirectory(prefix="fleetfeed-bench-") as place:
            tell_machine(Path(place))
            sizes, names = QUICK if asked.quick else WHOLE, set(asked.only or GOALS)
            others = Others.find(names, build=not asked.quick)
            results = list(run(Path(place), sizes, names=names, others=others, real=real))
            tell_machine(Path(place))
    except (BenchmarkFailed, CatalogError, IngestError, JobError, StackError) as error:
        sys.exit(f"bench-jobs: {error}")
    except KeyboardInterrupt:
        sys.exit("bench-jobs: ended before it was done")
    measure.close("jobs", sorted(results, key=lambda one: list(GOALS).index(one.name)))


if __name__ == "__main__":
    main()
