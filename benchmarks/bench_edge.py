"""`make bench-edge`: what the robot side costs, five figures with their goals.

    log_call_p999_us     one `Recorder.log` in a control loop beside a camera, p99.9
    log_vs_mcap_writer   messages a second until they are sealed, of what a bare mcap writer does
    agent_cpu            CPU time of recorder and agent for one recorded second
    agent_rss_mb         peak memory of both
    drain_vs_raw_post    MB/s of a draining backlog, of what raw POSTs of the same files do

Everything runs on this machine and 127.0.0.1, in a temporary folder (TMPDIR says where), and nothing is left behind.
The exit code is 0 whatever the figures are, unless something failed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.edge_agent import live
from benchmarks.edge_calls import log_calls
from benchmarks.edge_drain import drain
from benchmarks.edge_throughput import log_beside_mcap
from benchmarks.machine import tell_machine
from benchmarks.measure import MB, BenchmarkFailed, Result, console
from benchmarks.robots import Server, serving
from edge.errors import EdgeError
from fleetfeed.errors import StackError


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    call_rounds: int
    call_s: float
    mcap_rounds: int
    mcap_messages: int
    live_s: float
    drain_rounds: int
    drain_bytes: int
    free_bytes: int


WHOLE = Sizes(3, 40.0, 7, 100_000, 60.0, 3, 500 * MB, 6_000 * MB)
QUICK = Sizes(1, 2.0, 5, 5_000, 6.0, 1, 30 * MB, 500 * MB)

ALONE: dict[str, Callable[[Path, Sizes], Result]] = {
    "log_call_p999_us": lambda folder, sizes: log_calls(folder, rounds=sizes.call_rounds, seconds=sizes.call_s),
    "log_vs_mcap_writer": lambda folder, sizes: log_beside_mcap(
        folder, rounds=sizes.mcap_rounds, messages=sizes.mcap_messages
    ),
}
SERVED: dict[tuple[str, ...], Callable[[Path, Server, Sizes], list[Result]]] = {
    ("agent_cpu", "agent_rss_mb"): lambda folder, server, sizes: live(folder, server, seconds=sizes.live_s),
    ("drain_vs_raw_post",): lambda folder, server, sizes: [
        drain(folder, server, rounds=sizes.drain_rounds, size_bytes=sizes.drain_bytes)
    ],
}
NAMES = (*ALONE, *(name for names in SERVED for name in names))


def run(folder: Path, sizes: Sizes, names: set[str]) -> Iterator[Result]:
    """Measure the figures that are asked for, one after the other; the server runs only while it is needed."""
    for name, measure_one in ALONE.items():
        if name in names:
            console.rule(name, align="left")
            yield measure_one(folder, sizes)
    served = {figures: measure_them for figures, measure_them in SERVED.items() if names & set(figures)}
    if served:
        with serving(folder) as server:
            for figures, measure_them in served.items():
                console.rule(", ".join(figures), align="left")
                yield from (one for one in measure_them(folder, server, sizes) if one.name in names)


def _check_room(folder: Path, sizes: Sizes) -> None:
    free = shutil.disk_usage(folder).free
    if free < sizes.free_bytes:
        raise BenchmarkFailed(
            f"{folder} has {free / MB:,.0f} MB free, {sizes.free_bytes / MB:,.0f} MB are needed; set TMPDIR"
        )


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help="this figure; can be repeated")
    return parser.parse_args()


def main() -> None:
    asked = _asked()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is ended then, too
    for name in [name for name in os.environ if name.startswith("FLEETFEED_")]:
        del os.environ[name]  # what is measured is what comes without settings
    sizes = QUICK if asked.quick else WHOLE
    try:
        with tempfile.TemporaryDirectory(prefix="fleetfeed-bench-") as place:
            folder = Path(place)
            tell_machine(folder)
            _check_room(folder, sizes)
            results = list(run(folder, sizes, set(asked.only or NAMES)))
    except (BenchmarkFailed, EdgeError, StackError) as error:
        sys.exit(f"bench-edge: {error}")
    except KeyboardInterrupt:
        sys.exit("bench-edge: ended before it was done")
    measure.close("edge", results)


if __name__ == "__main__":
    main()
