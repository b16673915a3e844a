"""The whole way, once: three simulated humanoids, real uploads, the jobs, the catalog, and a network that learns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from dataset_catalog import Catalog, Dataset
from fleetfeed.demo import account, screen
from fleetfeed.demo.errors import DemoFailed
from fleetfeed.demo.fleet import DemoRobot, stopping
from fleetfeed.demo.link import Link
from fleetfeed.demo.robot import CAMERA
from fleetfeed.demo.work import drain, let_in, run_jobs, running_stack, storage_of
from fleetfeed.settings import StackSettings
from fleetfeed.stack import StackInfo
from ingest_serve.raw_store import RawStore

SPEC = "humanoid"  # it comes with ray_jobs
DATASET = "humanoid"
ROBOTS = ("h1-amber", "h1-birch", "h1-cedar")
OFFLINE = ROBOTS[-1]
KILL_AT_BATCH = 25


@dataclass(frozen=True)
class Outcome:
    """What the last lines say."""

    tallies: list[account.Tally]
    held_out_loss: float
    baseline_loss: float

    def check(self) -> None:
        """`DemoFailed` unless everything recorded has arrived and the network beats the mean action."""
        if not all(one.agrees_with(self.tallies[0]) for one in self.tallies):
            raise DemoFailed("what was recorded, stored and indexed is not equal")
        if not self.held_out_loss < self.baseline_loss:
            raise DemoFailed(f"held-out loss {self.held_out_loss} is not below the mean action's {self.baseline_loss}")


def run(settings: StackSettings, *, seconds: float, keep: bool) -> None:
    """Run the demonstration; raises `DemoFailed` with a sentence where a step does not hold."""
    started = time.monotonic()
    folder = settings.run_dir / "demo" / time.strftime("%Y%m%d-%H%M%S")
    robots = [DemoRobot(name, folder / "robots" / name, os.environ) for name in ROBOTS]
    for seed, robot in enumerate(robots):
        robot.live(seed=seed, seconds=seconds)
    with stopping(robots), running_stack(settings, keep=keep) as info:
        _upload(info, robots, seconds=seconds)
        with screen.step("Run the three jobs on Ray") as progress:
            run_jobs(info, SPEC, progress)
        storage = storage_of(info)
        catalog = Catalog(storage)
        recordings = {name for robot in robots for name in robot.recordings}
        dataset = catalog.dataset(DATASET).select(where=f"recording_id IN {account.among(recordings)}")
        _show(catalog, dataset, recordings, folder / "contact-sheet.png")
        result = _train(info, dataset, folder / "training")
        with screen.step("Count what arrived"):
            recorded = account.recorded([one["counts"] for robot in robots for one in robot.recorded], [CAMERA])
            stored = account.stored(RawStore.open(storage), recordings)
            tallies = [recorded, stored, account.indexed(catalog, recordings)]
    dropped = sum(n for robot in robots for one in robot.recorded for n in one["dropped"].values())
    screen.console.print(f"  the recorders had to drop {dropped} readings (and told the server)")
    outcome = Outcome(tallies, result["held_out_loss"], result["baseline_loss"])
    _last_words(outcome, info, folder, keep=keep, seconds=time.monotonic() - started)
    outcome.check()


def _upload(info: StackInfo, robots: list[DemoRobot], *, seconds: float) -> None:
    """Let the robots in and their agents upload; one of them has no link until it has stopped recording."""
    storage = storage_of(info)
    with (
        screen.step(f"{len(robots)} humanoids record and upload; {OFFLINE} is offline") as progress,
        Link(info.http_port) as link,
    ):
        link.cut()
        let_in(robots, info, storage)
        for robot in robots:
            robot.start_agent(f"http://127.0.0.1:{link.port}" if robot.robot_id == OFFLINE else info.http_url)
        bars = {robot.robot_id: progress.add_task(robot.robot_id, total=None, said="") for robot in robots}
        while any(robot.is_live for robot in robots):
            for robot in robots:
                _show_robot(robot, progress, bars[robot.robot_id])
            time.sleep(0.25)
        for robot in robots:
            robot.wait_for_program(seconds)
        screen.console.print(f"  {OFFLINE} has its link again, {_waiting(robots[-1]):,} readings wait on it")
        link.restore()
        drain(robots, progress)
        for robot in robots:
            robot.stop()


def _show_robot(robot: DemoRobot, progress: Progress, bar: Any) -> None:
    lines = robot.status()
    sealed, uploaded = sum(line.recorded for line in lines), sum(line.uploaded for line in lines)
    progress.update(bar, total=sealed or None, completed=uploaded, said=f"{uploaded:,} of {sealed:,} sealed readings")


def _waiting(robot: DemoRobot) -> int:
    return sum(line.waiting for line in robot.status())


def _show(catalog: Catalog, dataset: Dataset, recordings: set[str], sheet: Path) -> None:
    with screen.step("Ask the catalog"):
        found = catalog.sql(
            "SELECT robot_id, task, count(*) AS episodes, sum(steps)::BIGINT AS steps, "
            f"round(sum(end_ns - start_ns) / 1e9, 1) AS seconds FROM {DATASET}.episodes "
            f"WHERE recording_id IN {account.among(recordings)} GROUP BY ALL ORDER BY ALL"
        )
        screen.table(
            f"{DATASET} v{dataset.version}", found.column_names, [list(row.values()) for row in found.to_pylist()]
        )
        dataset.contact_sheet(sheet, camera=CAMERA, columns=["state", "action"])
        screen.console.print(f"  frames with their aligned joint values: {sheet}")


def _train(info: StackInfo, dataset: Dataset, out: Path) -> dict[str, Any]:
    """Train until killed in mid-epoch, resume, and compare the sample ids of the batch after the checkpoint."""
    *episodes, held_out = dataset.episodes()["episode_id"].to_pylist()
    program = [sys.executable, "-m", "fleetfeed.demo.train"]
    command = [*program, "--dataset", DATASET, "--episodes", *episodes, "--held-out", held_out, "--out", str(out)]
    environment = {**os.environ, **info.environment()}
    with screen.step("Train a policy, kill it in mid-epoch, resume it") as progress:
        killed = _follow(command, environment, progress.add_task("training", total=None, said=""), progress, kill=True)
        resumed = _follow(command, environment, progress.add_task("resumed", total=None, said=""), progress, kill=False)
    result: dict[str, Any] = resumed[-1]["result"]
    before = next(line for line in killed if line["batch"] == result["resumed_at"] + 1)
    same = before["sample_ids"] == resumed[0]["sample_ids"]
    killed_at, epoch = killed[-1]["batch"], killed[-1]["epoch_batches"]
    say = screen.console.print
    say(f"  killed after batch {killed_at}, which was {killed_at % epoch} of {epoch} in its epoch")
    say(f"  resumed from the checkpoint of batch {result['resumed_at']}")
    say(f"  next batch ({before['batch']}) has the same {len(before['sample_ids'])} sample ids in both runs: {same}")
    say(f"  {result['windows_per_s']:.0f} windows/s; training waited for data {result['wait_share']:.0%} of the time")
    if not same:
        raise DemoFailed("the resumed run did not go on with the same samples")
    return result


def _follow(
    command: list[str], environment: dict[str, str], bar: Any, progress: Progress, *, kill: bool
) -> list[dict[str, Any]]:
    """Read a training run's lines as they come; with `kill`, end it with SIGKILL in the middle of an epoch."""
    lines: list[dict[str, Any]] = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in _json_lines(process):
            lines.append(line)
            if "batch" in line:
                progress.update(bar, total=line["of"], completed=line["batch"], said=f"loss {line['loss']:.3f}")
                if kill and line["batch"] >= KILL_AT_BATCH and line["batch"] % line["epoch_batches"]:
                    process.send_signal(signal.SIGKILL)
                    break
        errors = process.stderr.read() if process.stderr else ""
    if process.returncode and not kill:
        raise DemoFailed(f"training ended with {process.returncode}:\n{errors[-2000:]}")
    return lines


def _json_lines(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    for line in process.stdout or ():
        yield json.loads(line)


def _last_words(outcome: Outcome, info: StackInfo, folder: Path, *, keep: bool, seconds: float) -> None:
    say = screen.console.print
    command = screen.command()
    ask = f"{command} catalog recordings"
    say(f"\n[bold]Where everything is[/]  {folder}: the robots' folders, contact-sheet.png, training/checkpoint.pt")
    say(f"the bucket              {info.run_dir}/s3")
    if keep:
        say(f"still running           {info.http_url} (ingest), {info.dashboard_url} (Ray), {info.s3_url} (S3)")
        say(f'what to type next       eval "$({command} env)"; {ask}; {command} down', soft_wrap=True)
    else:
        say(f'what to type next       {command} up; eval "$({command} env)"; {ask}', soft_wrap=True)
    say(f"run time                {seconds:.0f} s\n")
    screen.ledger(outcome.tallies)
    say(f"held-out loss        {outcome.held_out_loss:.4f}  mean-action baseline {outcome.baseline_loss:.4f}")
