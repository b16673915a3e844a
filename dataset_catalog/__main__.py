"""The catalog on the command line: what is in the lake, as tables for people or JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from dataset_catalog.catalog import Catalog
from dataset_catalog.clip import Clip
from dataset_catalog.errors import CatalogError
from dataset_catalog.times import parse_ns, to_text


class _OneSentence(TyperGroup):
    """The seam for errors: what a person can put right is one sentence on stderr and exit code 2, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CatalogError as error:
            Console(stderr=True, soft_wrap=True).print(f"fleetfeed catalog: {error}", style="red", markup=False)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_OneSentence,
    no_args_is_help=True,
    help="Find what the fleet recorded.",
    add_completion=False,
    rich_markup_mode=None,
)

Lake = Annotated[
    str | None, typer.Option("--lake", help="s3://bucket[/prefix] or a folder; else FLEETFEED_STORAGE_URL.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]
Version = Annotated[str | None, typer.Option(help="A version such as 7 or v7; else the newest.")]
Robot = Annotated[str | None, typer.Option(help="Only this robot.")]
Where = Annotated[str | None, typer.Option(help="An SQL predicate.")]


@app.command()
def robots(lake: Lake = None, as_json: Json = False) -> None:
    """One line a robot."""
    _show(Catalog.open(lake).robots(), as_json)


@app.command()
def recordings(robot: Robot = None, lake: Lake = None, as_json: Json = False) -> None:
    """One line a recording, oldest first."""
    _show(Catalog.open(lake).recordings(robot), as_json)


@app.command()
def videos(
    robot: Robot = None,
    start: Annotated[str | None, typer.Option(help="From this time on, ISO 8601.")] = None,
    end: Annotated[str | None, typer.Option(help="Before this time, ISO 8601.")] = None,
    where: Where = None,
    lake: Lake = None,
    as_json: Json = False,
) -> None:
    """The video segments of a time range; --where takes any column of `segments`."""
    found = Catalog.open(lake).videos(robot, start=start, end=end, where=where)
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
    _show(found if as_json else found.select(columns), as_json)


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
    _write_whole(out, found)
    typer.echo(f"{out}: {found.cut.frames} frames from {to_text(found.start_ns)} ({found.start_ns} ns)")
    for one in found.missing:
        typer.echo(f"missing: {to_text(one.start_ns)} to {to_text(one.end_ns)}, {one.state}")


@app.command()
def sql(query: str, lake: Lake = None, as_json: Json = False) -> None:
    """One SELECT over every published table; "SHOW ALL TABLES" lists them."""
    _show(Catalog.open(lake).sql(query), as_json)


@app.command()
def datasets(lake: Lake = None, as_json: Json = False) -> None:
    """One line a dataset, at its newest version."""
    _show(Catalog.open(lake).datasets(), as_json)


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
        _show(table, as_json)


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


def _write_whole(out: Path, clip: Clip) -> None:
    """The file is there whole or not at all."""
    part = out.with_name(f"{out.name}.part")
    try:
        with part.open("wb") as file:
            clip.write(file)
        part.replace(out)
    except OSError as error:
        raise CatalogError(f"cannot write {out}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _show(table: pa.Table, as_json: bool) -> None:
    if as_json:
        for row in table.to_pylist():
            typer.echo(json.dumps(row, default=str))
        return
    drawn = Table(*table.schema.names, header_style="bold", box=None, pad_edge=False)
    for row in table.to_pylist():
        drawn.add_row(*(_plain(_cell(name, value)) for name, value in row.items()))
    Console(width=None if Console().is_terminal else 240).print(drawn)


def _cell(name: str, value: object) -> str:
    if value is None:
        return "–"
    if name.endswith("_ns") and isinstance(value, int) and value > 10**17:  # a time, not a tolerance or an age
        return to_text(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return f"{len(value)} × {{{', '.join(value[0])}}}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(text: str) -> str:
    """Square brackets are text here, not rich's markup."""
    return text.replace("[", r"\[")


def main() -> None:
    app(prog_name="fleetfeed catalog")


if __name__ == "__main__":
    main()
