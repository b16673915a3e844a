"""The commands that bring data into a lake from other formats, and out of it: no cluster is needed for any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def add_to(app: typer.Typer) -> None:
    app.command("import-lerobot")(import_lerobot)


def import_lerobot(
    source: Annotated[Path, typer.Argument(help="A folder in LeRobot's format, v2.1 or v3.")],
    lake: Annotated[str, typer.Argument(help="The lake: a folder, which may be new, or s3://bucket[/prefix].")],
    name: Annotated[str | None, typer.Option(help="The dataset's name in the lake; else the folder's.")] = None,
    robot: Annotated[str | None, typer.Option(help="The robot's id; else the dataset's robot_type.")] = None,
) -> None:
    """Bring a LeRobot dataset into a lake; what is there already stays as it is."""
    from dataset_catalog.import_lerobot import import_lerobot

    with _bar("importing") as progress:
        done = import_lerobot(source, lake, name=name, robot=robot, progress=progress)
    if done.version is None:
        typer.echo(f"{done.name}: nothing new")
    else:
        typer.echo(f"{done.name} v{done.version}: {done.episodes} episodes, {done.steps} steps")
    for note in done.notes:
        typer.echo(f"  {note}")


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, counted in episodes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
