"""`fleetfeed edge …`: the robot team's commands."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import requests
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from edge import adopt as adopting
from edge import identity, lerobot
from edge.agent import Agent
from edge.errors import EdgeError
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.status import StreamStatus
from edge.status import status as spool_status

app = typer.Typer(help="Robot side: enrol, run the agent, look at the spool.", no_args_is_help=True)
console = Console(stderr=True)

Folder = Annotated[Path | None, typer.Option(help="The robot's folder (FLEETFEED_EDGE_FOLDER).")]
Url = Annotated[str | None, typer.Option(help="Where the ingest service listens (FLEETFEED_EDGE_URL).")]


@app.command()
def enrol(
    robot: Annotated[str, typer.Argument(help="This robot's id, as the platform team named it.")],
    token: Annotated[str, typer.Option(help="The one-time token that the platform team gave for it.")],
    folder: Folder = None,
    url: Url = None,
) -> None:
    """Make this robot's key and have the server accept it."""
    settings = _settings(folder, url)
    session = requests.Session()
    session.trust_env = False
    if settings.ca_file:
        session.verify = str(settings.ca_file)
    identity.enrol(settings.folder, robot, token, url=settings.url, session=session)
    console.print(f"{robot} is enrolled; its key is {settings.folder / identity.KEY_FILE}")


@app.command()
def run(
    folder: Folder = None,
    url: Url = None,
    adopt_from: Annotated[list[Path] | None, typer.Option("--adopt", help="Also adopt MCAP files left here.")] = None,
    until_empty: Annotated[bool, typer.Option(help="End when nothing waits to be uploaded.")] = False,
) -> None:
    """Run the agent: recover the spool, upload, until it is told to end (Ctrl-C or SIGTERM)."""
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    agent = Agent(_settings(folder, url), adopt_from=adopt_from or [])
    agent.run(stop, until_empty=until_empty, report=console.print)
    console.print(f"uploaded {agent.link.uploaded} segments, {agent.link.uploaded_bytes / 1e6:.1f} MB")


@app.command()
def status(
    folder: Folder = None, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """What is recorded, waiting, uploaded and quarantined, stream by stream."""
    lines = spool_status(Spool(_settings(folder, None).folder))
    if as_json:
        print(json.dumps([line.as_json() for line in lines]))
    else:
        Console().print(_table(lines))


@app.command()
def adopt(
    source: Annotated[Path, typer.Argument(help="Folder with closed MCAP files of another recorder.")],
    folder: Folder = None,
    url: Url = None,
    upload: Annotated[bool, typer.Option(help="Upload at once what was adopted.")] = True,
) -> None:
    """Cut another recorder's closed MCAP files into segments and upload them."""
    settings = _settings(folder, url)
    if not source.is_dir():
        raise EdgeError(f"{source} is not a folder")
    found = list(track(adopting.adopt(Spool(settings.folder), source, settings=settings), "adopting", console=console))
    for one in found:
        console.print(f"{one.path.name}: {one.messages} messages, {one.segments} segments {one.reason}")
    if upload:
        _drain(settings)


@app.command("replay-lerobot")
def replay_lerobot(
    path: Annotated[Path, typer.Argument(help="A LeRobot v2.1 dataset.")],
    folder: Folder = None,
    url: Url = None,
    episodes: Annotated[str, typer.Option(help="Episode numbers, as 1,2,5; default: all.")] = "",
    video: Annotated[
        Literal["encode", "copy"], typer.Option(help="Re-encode to our profile, or pass MP4 on.")
    ] = "encode",
    speed: Annotated[float, typer.Option(min=0, help="1: real time; 0: as fast as this machine can.")] = 1.0,
    upload: Annotated[bool, typer.Option(help="Upload when it has been played.")] = True,
) -> None:
    """Play a LeRobot dataset as this robot's live recording."""
    settings = _settings(folder, url)
    dataset = lerobot.LeRobotDataset.open(path)
    numbers = _numbers(episodes) if episodes else dataset.episodes()
    played = lerobot.replay(dataset, settings.folder, episodes=numbers, video=video, speed=speed)
    for one in track(played, "playing", total=len(numbers), console=console):
        console.print(f"episode {one.episode}: {one.frames} frames, {one.task!r}")
    if upload:
        _drain(settings)


def _drain(settings: EdgeSettings) -> None:
    """Upload what waits, with a bar; Ctrl-C leaves the rest for later."""
    agent = Agent(settings)
    waiting = sum(1 for _ in agent.spool.waiting())
    stop = threading.Event()
    working = threading.Thread(target=agent.run, args=(stop,), kwargs={"until_empty": True, "report": console.print})
    working.start()
    try:
        with Progress(console=console) as progress:
            bar = progress.add_task("uploading", total=waiting)
            while working.is_alive():
                progress.update(bar, completed=agent.link.uploaded, description=agent.link.last_error or "uploading")
                time.sleep(0.1)
            progress.update(bar, completed=agent.link.uploaded)
    except KeyboardInterrupt:
        stop.set()
    working.join()


def _settings(folder: Path | None, url: str | None) -> EdgeSettings:
    given: dict[str, Any] = {"folder": folder, "url": url}
    try:
        return EdgeSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in error.errors())
        raise EdgeError(f"settings: {'; '.join(wrong)}") from error
    except (OSError, ValueError) as error:
        raise EdgeError(f"settings: FLEETFEED_CONFIG: {error}") from error


def _numbers(episodes: str) -> list[int]:
    try:
        return [int(one) for one in episodes.split(",")]
    except ValueError as error:
        raise EdgeError(f"episodes must be numbers such as 1,2,5, got {episodes!r}") from error


def _table(lines: list[StreamStatus]) -> Table:
    table = Table("stream", "recorded", "uploaded", "waiting", "quarantined", "waiting MB", "oldest waiting")
    for line in lines:
        oldest = f"{(time.time_ns() - line.oldest_waiting_ns) / 1e9:.0f} s" if line.oldest_waiting_ns else ""
        numbers = (line.recorded, line.uploaded, line.waiting, line.quarantined, f"{line.waiting_bytes / 1e6:.1f}")
        table.add_row(line.stream, *map(str, numbers), oldest)
    return table


def main() -> None:
    """Run the commands; an error of ours is one sentence and exit code 2."""
    try:
        app()
    except EdgeError as error:
        console.print(f"fleetfeed edge: {error}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
