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

from edge import https, identity
from edge.agent import Agent
from edge.asked import Asked, ask
from edge.errors import AgentRuns, EdgeError
from edge.screen import overview_of
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.status import overview
from edge.wire import MAX_TIME_NS

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
    identity.enrol(settings.folder, robot, token, url=settings.url, session=_session(settings))
    console.print(f"{robot} is enrolled; its key is {settings.folder / identity.KEY_FILE}")


@app.command("rotate-key")
def rotate_key(folder: Folder = None, url: Url = None) -> None:
    """Replace this robot's key by a new one; a running agent takes it by itself. Can be repeated after any failure."""
    settings = _settings(folder, url)
    session = _session(settings)
    now = identity.rotate(settings.folder, url=settings.url, session=session)
    identity.retire_old(settings.folder, now, url=settings.url, session=session)
    console.print(f"{now.robot} signs with a new key; the old one counts no longer")


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
    """What is recorded, waiting, uploaded, dropped and quarantined, stream by stream; the link, and what is wrong."""
    seen = overview(Spool(_settings(folder, None).folder))
    if as_json:
        print(json.dumps(seen.as_json()))
    else:
        Console().print(overview_of(seen, now_ns=time.time_ns()))


@app.command("ask")
def ask_for(
    stream: Annotated[str, typer.Argument(help="A stream's name, or a pattern such as *_camera.")],
    folder: Folder = None,
    recording: Annotated[str, typer.Option(help="Only this recording.")] = "*",
    start_ns: Annotated[int, typer.Option("--from", help="Only from this time on, ns since the Unix epoch.")] = 0,
    end_ns: Annotated[int, typer.Option("--to", help="Only before this time, ns since the Unix epoch.")] = MAX_TIME_NS,
) -> None:
    """Have the agent upload what its policy keeps on the robot (`send` is on_request or unmetered)."""
    ask(Spool(_settings(folder, None).folder), Asked(stream, recording, start_ns, end_ns))
    console.print(f"the agent uploads {stream} as it finds the time")


@app.command()
def adopt(
    source: Annotated[Path, typer.Argument(help="Folder with closed MCAP files of another recorder.")],
    folder: Folder = None,
    url: Url = None,
    upload: Annotated[bool, typer.Option(help="Upload at once what was adopted.")] = True,
) -> None:
    """Cut another recorder's closed MCAP files into segments and upload them."""
    from edge import adopt as adopting

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
    from edge import lerobot  # pictures and their codecs: the agent goes without

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
    working = threading.Thread(target=_run_once, args=(agent, stop))
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


def _run_once(agent: Agent, stop: threading.Event) -> None:
    try:
        agent.run(stop, until_empty=True, report=console.print)
    except AgentRuns as error:
        console.print(str(error), markup=False)


def _session(settings: EdgeSettings) -> requests.Session:
    return https.prepare(requests.Session(), ca_file=settings.ca_file)


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


def main() -> None:
    """Run the commands; an error of ours is one sentence and exit code 2."""
    try:
        app()
    except EdgeError as error:
        console.print(f"fleetfeed edge: {error}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
