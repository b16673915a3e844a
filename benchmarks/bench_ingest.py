"""`make bench-ingest`: what the server takes, beside what S3 takes from the same clients without it.

    video_vs_direct_put      MB/s of 3 MB segments, of the same bodies PUT straight to the same S3
    video_vs_python_proxy    the same of the same application behind Serve's own proxy
    telemetry_vs_direct_put  requests/s of 50 kB segments, of PUTs straight to S3

An upload is signed, verified and durable: HAProxy, an ingest replica on Ray Serve, SeaweedFS, all on this machine. The
requests are made before the clock starts, and one small client sends those of either side. The CPU time of each
server is printed, and from it how many cores and nodes 2,000 robots need. The exit code is 0 whatever the figures are,
unless something failed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks import measure, ready_requests
from benchmarks.ingest_servers import PROXY, REPLICA, S3, Took, send, stack
from benchmarks.machine import tell_machine
from benchmarks.measure import MB, BenchmarkFailed, Result, console, interleaved, median_ratio, percentile
from benchmarks.ready_requests import Bodies, Robot
from benchmarks.robots import Server
from edge.wire import Kind
from fleetfeed.errors import StackError
from ingest_serve.bucket import Bucket
from ingest_serve.registry import Registry

ROBOTS = 16
FLEET = 2_000  # robots, each with one telemetry and one video segment every 10 s
SEGMENTS_PER_S = FLEET / ready_requests.SEGMENT_S
NODE_CORES, NODE_SHARE = 16, 0.7  # of a node's cores that may be busy
GOALS = {"video_vs_direct_put": 0.8, "video_vs_python_proxy": 3.0, "telemetry_vs_direct_put": 0.6}
OURS, STRAIGHT, PYTHON = "upload", "straight to S3", "behind the Python proxy"


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent in one round of one side."""

    kind: Kind
    size_bytes: int
    bodies: int  # different ones
    requests: int
    connections: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. The first round of each side is not: it opens connections and files."""

    rounds: int
    video: Load
    telemetry: Load


WHOLE = Sizes(7, Load("video", 3 * MB, 16, 100, 8), Load("telemetry", 50_000, 64, 2_000, 16))
QUICK = Sizes(1, Load("video", 3 * MB, 2, 6, 2), Load("telemetry", 50_000, 4, 40, 4))


def compare(folder: Path, load: Load, servers: dict[str, Server], *, rounds: int) -> dict[str, list[Took]]:
    """Every side in every round; a round's segments are new ones."""
    bodies = Bodies.make(folder / load.kind, count=load.bodies, size_bytes=load.size_bytes)
    sides = {name: _side(name, server, bodies, load) for name, server in servers.items()}
    found = interleaved(rounds + 1, sides)
    return {name: took[1:] for name, took in found.items()}


def _side(name: str, server: Server, bodies: Bodies, load: Load) -> Callable[[int], Took]:
    if name == STRAIGHT:
        return lambda number: _put(server, bodies, load, number)
    registry = Registry(Bucket.open(server.storage))
    robots = [Robot.let_in(registry, f"{load.kind}-{number}") for number in range(ROBOTS)]
    return lambda number: _upload(server, bodies, load, robots, number)


def _upload(server: Server, bodies: Bodies, load: Load, robots: Sequence[Robot], number: int) -> Took:
    address = server.url.removeprefix("http://")
    requests = ready_requests.uploads(
        bodies, robots, kind=load.kind, stream=f"round_{number}", count=load.requests, host=address
    )
    batch = ready_requests.as_batch(bodies, requests)
    return send(server, address, batch, connections=load.connections, status=201)


def _put(server: Server, bodies: Bodies, load: Load, number: int) -> Took:
    address = server.info.s3_url.removeprefix("http://")
    prefix = f"straight/{load.kind}/{number}"
    requests = ready_requests.puts(bodies, server.info, prefix=prefix, count=load.requests, host=address)
    batch = ready_requests.as_batch(bodies, requests)
    return send(server, address, batch, connections=load.connections, status=200)


def results(load: Load, found: dict[str, list[Took]], names: dict[str, str]) -> Iterator[Result]:
    """`names`: the figure's name → the side that ours is compared with."""
    per_request, unit = (load.size_bytes / MB, "MB/s") if load.kind == "video" else (1.0, "requests/s")
    rates = {side: [one.requests_per_s * per_request for one in took] for side, took in found.items()}
    for name, other in names.items():
        medians = f"{statistics.median(rates[OURS]):,.0f} | {statistics.median(rates[other]):,.0f} {unit}"
        ran = f"{len(rates[OURS])} interleaved rounds of {load.requests} × {load.size_bytes / 1000:,.0f} kB"
        ran += f" over {load.connections} connections"
        ratio = median_ratio(rates[OURS], rates[other])
        yield Result(name, ratio, f"of {other}", GOALS[name], "higher", ran, medians)


def show(load: Load, found: dict[str, list[Took]]) -> None:
    """Rates, latencies, and what each server spent on a request."""
    columns = (
        "side",
        "requests/s",
        "MB/s",
        "p50",
        "p99",
        *(f"{kind} CPU" for kind in (REPLICA, PROXY, S3)),
        "client",
    )
    table = Table(*columns, title=f"{load.kind}: {load.size_bytes / 1000:,.0f} kB", title_justify="left")
    for side, took in found.items():
        rate = statistics.median(one.requests_per_s for one in took)
        latencies = [latency for one in took for latency in one.seen.latencies_s]
        quantiles = [f"{percentile(latencies, q) * 1e3:.1f} ms" for q in (50, 99)]
        spent = [f"{cpu_ms(took, kind):.2f} ms" for kind in (REPLICA, PROXY, S3)]
        client = statistics.median(one.seen.cpu_s / len(one.seen.latencies_s) for one in took) * 1e3
        table.add_row(
            side, f"{rate:,.0f}", f"{rate * load.size_bytes / MB:,.0f}", *quantiles, *spent, f"{client:.2f} ms"
        )
    console.print(table)
    if PYTHON in found:
        ours, python = (cpu_ms(found[side], REPLICA) + cpu_ms(found[side], PROXY) for side in (OURS, PYTHON))
        console.print(
            f"without S3's part, which all sides share with {os.cpu_count()} cores: {ours:.1f} ms CPU a request "
            f"behind HAProxy, {python:.1f} ms behind the Python proxy: {python / ours:.1f} times as much"
        )


def cpu_ms(took: Sequence[Took], kind: str) -> float:
    """CPU time of a kind of server for one request, the median of the rounds."""
    return statistics.median(one.cpu_s[kind] / len(one.seen.latencies_s) for one in took) * 1e3


def show_fleet(video: Load, found: dict[str, list[Took]]) -> None:
    """How many cores and nodes a fleet needs, by the CPU time of replica and HAProxy."""
    needed = {}
    for kind in (REPLICA, PROXY):
        for_video, for_telemetry = (cpu_ms(found[load], kind) for load in ("video", "telemetry"))
        per_gb, per_thousand = for_video / video.size_bytes * 1e6, for_telemetry
        console.print(
            f"{kind}: {per_gb:.2f} CPU-s per GB of video, {per_thousand:.2f} CPU-s per 1,000 telemetry segments"
        )
        needed[kind] = SEGMENTS_PER_S * (for_video + for_telemetry) / 1e3
    cores = sum(needed.values())
    nodes = cores / (NODE_CORES * NODE_SHARE)
    each = ", ".join(f"{kind} {value:.1f}" for kind, value in needed.items())
    console.print(
        f"{FLEET:,} robots ({SEGMENTS_PER_S:.0f} video and {SEGMENTS_PER_S:.0f} telemetry segments/s, "
        f"{SEGMENTS_PER_S * video.size_bytes / MB:,.0f} MB/s): {cores:.1f} cores ({each}), "
        f"{max(1, -int(-nodes // 1))} nodes of {NODE_CORES} cores that are busy to {NODE_SHARE:.0%}"
    )


def run(folder: Path, sizes: Sizes) -> Iterator[Result]:
    """Both stacks stay up, so that all sides of a round run one right after the other."""
    with ExitStack() as ended:
        ours = ended.enter_context(stack(folder / "stack"))
        python = ended.enter_context(stack(folder / "python", haproxy=False))
        console.rule("video", align="left")
        video = compare(folder, sizes.video, {OURS: ours, STRAIGHT: ours, PYTHON: python}, rounds=sizes.rounds)
        show(sizes.video, video)
        yield from results(sizes.video, video, {"video_vs_direct_put": STRAIGHT, "video_vs_python_proxy": PYTHON})
        console.rule("telemetry", align="left")
        telemetry = compare(folder, sizes.telemetry, {OURS: ours, STRAIGHT: ours}, rounds=sizes.rounds)
        show(sizes.telemetry, telemetry)
        yield from results(sizes.telemetry, telemetry, {"telemetry_vs_direct_put": STRAIGHT})
        show_fleet(sizes.video, {"video": video[OURS], "telemetry": telemetry[OURS]})


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    return parser.parse_args()


def main() -> None:
    asked = _asked()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is ended then, too
    for name in [name for name in os.environ if name.startswith("FLEETFEED_")]:
        del os.environ[name]  # what is measured is what comes without settings
    try:
        with tempfile.TemporaryDirectory(prefix="fleetfeed-bench-") as place:
            tell_machine(Path(place))
            found = list(run(Path(place), QUICK if asked.quick else WHOLE))
    except (BenchmarkFailed, StackError) as error:
        sys.exit(f"bench-ingest: {error}")
    except KeyboardInterrupt:
        sys.exit("bench-ingest: ended before it was done")
    measure.close("ingest", found)


if __name__ == "__main__":
    main()
