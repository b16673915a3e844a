"""Frames at 640×480: single ones beside the limit, windows of 1, 2 and 8 beside LeRobot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import feed_lerobot
from benchmarks.feed_bench import Bench, limit, ours, read_once, store_lerobot, store_ours
from benchmarks.feed_check import tell_quality
from benchmarks.feed_figures import Figure, not_measured, ratio, take_turns
from benchmarks.feed_packets import LEROBOT as LEROBOT_FORM
from benchmarks.feed_packets import ORIGINAL, PAIRS
from benchmarks.feed_sides import side
from benchmarks.measure import console

# By frames of a window: windows of a batch, as a float32 frame takes 3.7 MB; LeRobot's share of a round's batches; and
# which of ours, as docs/FEED.md says: GOPs of two for few frames, of ten for many.
WINDOWS = {1: (16, 0.25, PAIRS), 2: (16, 0.2, PAIRS), 8: (8, 0.1, ORIGINAL)}
LEROBOT = tuple(f"k{frames}_vs_lerobot" for frames in WINDOWS)


def of_full(bench: Bench) -> Iterator[Figure]:
    """At 640×480, against the limit."""
    store_ours(bench)
    read_once(bench.lake)
    random = bench.asked(ORIGINAL)
    sequential = replace(random, order="sequential")
    with ExitStack() as ended:
        sides = {
            name: (ended.enter_context(made), bench.batches(share))
            for name, made, share in (
                ("random", ours("random", random), 0.3),
                ("limit of random", limit("limit of random", random), 0.3),
                ("sequential", ours("sequential", sequential), 0.5),
                ("limit of sequential", limit("limit of sequential", sequential), 0.5),
            )
        }
        found = take_turns(sides, rounds=bench.sizes.rounds)
    yield ratio("random640_vs_limit", found, "random", "limit of random")
    yield ratio("sequential_vs_limit", found, "sequential", "limit of sequential")


def of_lerobot(bench: Bench) -> Iterator[Figure]:
    """At 640×480, windows of 1, 2 and 8 frames; ours of the rendition that is meant for so many."""
    if isinstance(bench.lerobot, str):
        yield from (not_measured(name, bench.lerobot) for name in LEROBOT)
        return
    store_lerobot(bench)
    read_once(bench.pairs, bench.folder / "lerobot")
    each = {name: bench.footage.payload_bytes(name) / len(bench.footage) for name in (PAIRS, ORIGINAL, LEROBOT_FORM)}
    console.print("  bytes of pictures a frame: " + ", ".join(f"{name} {size:,.0f}" for name, size in each.items()))
    libraries = str(feed_lerobot.ffmpeg_libraries(bench.lerobot.parents[1]))
    told = {"HF_HUB_OFFLINE": "1", "LD_LIBRARY_PATH": libraries}
    for frames, (batch, share, rendition) in WINDOWS.items():
        asked = replace(bench.asked(rendition), lake=str(bench.pairs), frames=frames, batch=batch, floats=True)
        words = [str(bench.folder / "lerobot"), str(batch), str(frames)]
        theirs = side("lerobot", "benchmarks.feed_lerobot_reader", words, python=bench.lerobot, environment=told)
        with ours(rendition, asked) as our_side, theirs as their_side:
            tell_quality({rendition: our_side, "lerobot": their_side}, bench.footage)
            batches = bench.batches(share)
            sides = {rendition: (our_side, 2 * batches), "lerobot": (their_side, batches)}
            found = take_turns(sides, rounds=bench.sizes.rounds)
        yield ratio(f"k{frames}_vs_lerobot", found, rendition, "lerobot")
