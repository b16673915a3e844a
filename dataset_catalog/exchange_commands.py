"""The commands that bring data into a lake from other formats, and out of it: no cluster is needed for any."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from dataset_catalog.catalog import Catalog
from dataset_catalog.progress import bar
from dataset_catalog.screen import Lake, Version, Where


def add_to(app: typer.Typer) -> None:
    app.command("import-lerobot")(import_lerobot)
    app.command("export-lerobot")(export_lerobot)
    app.command("export-mcap")(export_mcap)


def import_lerobot(
    source: Annotated[Path, typer.Argument(help="A folder in LeRobot's format, v2.1 or v3.")],
    lake: Annotated[str, typer.Argument(help="The lake: a folder, which may be new, or s3://bucket[/prefix].")],
    name: Annotated[str | None, typer.Option(help="The dataset's name in the lake; else the folder's.")] = None,
    robot: Annotated[str | None, typer.Option(help="The robot's id; else the dataset's robot_type.")] = None,
) -> None:
    """Bring a LeRobot dataset into a lake; what is there already stays as it is."""
    from dataset_catalog.import_lerobot import import_lerobot

    with bar("importing", quiet=False) as progress:
        done = import_lerobot(source, lake, name=name, robot=robot, progress=progress)
    if done.version is None:
        _tell(f"{done.name}: nothing new", done.notes)
    else:
        _tell(f"{done.name} v{done.version}: {done.episodes} episodes, {done.steps} steps", done.notes)


def export_lerobot(
    name: Annotated[str, typer.Argument(help="A dataset.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    form: Annotated[str, typer.Option("--format", help="v2.1 or v3.0.")] = "v3.0",
    where: Where = None,
    version: Version = None,
    lake: Lake = None,
) -> None:
    """Write a dataset, or what --where selects, in LeRobot's format."""
    from dataset_catalog.export_lerobot import export_lerobot

    dataset = Catalog.open(lake).dataset(name, version).select(where=where)
    with bar("exporting", quiet=False) as progress:
        done = export_lerobot(dataset, folder, version=form, progress=progress)  # type: ignore[arg-type]
    _tell(f"{folder}: {done.episodes} episodes, {done.frames} frames", done.notes)


def export_mcap(
    name: Annotated[str, typer.Argument(help="A dataset.")],
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    where: Where = None,
    version: Version = None,
    lake: Lake = None,
) -> None:
    """Write the episodes of a dataset, or what --where selects, as MCAP files."""
    from dataset_catalog.export_mcap import export_mcap

    dataset = Catalog.open(lake).dataset(name, version).select(where=where)
    with bar("exporting", quiet=False) as progress:
        done = export_mcap(dataset, folder, progress=progress)
    _tell(f"{folder}: {len(done.files)} files, {done.messages} messages", done.notes)


def _tell(what: str, notes: Iterable[str]) -> None:
    typer.echo(what)
    for note in notes:
        typer.echo(f"  {note}")
