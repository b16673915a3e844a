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
windows per CPU-second, user and system, of whole processes on one CPU each, in turns, medians of the rounds' ratios;
files lie in the page cache.
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
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("LANCE_LOG", "error")  # "no existing dataset, it will be created" is no news; set before Lance

from benchmarks import feed_page, jobs_lerobot, measure
from benchmarks.environments import python_of
from benchmarks.feed_bench import PEERS, QUICK, WHOLE, Bench, Sizes
from benchmarks.feed_far import of_s3
from benchmarks.feed_figures import GOALS, Figure
from benchmarks.feed_full import LEROBOT, of_full, of_lerobot
from benchmarks.feed_opened import of_open, of_starts
from benchmarks.feed_packets import Footage
from benchmarks.feed_sides import ROOT
from benchmarks.feed_single import of_single
from benchmarks.machine import describe_machine, tell_machine
from benchmarks.measure import BenchmarkFailed, Result, console
from dataset_catalog.errors import CatalogError

TOOLS = ROOT / ".bench"
PINS = (
    *("torch==2.13.0", "litdata==0.2.76", "mosaicml-streaming==0.13.0", "webdataset==1.0.2"),
    *("numpy<2.2", "transformers<5", "simplejpeg", "opencv-python-headless"),
)
SINGLE = (
    *(f"single_jpeg_vs_{peer}" for peer in PEERS),
    *("single_vs_litdata", "bytes_vs_litdata", "single_grouped_vs_litdata", "random224_vs_limit"),
)
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


def _bench(place: Path, sizes: Sizes, names: set[str], *, build: bool, real: str | None) -> Bench:
    folder = place / "feed" / f"{sizes.episodes}x{sizes.frames}"
    return Bench(
        folder,
        sizes,
        Footage(folder / "footage", sizes.episodes, sizes.frames),
        _python(
            lambda: python_of(place / "peers", name="the other libraries", pins=PINS, build=build),
            is_asked=bool(names & {*SINGLE}),
        ),
        _python(lambda: jobs_lerobot.lerobot_python(place / "lerobot", build=build), is_asked=bool(names & {*LEROBOT})),
        Path(real) if real and (Path(real) / "g1").is_dir() else None,
    )


def _keep(path: Path, results: Sequence[Figure]) -> None:
    """For `benchmarks.feed_page`, over what earlier runs found of other figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {row["name"]: row for row in json.loads(path.read_text())["results"]} if path.exists() else {}
    kept |= {one.name: {**one.as_json(), **_told(one)} for one in results}
    rows = sorted(kept.values(), key=lambda row: list(GOALS).index(row["name"]))
    path.write_text(json.dumps({"machine": describe_machine(), "results": rows}, indent=1))


def _told(one: Figure) -> dict[str, str]:
    return {"ran": one.ran, "seen": one.seen} if isinstance(one, Result) else {}


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--only", action="append", choices=GOALS, metavar="NAME", help="this figure; can be repeated")
    parser.add_argument("--folder", type=Path, default=TOOLS, help="where footage and environments are kept: .bench")
    return parser.parse_args()


def main() -> None:
    asked = _asked()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is ended then, too
    real = None if asked.quick else os.environ.get("FLEETFEED_REAL_DATA")
    for name in [name for name in os.environ if name.startswith("FLEETFEED_")]:
        del os.environ[name]  # what is measured is what comes without settings
    names = set(asked.only or GOALS)
    try:
        place = asked.folder.resolve()
        place.mkdir(exist_ok=True)
        tell_machine(place)
        bench = _bench(place, QUICK if asked.quick else WHOLE, names, build=not asked.quick, real=real)
        results = sorted(run(bench, names), key=lambda one: list(GOALS).index(one.name))
        tell_machine(place)
    except (BenchmarkFailed, CatalogError) as error:
        sys.exit(f"bench-feed: {error}")
    except KeyboardInterrupt:
        sys.exit("bench-feed: ended before it was done")
    if not asked.quick:
        _keep(place / "feed" / feed_page.KEPT, results)
    measure.close("feed", results)


if __name__ == "__main__":
    main()
