"""The catalog on the command line: what is in the lake, as tables for people or JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from dataset_catalog import curate_commands, exchange_commands
from dataset_catalog.catalog import Catalog
from dataset_catalog.screen import End, Json, Lake, OneSentence, Robot, Start, Version, Where
from dataset_catalog.screen import show as draw
from dataset_catalog.times import parse_ns, to_text
from dataset_catalog.whole_file import whole_file

app = typer.Typer(
    cls=OneSentence,
    no_args_is_help=True,
    help="Find what the fleet recorded.",
    add_completion=False,
    rich_markup_mode=None,
)

Sheet = Annotated[Path | None, typer.Option("--sheet", help="Also write what was found as pictures, a PNG.")]

curate_commands.add_to(app)
exchange_commands.add_to(app)


@app.command()
def robots(lake: Lake = None, as_json: Json = False) -> None:
    """One line a robot."""
    draw(Catalog.open(lake).robots(), as_json)


@app.command()
def recordings(robot: Robot = None, lake: Lake = None, as_json: Json = False) -> None:
    """One line a recording, oldest first."""
    draw(Catalog.open(lake).recordings(robot), as_json)


@app.command()
def videos(
    robot: Robot = None,
    start: Start = None,
    end: End = None,
    where: Where = None,
    sheet: Sheet = None,
    lake: Lake = None,
    as_json: Json = False,
) -> None:
    """The video segments of a time range; --where takes any column of `segments`."""
    found = Catalog.open(lake).videos(robot, start=start, end=end, where=where)
    if sheet:
        found.contact_sheet(sheet)
    columns = [
        "robot_id",
        "stream",
        "seq",
        "start_ns",
        "frames",
        "fps",
        "width",
        "height",
        "codec",
        "luma_mean",
        "state",
    ]
    draw(found if as_json else found.select(columns), as_json)


@app.command()
def episodes(
    robot: Robot = None,
    start: Start = None,
    end: End = None,
    task: Annotated[str | None, typer.Option(help="Only of this task.")] = None,
    where: Where = None,
    sheet: Sheet = None,
    lake: Lake = None,
    as_json: Json = False,
) -> None:
    """The episodes of all datasets, with what people labelled them."""
    found = Catalog.open(lake).episodes(robot, start=start, end=end, task=task, where=where)
    if sheet:
        found.contact_sheet(sheet)
    draw(found, as_json)


@app.command()
def telemetry(
    topic: str,
    robot: Robot = None,
    start: Start = None,
    end: End = None,
    column: Annotated[list[str] | None, typer.Option(help="Only this column, repeatable.")] = None,
    lake: Lake = None,
    as_json: Json = False,
) -> None:
    """The messages of a topic, such as /joint_states, as the robots sent them."""
    draw(Catalog.open(lake).telemetry(topic, robot=robot, start=start, end=end, columns=column), as_json)


@app.command()
def search(
    words: str,
    robot: Robot = None,
    start: Start = None,
    end: End = None,
    limit: int = 100,
    sheet: Sheet = None,
    lake: Lake = None,
    as_json: Json = False,
) -> None:
    """Where all these words were logged, noted or labelled."""
    found = Catalog.open(lake).search(words, robot=robot, start=start, end=end, limit=limit)
    if sheet:
        found.contact_sheet(sheet)
    draw(found, as_json)


@app.command()
def clip(
    robot: str,
    stream: str,
    start: Annotated[str, typer.Argument(help="ISO 8601, or ns since 1970.")],
    end: Annotated[str, typer.Argument(help="Before this time; at most ten minutes later.")],
    out: Annotated[Path, typer.Option(help="The MP4 to write.")],
    recording: Annotated[str | None, typer.Option(help="Of which recording, where two overlap.")] = None,
    lake: Lake = None,
) -> None:
    """A camera's video of a range of time as MP4, as it was encoded; frames keep their times."""
    found = Catalog.open(lake).clip(robot, stream, parse_ns(start), parse_ns(end), recording=recording)
    with whole_file(out) as file:
        found.write(file)
    typer.echo(f"{out}: {found.cut.frames} frames from {to_text(found.start_ns)} ({found.start_ns} ns)")
    for one in found.missing:
        typer.echo(f"missing: {to_text(one.start_ns)} to {to_text(one.end_ns)}, {one.state}")


@app.command()
def sql(query: str, lake: Lake = None, as_json: Json = False) -> None:
    """One SELECT over every published table; "SHOW ALL TABLES" lists them."""
    draw(Catalog.open(lake).sql(query), as_json)


@app.command()
def datasets(lake: Lake = None, as_json: Json = False) -> None:
    """One line a dataset, at its newest version."""
    draw(Catalog.open(lake).datasets(), as_json)


@app.command()
def show(name: str, version: Version = None, lake: Lake = None, as_json: Json = False) -> None:
    """A dataset's columns, cameras and episodes."""
    dataset = Catalog.open(lake).dataset(name, version)
    columns = [
        {"column": it, "size": c.size, "policy": c.policy, "tolerance_ms": c.tolerance_ns / 1e6, "names": c.names}
        for it, c in dataset.columns.items()
    ]
    cameras = [
        {
            "camera": it,
            "rendition": rendition,
            "height": size[0],
            "width": size[1],
            "tolerance_ms": c.tolerance_ns / 1e6,
        }
        for it, c in dataset.cameras.items()
        for rendition, size in c.renditions.items()
    ]
    episodes = dataset.episodes()
    if as_json:
        rows = {"columns": columns, "cameras": cameras, "episodes": episodes.to_pylist()}
        typer.echo(json.dumps({"name": name, "version": dataset.version, "steps": len(dataset), **rows}))
        return
    typer.echo(f"{name} v{dataset.version}: {len(dataset)} steps")
    for table in (pa.Table.from_pylist(columns), pa.Table.from_pylist(cameras), episodes):
        draw(table, as_json)


@app.command("contact-sheet")
def contact_sheet(
    name: str,
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    camera: Annotated[str | None, typer.Option(help="Which camera; else the first.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="A column to draw, repeatable; else the first three.")
    ] = None,
    where: Where = None,
    rows: int = 3,
    cols: int = 4,
    version: Version = None,
    lake: Lake = None,
) -> None:
    """A page of frames with the aligned values under each, spread over the dataset or what --where selects."""
    dataset = Catalog.open(lake).dataset(name, version).select(where=where)
    camera = camera or next(iter(dataset.cameras), "camera")
    columns = column or list(dataset.columns)[:3]
    typer.echo(dataset.contact_sheet(out, camera=camera, columns=columns, rows=rows, cols=cols))


def main() -> None:
    app(prog_name="fleetfeed catalog")


if __name__ == "__main__":
    main()
