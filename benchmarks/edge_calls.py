"""How long one call of `Recorder.log` holds up a control loop while the same recorder encodes a camera."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks import camera, robots, scene
from benchmarks.measure import Result, console, interleaved, percentile
from benchmarks.readings import joint_states, mean_json_bytes

HZ = 1_000
PERCENTS = (50.0, 99.0, 99.9, 100.0)


def log_calls(folder: Path, *, rounds: int, seconds: float) -> Result:
    """A control loop at 1,000 Hz logs one message a tick; in turns with the same loop that only makes JSON of it."""
    pictures = folder / "pictures"
    scene.write_pictures(pictures)

    def run(number: int, *, instead: str) -> dict[str, list[int]]:
        place = folder / f"calls-{number}"
        with robots.program(place, pictures=pictures, hz=HZ, topics=1, seconds=seconds, instead=instead) as program:
            return program.live()

    sides = {
        "recorder": lambda number: run(number, instead=""),
        "no recorder": lambda number: run(number, instead="json"),
    }
    found = interleaved(rounds, sides)
    calls, plain_calls = ([_in_us(told["calls_ns"]) for told in found[name]] for name in sides)
    _tell("Recorder.log", calls)
    _tell("json.dumps, no recorder", plain_calls)
    for name, tellings in found.items():
        _tell(f"loop woke late, {name}", [_in_us(told["late_ns"]) for told in tellings])
    p50, p99, p999, most = _medians(calls)
    return Result(
        "log_call_p999_us",
        p999,
        "µs",
        200,
        "lower",
        f"{rounds} × {len(found['recorder'][0]['calls_ns']):,} calls at {HZ:,} Hz, "
        f"dicts of {mean_json_bytes(joint_states()):.0f} B, camera 640×480 at {camera.FPS} fps encoded",
        f"p50 {p50:.0f}, p99 {p99:.0f}, p99.9 {p999:.0f}, max {most:.0f} µs; "
        f"json.dumps alone p99.9 {_medians(plain_calls)[2]:.0f}",
    )


def _in_us(values_ns: Sequence[int]) -> list[float]:
    """Of one round: p50, p99, p99.9 and the maximum."""
    return [percentile(values_ns, percent) / 1e3 for percent in PERCENTS]


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """The median over the rounds of each percentile."""
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _tell(what: str, rounds: Sequence[Sequence[float]]) -> None:
    p50, p99, p999, most = (f"{value:,.0f}" for value in _medians(rounds))
    each = ", ".join(f"{one[2]:,.0f}" for one in rounds)
    console.print(
        f"  {what:<28} p50 {p50:>5}  p99 {p99:>6}  p99.9 {p999:>7}  max {most:>7} µs  (p99.9 by round: {each})"
    )
