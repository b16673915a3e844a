"""`fleetfeed up`, `down`, `status`, `env`, `demo`: the embedded stack and the demonstrations."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from dataset_catalog.errors import CatalogError
from edge.errors import EdgeError
from fleetfeed import stack
from fleetfeed.errors import StackError
from fleetfeed.settings import StackSettings
from fleetfeed.stack import StackInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
console = Console(stderr=True)

RunDir = Annotated[Path | None, typer.Option(help="The stack's folder (FLEETFEED_STACK_RUN_DIR).")]


@app.callback()
def fleetfeed() -> None:
    """Robot recordings into training batches: complete, in order, searchable, provably undamaged.

    Each part has commands of its own: [bold]fleetfeed edge[/] (robots), [bold]fleetfeed ingest[/] (server),
    [bold]fleetfeed jobs[/] (Ray jobs), [bold]fleetfeed catalog[/] (datasets); --help after any of them.
    """


@app.command()
def up(
    run_dir: RunDir = None,
    http_port: Annotated[int | None, typer.Option(help="Port of the ingest service; 0: any free one.")] = None,
    foreground: Annotated[bool, typer.Option(help="Stay until Ctrl-C, then end everything.")] = False,
) -> None:
    """Start S3, Ray and the ingest service on this machine's loopback."""
    settings = _settings(run_dir=run_dir, http_port=http_port)
    if foreground:
        stack.run(settings, report=_report, ready=_show)
    else:
        _show(stack.up(settings, report=_report))


@app.command()
def down(run_dir: RunDir = None) -> None:
    """End what `up` started, and nothing else."""
    ended = stack.down(_settings(run_dir=run_dir).run_dir)
    console.print(f"ended {', '.join(sorted(set(ended)))}" if ended else "nothing was running")


@app.command()
def status(
    run_dir: RunDir = None, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Every living process of the stack, and where it listens."""
    components = stack.status(_settings(run_dir=run_dir).run_dir)
    if as_json:
        print(json.dumps([{"name": one.name, "pid": one.pid, "listens": one.listens} for one in components]))
        return
    table = Table("process", "pid", "listens on")
    for one in components:
        table.add_row(one.name, str(one.pid), " ".join(one.listens))
    Console().print(table if components else "nothing is running")


@app.command()
def env(run_dir: RunDir = None) -> None:
    """Print what a client of the running stack needs in its environment: eval "$(fleetfeed env)"."""
    found = stack.info(_settings(run_dir=run_dir).run_dir)
    if found is None:
        raise StackError("no stack is running here: start one with `fleetfeed up`")
    for name, value in {**found.environment(), "FLEETFEED_EDGE_URL": found.http_url}.items():
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def demo(
    real: Annotated[Path | None, typer.Option(help="A folder with real recordings: g1/ and rosbag2/.")] = None,
    seconds: Annotated[float, typer.Option(min=8, help="How long the simulated robots record.")] = 32.0,
    keep: Annotated[bool, typer.Option(help="Leave the stack running afterwards.")] = False,
    run_dir: RunDir = None,
) -> None:
    """The whole way, once: simulated humanoids (or real recordings) → uploads → Ray jobs → catalog → PyTorch."""
    from fleetfeed.demo import real as real_demo
    from fleetfeed.demo import tour

    signal.signal(signal.SIGTERM, _interrupt)  # so that what was started is ended
    settings = _settings(run_dir=run_dir)
    if real is not None:
        real_demo.run(settings, data=real, keep=keep)
    else:
        tour.run(settings, seconds=seconds, keep=keep)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _settings(**given: Any) -> StackSettings:
    return StackSettings(**{name: value for name, value in given.items() if value is not None})


def _report(line: str) -> None:
    console.print(f"  {line}", style="dim", highlight=False)


def _show(found: StackInfo) -> None:
    table = Table("what", "where", title="the stack is ready", title_justify="left")
    for what, where in found.listeners.items():
        table.add_row(what, where)
    console.print(table)
    console.print('Clients:  eval "$(fleetfeed env)"     End it:  fleetfeed down', highlight=False)


def main() -> None:
    """Run the commands; an error of ours is one sentence and exit code 2."""
    from fleetfeed.demo.work import DemoFailed

    try:
        app()
    except (StackError, DemoFailed, EdgeError, CatalogError, ValidationError) as error:
        console.print(f"fleetfeed: {error}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
