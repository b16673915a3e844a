"""`fleetfeed up`, `down`, `status`, `env`, `demo`: the embedded stack and the demonstrations.

What runs a stack is imported where it is needed: `fleetfeed --help` answers on a robot, too.
"""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from fleetfeed.settings import StackSettings
    from fleetfeed.stack import StackInfo

app = typer.Typer(
    help="Robot recordings into training batches: complete, in order, searchable, provably undamaged.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)

RunDir = Annotated[Path | None, typer.Option(help="The stack's folder (FLEETFEED_STACK_RUN_DIR).")]
PARTS = {
    "edge": "Robots: enrol, run the agent, adopt and replay recordings.",
    "ingest": "Server: invite and revoke robots, check the bucket.",
    "jobs": "Ray jobs: index, load, align.",
    "catalog": "Researchers: find, look, label, tag, pin; SQL over everything.",
}


@app.command()
def up(
    run_dir: RunDir = None,
    http_port: Annotated[int | None, typer.Option(help="Port of the ingest service; 0: any free one.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="HTTPS, too; the next three options imply it.")] = False,
    https_port: Annotated[int | None, typer.Option(help="Port of the TLS front; 0: any free one.")] = None,
    https_host: Annotated[str | None, typer.Option(help="Address on which it listens; 0.0.0.0: all.")] = None,
    tls_name: Annotated[list[str] | None, typer.Option(help="A host name or address of its certificate.")] = None,
    foreground: Annotated[bool, typer.Option(help="Stay until Ctrl-C, then end everything.")] = False,
) -> None:
    """Start S3, Ray and the ingest service on this machine's loopback."""
    from fleetfeed import stack

    front = {"https_port": https_port, "https_host": https_host, "tls_names": tls_name or None}
    is_asked = tls or any(value is not None for value in front.values())
    settings = _settings(run_dir=run_dir, http_port=http_port, tls=is_asked or None, **front)
    if foreground:
        stack.run(settings, report=_report, ready=_show)
    else:
        _show(stack.up(settings, report=_report))


@app.command()
def down(run_dir: RunDir = None) -> None:
    """End what `up` started, and nothing else."""
    from fleetfeed import stack

    where = _settings(run_dir=run_dir).run_dir
    ended = stack.down(where)
    console.print(f"ended {len(ended)} processes of {where}" if ended else f"nothing was running in {where}")


@app.command()
def status(
    run_dir: RunDir = None, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Every living process of the stack, and where it listens."""
    from fleetfeed import stack

    where = _settings(run_dir=run_dir).run_dir
    components = stack.status(where)
    if as_json:
        print(json.dumps([{"name": one.name, "pid": one.pid, "listens": one.listens} for one in components]))
        return
    table = Table("process", "pid", "listens on")
    for one in components:
        table.add_row(one.name, str(one.pid), " ".join(one.listens))
    Console().print(table if components else f"nothing is running in {where}")


@app.command()
def env(run_dir: RunDir = None) -> None:
    """Print what a client of the running stack needs in its environment: eval "$(fleetfeed env)"."""
    from fleetfeed import stack

    where = _settings(run_dir=run_dir).run_dir
    found = stack.info(where)
    if found is None:
        raise stack.StackError(f"no stack is running in {where}: start one with `fleetfeed up`")
    for name, value in {**found.environment(), **found.edge_environment()}.items():
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


EXCHANGE = {
    "import-lerobot": "A LeRobot dataset into a lake, without a cluster.",
    "export-lerobot": "Episodes of a dataset as a LeRobot dataset.",
    "export-mcap": "Episodes of a dataset as MCAP files.",
}
for _name, _told in EXCHANGE.items():
    app.command(_name, help=_told)(lambda: None)  # fleetfeed/__main__.py hands over before this runs
for _name, _told in PARTS.items():
    app.command(_name, help=f"{_told} (commands of their own: fleetfeed {_name} --help)")(lambda: None)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _settings(**given: Any) -> StackSettings:
    from fleetfeed.settings import StackSettings

    return StackSettings(**{name: value for name, value in given.items() if value is not None})


def _report(line: str) -> None:
    console.print(f"  {line}", style="dim", highlight=False)


def _show(found: StackInfo) -> None:
    table = Table("what", "where", title="the stack is ready", title_justify="left")
    table.add_row("ingest", found.edge_url)
    if found.front:
        table.add_row("its certificate authority", str(found.front.ca_file))
    table.add_row("S3", f"{found.s3_url}, bucket {found.bucket}")
    table.add_row("Ray dashboard and Jobs API", found.dashboard_url)
    for what, where in found.listeners.items():
        table.add_row(what, where, style="dim")
    console.print(table)
    where = "" if found.run_dir == _settings().run_dir.resolve() else f" --run-dir {shlex.quote(str(found.run_dir))}"
    clients = f'Clients:  eval "$(fleetfeed env{where})"     End it:  fleetfeed down{where}'
    console.print(clients, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the commands; an error of ours is one sentence and exit code 2."""
    try:
        app()
    except KeyboardInterrupt:
        console.print("interrupted; what was started has been ended")
        raise SystemExit(130) from None
    except Exception as error:
        if not isinstance(error, (ValidationError, *_our_errors())):
            raise
        console.print(f"fleetfeed: {error}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(2) from error


def _our_errors() -> tuple[type[Exception], ...]:
    from dataset_catalog.errors import CatalogError
    from edge.errors import EdgeError
    from fleetfeed.demo.errors import DemoFailed
    from fleetfeed.errors import StackError

    return (StackError, DemoFailed, EdgeError, CatalogError)


if __name__ == "__main__":
    main()
