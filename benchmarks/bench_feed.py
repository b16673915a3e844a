"""`make bench-feed`: windows a second into training, beside other libraries and beside the limit of decoding.

    single_jpeg_vs_litdata      single frames at 224×224, ours as JPEG, of LitData; so _webdataset, _mosaic
    single_vs_litdata           the same as H.264 in GOPs of ten, uniformly random
    bytes_vs_litdata            its bytes of pictures, of LitData's; on real recordings where there are some
    single_grouped_vs_litdata   the same, four windows of a GOP in a batch; never to be taken for the one above
    k1_vs_lerobot               random windows of 1 frame at 640×480, of LeRobot 0.4.4; k2_ and k8_: of 2 and 8 frames
    random640_vs_limit          single frames at 640×480, of decoding the same from memory; random224_, sequential_
    s3_warm_vs_local            random single frames at 224×224 from S3 20 ms away, warm node cache, of a local disk
    first_batch_s               from opening the lake to the first batch of two worker processes
    worker_rss_mb               peak memory of a worker at 224×224 and batch 64, its decoded frames as many as it keeps
    open_1e7_vs_1e6             opening a dataset, selecting all and asking for windows, 1e7 steps over 1e6

Every window has the state and a chunk of 16 actions of 26 joints beside its frames. 100,000 frames, each another
picture, in 200 episodes; all sides show the same, which is checked, as are the numbers, to the bit. Compared are
windows per CPU-second, user and system, of whole processes on one CPU each, in turns, medians of the rounds' ratios.
Pictures are uint8 (B, K, 3, H, W); for LeRobot, which gives float32, ours are converted and that counts. Their JPEGs
have quality 90, 4:2:0, and are decoded by libjpeg-turbo straight into the tensor. For `s3_warm_vs_local` the clock on
the wall counts as well, as waiting takes no CPU time: the figure is the worse of the two.

All of it lies in .bench/ (about 20 GB with the others' environments) and is made once. What cannot be had is told as
not measured. FLEETFEED_REAL_DATA names a folder with g1/ (LeRobot v2.1). The exit code is 0
whatever the figures are, unless something failed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from rich.table import Table

os.environ.setdefault("LANCE_LOG", "error")  # "no existing dataset, it will be created" is no news; set before Lance

from benchmarks import feed_footage, feed_lake, feed_lerobot, feed_real, jobs_lerobot, measure
from benchmarks.environments import python_of
from benchmarks.feed_check import SAME_DB, check
from benchmarks.feed_lake import PICTURES, SMALL
from benchmarks.feed_latency import far
from benchmarks.feed_loops import Asked
from benchmarks.feed_packets import JPEG, ORIGINAL, Footage
from benchmarks.feed_sides import ROOT, Side, Took, side
from benchmarks.jobs_lake import S3, s3_server
from benchmarks.machine import tell_machine
from benchmarks.measure import BenchmarkFailed, NotMeasured, Result, console, interleaved, median_ratio
from dataset_catalog import Catalog
from dataset_catalog.errors import CatalogError
from dataset_catalog.storage import Storage

TOOLS = ROOT / ".bench"
PEERS = ("litdata", "webdataset", "mosaic")
PINS = (
    *("torch==2.13.0", "litdata==0.2.76", "mosaicml-streaming==0.13.0", "webdataset==1.0.2"),
    *("numpy<2.2", "transformers<5", "simplejpeg", "opencv-python-headless"),
)
GOALS = {
    "single_jpeg_vs_litdata": 1.1,
    "single_jpeg_vs_webdataset": 1.1,
    "single_jpeg_vs_mosaic": 1.1,
    "single_vs_litdata": 0.8,
    "bytes_vs_litdata": 1 / 8,
    "single_grouped_vs_litdata": 1.5,
    "k1_vs_lerobot": 2.0,
    "k2_vs_lerobot": 2.5,
    "k8_vs_lerobot": 3.0,
    "random640_vs_limit": 0.85,
    "random224_vs_limit": 0.8,
    "sequential_vs_limit": 0.9,
    "s3_warm_vs_local": 0.8,
    "first_batch_s": 3.0,
    "worker_rss_mb": 600.0,
    "open_1e7_vs_1e6": 1.2,
}
LOWER = {"bytes_vs_litdata", "first_batch_s", "worker_rss_mb", "open_1e7_vs_1e6"}
FAR_S = 0.02
LEROBOT_BATCH = {1: 16, 2: 16, 8: 8}
Figure = Result | NotMeasured
Turns = Mapping[str, Sequence[Took]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. The first round of each side is not."""

    episodes: int
    frames: int
    rounds: int
    batches: int  # of 64 windows at 224×224 in a round; others have fewer, by what they take
    starts: int
    steps: tuple[int, int]


WHOLE = Sizes(200, 500, 7, 60, 5, (1_000_000, 10_000_000))
QUICK = Sizes(4, 200, 1, 4, 1, (10_000, 100_000))


@dataclass(frozen=True)
class Bench:
    """What every part needs: where everything lies, and the others' interpreters or why there is none."""

    folder: Path
    sizes: Sizes
    footage: Footage
    peers: Path | str
    lerobot: Path | str
    real: Path | None

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    def asked(self, rendition: str) -> Asked:
        return Asked(lake=str(self.lake), frames_each=self.footage.frames, rendition=rendition)

    def batches(self, share: float) -> int:
        return max(2, round(self.sizes.batches * share))


# -- what is made once -----------------------------------------------------------------------------------------


def once(folder: Path, make: Callable[[Path], object]) -> None:
    """Make a folder unless it is there, whole."""
    if folder.exists():
        return
    console.print(f"making {folder} …")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    make(part)
    part.rename(folder)


def prepare(bench: Bench, names: set[str]) -> None:
    footage = bench.footage
    if names - {"open_1e7_vs_1e6"}:
        feed_footage.make(footage)
        once(bench.lake, lambda place: feed_lake.write_footage(Storage.open(str(place)), footage))
    if isinstance(bench.peers, Path) and names & {*SINGLE}:
        for name in PEERS:
            once(bench.folder / name, partial(_store, bench, name))
    if isinstance(bench.lerobot, Path) and names & {*LEROBOT}:
        once(bench.folder / "lerobot", lambda place: feed_lerobot.store(place, footage))


def _store(bench: Bench, name: str, place: Path) -> None:
    footage = bench.footage
    words = ["store", name, str(place), str(footage.folder), str(footage.episodes), str(footage.frames)]
    command = [str(bench.peers), "-m", "benchmarks.feed_peers", *words]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BenchmarkFailed(f"{name} cannot store the footage: {' '.join(ran.stderr.split()[-40:])}")


# -- sides and turns -------------------------------------------------------------------------------------------


def ours(bench: Bench, name: str, asked: Asked, **environment: str) -> Any:
    return side(name, "benchmarks.feed_loops", ["ours", asked.as_json], environment=environment)


def limit(name: str, asked: Asked) -> Any:
    return side(name, "benchmarks.feed_loops", ["limit", asked.as_json])


def take_turns(bench: Bench, sides: Mapping[str, tuple[Side, int]]) -> dict[str, list[Took]]:
    """Sides with their batches a round; what each took, without the first round."""
    calls = {name: (lambda _, it=it, batches=batches: it.run(batches)) for name, (it, batches) in sides.items()}
    found = {name: took[1:] for name, took in interleaved(bench.sizes.rounds + 1, calls).items()}
    table = Table("side", "windows a round", "per CPU-second", "per second", title_justify="left")
    for name, took in found.items():
        rates = [statistics.median(getattr(one, rate) for one in took) for rate in ("per_cpu_s", "per_wall_s")]
        table.add_row(name, f"{took[0].count:,}", *(f"{rate:,.0f}" for rate in rates))
    console.print(table)
    return found


def of_single(bench: Bench) -> Iterator[Figure]:
    """At 224×224: ours three ways, the others, the limit."""
    random = bench.asked(SMALL)
    whole = bench.batches(1)
    with ExitStack() as ended:
        sides = {
            "jpeg": ended.enter_context(ours(bench, "jpeg", bench.asked(PICTURES))),
            "h264": ended.enter_context(ours(bench, "h264", random)),
            "h264 grouped": ended.enter_context(ours(bench, "h264 grouped", replace(random, order="grouped"))),
        }
        if isinstance(bench.peers, Path):
            for name in PEERS:
                words = ["serve", name, str(bench.folder / name)]
                sides[name] = ended.enter_context(side(name, "benchmarks.feed_peers", words, python=bench.peers))
        _tell_quality(bench, sides)
        console.print(f"  grouped: {sides['h264 grouped'].said.splitlines()[0]}")
        sides["limit"] = ended.enter_context(limit("limit", random))
        found = take_turns(bench, {name: (one, whole) for name, one in sides.items()})
    for name, one, other in (
        *((f"single_jpeg_vs_{peer}", "jpeg", peer) for peer in PEERS),
        ("single_vs_litdata", "h264", "litdata"),
        ("single_grouped_vs_litdata", "h264 grouped", "litdata"),
        ("random224_vs_limit", "h264", "limit"),
    ):
        yield _ratio(name, found, one, other) if other in found else _not(name, str(bench.peers))
    yield of_bytes(bench)


def _tell_quality(bench: Bench, sides: Mapping[str, Side]) -> None:
    """The PSNR of what each side delivers; all of them show the same frames, or this fails."""
    psnr = {name: check(one, bench.footage) for name, one in sides.items()}
    console.print("  dB over RGB: " + ", ".join(f"{name} {value:.1f}" for name, value in psnr.items()))
    best = max((value for name, value in psnr.items() if name in (*PEERS, "lerobot")), default=0.0)
    for name, value in psnr.items():
        if value < best - SAME_DB:
            console.print(f"  [red]{name} is {best - value:.1f} dB below the others: not within {SAME_DB} dB[/red]")


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
        return _result("bytes_vs_litdata", each[SMALL] / theirs, "of litdata", f"{frames:,} frames of footage", seen)
    place = bench.folder.parent / "g1"
    shutil.rmtree(place, ignore_errors=True)  # it is small, and its encoding is what is weighed
    weighed = feed_real.weigh(bench.real / "g1", place)
    for name, one in weighed.items():
        console.print(f"  real G1: {name} {one.bytes_each:,.0f} bytes a frame, {one.psnr_db:.1f} dB over RGB")
    small, jpeg = weighed[SMALL], weighed[feed_real.THEIRS]
    seen = f"{small.bytes_each:,.0f} | {jpeg.bytes_each:,.0f} bytes, {small.psnr_db:.1f} | {jpeg.psnr_db:.1f} dB"
    return _result("bytes_vs_litdata", small.bytes_each / jpeg.bytes_each, "of litdata", "real G1 episodes", seen)


def of_full(bench: Bench) -> Iterator[Figure]:
    """At 640×480, against the limit."""
    random = bench.asked(ORIGINAL)
    sequential = replace(random, order="sequential")
    with ExitStack() as ended:
        sides = {
            name: (ended.enter_context(made), bench.batches(share))
            for name, made, share in (
                ("random", ours(bench, "random", random), 0.3),
                ("limit of random", limit("limit of random", random), 0.3),
                ("sequential", ours(bench, "sequential", sequential), 0.5),
                ("limit of sequential", limit("limit of sequential", sequential), 0.5),
            )
        }
        found = take_turns(bench, sides)
    yield _ratio("random640_vs_limit", found, "random", "limit of random")
    yield _ratio("sequential_vs_limit", found, "sequential", "limit of sequential")


def of_lerobot(bench: Bench) -> Iterator[Figure]:
    """At 640×480, windows of 1, 2 and 8 frames."""
    if isinstance(bench.lerobot, str):
        yield from (_not(name, bench.lerobot) for name in LEROBOT)
        return
    libraries = str(feed_lerobot.ffmpeg_libraries(bench.lerobot.parents[1]))
    told = {"HF_HUB_OFFLINE": "1", "LD_LIBRARY_PATH": libraries}
    for frames, batch in LEROBOT_BATCH.items():
        asked = replace(bench.asked(ORIGINAL), frames=frames, batch=batch, floats=True)
        words = [str(bench.folder / "lerobot"), str(batch), str(frames)]
        theirs = side("lerobot", "benchmarks.feed_lerobot_reader", words, python=bench.lerobot, environment=told)
        with ours(bench, "ours", asked) as our_side, theirs as their_side:
            _tell_quality(bench, {"ours": our_side, "lerobot": their_side})
            batches = bench.batches(0.25 / frames**0.5 / (batch / 16))
            found = take_turns(bench, {"ours": (our_side, 2 * batches), "lerobot": (their_side, batches)})
        yield _ratio(f"k{frames}_vs_lerobot", found, "ours", "lerobot")


def of_s3(bench: Bench) -> Iterator[Figure]:
    """The same dataset in a folder and in S3; the cache is filled by one pass in order."""
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
    with ours(bench, "filling", replace(distant, order="sequential"), **warm) as filling:
        pass_ = filling.run(len(bench.footage) // 64)
    console.print(f"  cold, in order: {pass_.per_wall_s:,.0f} windows/s, {pass_.per_cpu_s:,.0f} per CPU-second")
    with ours(bench, "cold", distant, **cold) as one:
        first = one.run(bench.batches(0.3))
    console.print(f"  cold, random: {first.per_wall_s:,.0f} windows/s, {first.per_cpu_s:,.0f} per CPU-second")
    with ours(bench, "s3 warm", distant, **warm) as far_side, ours(bench, "local", asked) as near_side:
        found = take_turns(bench, {"s3 warm": (far_side, whole), "local": (near_side, whole)})
    both = [_ratio("s3_warm_vs_local", found, "s3 warm", "local", by=by) for by in get_args(By)]
    return min(both, key=lambda one: one.value)


def _copy(local: Path, storage: Storage) -> None:
    filesystem = storage.filesystem()
    filesystem.put(f"{local}/", f"{storage.path('')}", recursive=True)


def _as_environment(s3: S3, url: str) -> dict[str, str]:
    key = s3.credentials
    names = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": key.access_key_id, "SECRET_ACCESS_KEY": key.secret_access_key}
    return {f"FLEETFEED_STORAGE_{name}": value for name, value in names.items()}


def of_starts(bench: Bench) -> Iterator[Figure]:
    """The first run is not counted: it makes what is read warm."""
    asked = bench.asked(SMALL)
    runs = [_started("first", asked.as_json, str(bench.batches(2))) for _ in range(bench.sizes.starts + 1)][1:]
    for name, unit in (("first_batch_s", "s"), ("worker_rss_mb", "MB")):
        values = [run[name] for run in runs]
        ran = f"{len(runs)} runs, two workers, batches of {asked.batch}"
        yield _result(name, statistics.median(values), unit, ran, f"{min(values):.4g} to {max(values):.4g} {unit}")


def of_open(bench: Bench) -> Iterator[Figure]:
    lakes = {steps: bench.folder.parent / "numbers" / str(steps) for steps in bench.sizes.steps}
    for steps, lake in lakes.items():
        once(lake, lambda place, n=steps: feed_lake.write_numbers(Storage.open(str(place)), "numbers", steps=n))

    def opened(lake: Path, _: int) -> dict[str, float]:
        return _started("open", str(lake), "numbers")

    turns = interleaved(bench.sizes.starts + 1, {str(steps): partial(opened, lake) for steps, lake in lakes.items()})
    found = {name: runs[1:] for name, runs in turns.items()}
    small, large = ([run["cpu_s"] for run in runs] for runs in found.values())
    for name, runs in found.items():
        cpu_s, wall_s, asked_s = (
            statistics.median(run[part] for run in runs) for part in ("cpu_s", "wall_s", "asked_s")
        )
        console.print(f"  {int(name):,} steps: {cpu_s:.2f} CPU-s; {wall_s:.2f} s, {asked_s:.2f} s without the batch")
    seen = f"{statistics.median(large) * 1e3:,.0f} | {statistics.median(small) * 1e3:,.0f} ms CPU"
    ran = f"{len(small)} interleaved runs, episodes of {feed_lake.STEPS_OF_ONE:,} steps, one batch of 64 at random"
    yield _result("open_1e7_vs_1e6", median_ratio(large, small), "of 1e6", ran, seen)


def _started(*words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.feed_starts", *words]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BenchmarkFailed(f"a start failed: {' '.join(ran.stderr.split()[-40:])}")
    answer: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return answer


def _listed(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size:,.0f}" for name, size in sizes.items())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# -- figures ---------------------------------------------------------------------------------------------------

By = Literal["per_cpu_s", "per_wall_s"]


def _ratio(name: str, found: Turns, one: str, other: str, *, by: By = "per_cpu_s") -> Result:
    rates = {each: [getattr(took, by) for took in found[each]] for each in (one, other)}
    unit = "windows/CPU-s" if by == "per_cpu_s" else "windows/s"
    medians = f"{statistics.median(rates[one]):,.0f} | {statistics.median(rates[other]):,.0f} {unit}"
    ran = f"{len(found[one])} interleaved rounds of {found[one][0].count:,} windows"
    return _result(name, median_ratio(rates[one], rates[other]), f"of {other}", ran, medians)


def _result(name: str, value: float, unit: str, ran: str, seen: str) -> Result:
    return Result(name, value, unit, GOALS[name], "lower" if name in LOWER else "higher", ran, seen)


def _not(name: str, reason: str) -> NotMeasured:
    other = name.rsplit("_", 1)[-1]
    return NotMeasured(name, f"of {other}", GOALS[name], "lower" if name in LOWER else "higher", reason)


SINGLE = (
    *(f"single_jpeg_vs_{peer}" for peer in PEERS),
    *("single_vs_litdata", "bytes_vs_litdata", "single_grouped_vs_litdata", "random224_vs_limit"),
)
LEROBOT = tuple(f"k{frames}_vs_lerobot" for frames in LEROBOT_BATCH)
PARTS: dict[tuple[str, ...], Callable[[Bench], Iterator[Figure]]] = {
    SINGLE: of_single,
    ("random640_vs_limit", "sequential_vs_limit"): of_full,
    LEROBOT: of_lerobot,
    ("s3_warm_vs_local",): of_s3,
    ("first_batch_s", "worker_rss_mb"): of_starts,
    ("open_1e7_vs_1e6",): of_open,
}


def run(bench: Bench, names: set[str]) -> Iterator[Figure]:
    """Measure the figures that are asked for, part by part."""
    prepare(bench, names)
    for figures, measure_them in PARTS.items():
        if names & set(figures):
            console.rule(", ".join(figures), align="left")
            yield from (one for one in measure_them(bench) if one.name in names)


def _python(make: Callable[[], Path], *, is_asked: bool) -> Path | str:
    """An interpreter, or why there is none."""
    if not is_asked:
        return "not asked for"
    try:
        return make()
    except BenchmarkFailed as error:
        return str(error)


def _bench(sizes: Sizes, names: set[str], *, build: bool, real: str | None) -> Bench:
    folder = TOOLS / "feed" / f"{sizes.episodes}x{sizes.frames}"
    return Bench(
        folder,
        sizes,
        Footage(folder / "footage", sizes.episodes, sizes.frames),
        _python(
            lambda: python_of(TOOLS / "peers", name="the other libraries", pins=PINS, build=build),
            is_asked=bool(names & {*SINGLE}),
        ),
        _python(lambda: jobs_lerobot.lerobot_python(TOOLS / "lerobot", build=build), is_asked=bool(names & {*LEROBOT})),
        Path(real) if real and (Path(real) / "g1").is_dir() else None,
    )


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--only", action="append", choices=GOALS, metavar="NAME", help="this figure; can be repeated")
    return parser.parse_args()


def main() -> None:
    asked = _asked()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is ended then, too
    real = None if asked.quick else os.environ.get("FLEETFEED_REAL_DATA")
    for name in [name for name in os.environ if name.startswith("FLEETFEED_")]:
        del os.environ[name]  # what is measured is what comes without settings
    names = set(asked.only or GOALS)
    try:
        TOOLS.mkdir(exist_ok=True)
        tell_machine(TOOLS)
        bench = _bench(QUICK if asked.quick else WHOLE, names, build=not asked.quick, real=real)
        results = sorted(run(bench, names), key=lambda one: list(GOALS).index(one.name))
        tell_machine(TOOLS)
    except (BenchmarkFailed, CatalogError) as error:
        sys.exit(f"bench-feed: {error}")
    except KeyboardInterrupt:
        sys.exit("bench-feed: ended before it was done")
    measure.close("feed", results)


if __name__ == "__main__":
    main()
