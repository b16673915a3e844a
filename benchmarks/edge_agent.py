"""What recording and uploading in real time cost a robot's computer: CPU time and memory of its two processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import camera, robots, scene
from benchmarks.measure import MB, BenchmarkFailed, Result, console, tree_cpu_s, tree_peak_rss_bytes, watching_pss
from benchmarks.robot_program import CAMERA
from benchmarks.robots import Server
from edge.spool import Spool
from edge.topics import TELEMETRY_STREAM

HZ, TOPICS = 20, 5
ROBOT = "bench-live"
LIMIT_S = 60.0
PSS_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Run:
    """One live run, from the first reading until the server has acknowledged the last."""

    seconds: float
    program_cpu_s: float
    agent_cpu_s: float
    loop_cpu_s: float  # of the same loops without a recorder
    start_cpu_s: float  # both processes, before the first reading; not part of the figures
    peak_rss: tuple[int, int]  # program, agent: VmHWM, bytes
    peak_pss: tuple[int, int]

    @property
    def cpu_per_s(self) -> float:
        return (self.program_cpu_s - self.loop_cpu_s + self.agent_cpu_s) / self.seconds


def live(folder: Path, server: Server, *, seconds: float) -> list[Result]:
    """Record five topics and a camera for `seconds` while the agent uploads."""
    pictures = folder / "live-pictures"
    scene.write_pictures(pictures)
    run = _run(folder / ROBOT, server, pictures, seconds=seconds, loop_cpu_s=_loop_cpu_s(folder, pictures, seconds))
    _tell(run)
    ran = f"{seconds:.0f} s live: {TOPICS} topics at {HZ} Hz, camera 640×480 at {camera.FPS} fps, agent uploading"
    recorder_cpu_s = (run.program_cpu_s - run.loop_cpu_s) / seconds
    rss, pss = _in_mb(run.peak_rss), _in_mb(run.peak_pss)
    return [
        Result(
            "agent_cpu",
            run.cpu_per_s,
            "CPU-s/s",
            0.25,
            "lower",
            ran,
            f"recorder {recorder_cpu_s:.3f} (encoding included) + agent {run.agent_cpu_s / seconds:.3f}",
        ),
        Result(
            "agent_rss_mb",
            sum(rss),
            "MB",
            200,
            "lower",
            ran,
            f"sum of peaks (VmHWM): {rss[0]:.0f} + {rss[1]:.0f}; by proportional memory {sum(pss):.0f}",
        ),
    ]


def _run(folder: Path, server: Server, pictures: Path, *, seconds: float, loop_cpu_s: float) -> Run:
    server.enrol(ROBOT, folder)
    with (
        robots.agent(folder, server.url) as agent,
        robots.program(folder, pictures=pictures, hz=HZ, topics=TOPICS, seconds=seconds) as program,
    ):
        spool, pids = Spool(folder), (program.pid, agent.pid)
        _wait_until_delivered(spool)  # the opening record: the agent is up
        before = [tree_cpu_s(pid) for pid in pids]
        with watching_pss(*pids, every_s=PSS_EVERY_S) as peaks:
            told = program.live()
            _wait_until_delivered(spool)
        program_cpu_s, agent_cpu_s = (tree_cpu_s(pid) - cpu_s for pid, cpu_s in zip(pids, before, strict=True))
        rss = (tree_peak_rss_bytes(program.pid), tree_peak_rss_bytes(agent.pid))
    _check_counts(told["counts"], seconds=seconds)
    _check_stored(spool, server)
    pss = (peaks.bytes[pids[0]], peaks.bytes[pids[1]])
    return Run(seconds, program_cpu_s, agent_cpu_s, loop_cpu_s, sum(before), rss, pss)


def _loop_cpu_s(folder: Path, pictures: Path, seconds: float) -> float:
    """What the program's own loops cost in `seconds`, measured for a third of it."""
    share = seconds / 3
    with robots.program(
        folder / "loops", pictures=pictures, hz=HZ, topics=TOPICS, seconds=share, instead="nothing"
    ) as program:
        before = tree_cpu_s(program.pid)
        program.live()
        return (tree_cpu_s(program.pid) - before) * seconds / share


def _wait_until_delivered(spool: Spool) -> None:
    """Until something has been recorded and nothing waits."""
    robots.wait_until(
        lambda: bool(spool.recordings()) and next(iter(spool.waiting()), None) is None,
        limit_s=LIMIT_S,
        what="the agent delivers everything",
    )


def _check_counts(counts: dict[str, int], *, seconds: float) -> None:
    expected = {f"/joint_states_{n}": round(seconds * HZ) for n in range(TOPICS)}
    expected[f"/{CAMERA}"] = round(seconds * camera.FPS)
    if counts != expected:
        raise BenchmarkFailed(f"{expected} were to be recorded, {counts} are")


def _check_stored(spool: Spool, server: Server) -> None:
    """The bucket holds the very bytes that the robot's ledger tells of."""
    for stream in (TELEMETRY_STREAM, CAMERA):
        ledger = [one for recording in spool.recordings() for one in spool.acknowledged(recording)]
        acknowledged = sum(one.bytes for one in ledger if one.stream == stream)
        stored = server.stored_bytes(ROBOT, stream)
        if not acknowledged or stored != acknowledged:
            raise BenchmarkFailed(f"{stream}: {acknowledged} bytes are acknowledged, {stored} are stored")


def _tell(run: Run) -> None:
    per_s = {
        "recorder's process": run.program_cpu_s,
        "the same loops alone (subtracted)": run.loop_cpu_s,
        "agent": run.agent_cpu_s,
    }
    for what, cpu_s in per_s.items():
        console.print(f"  {what:<36} {cpu_s / run.seconds:.3f} CPU-s per recorded second")
    console.print(f"  start of both processes, not counted  {run.start_cpu_s:.2f} CPU-s, once")
    rss, pss = _in_mb(run.peak_rss), _in_mb(run.peak_pss)
    console.print(f"  peaks (VmHWM)  program {rss[0]:.1f} + agent {rss[1]:.1f} = {sum(rss):.1f} MB: the result")
    console.print(f"  peaks (PSS)    program {pss[0]:.1f} + agent {pss[1]:.1f} = {sum(pss):.1f} MB")


def _in_mb(peaks: Sequence[int]) -> list[float]:
    return [peak / MB for peak in peaks]
