"""What the catalog's commands have in common: their options, tables for people or JSON for programs, and errors."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from dataset_catalog.errors import CatalogError
from dataset_catalog.times import to_text


class OneSentence(TyperGroup):
    """The seam for errors: what a person can put right is one sentence on stderr and exit code 2, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CatalogError as error:
            Console(stderr=True, soft_wrap=True).print(f"fleetfeed catalog: {error}", style="red", markup=False)
            raise typer.Exit(2) from error


Lake = Annotated[
    str | None, typer.Option("--lake", help="s3://bucket[/prefix] or a folder; else FLEETFEED_STORAGE_URL.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]
Version = Annotated[str | None, typer.Option(help="A version such as 7 or v7, or a tag; else the newest.")]
Robot = Annotated[str | None, typer.Option(help="Only this robot.")]
Start = Annotated[str | None, typer.Option(help="From this time on, ISO 8601.")]
End = Annotated[str | None, typer.Option(help="Before this time, ISO 8601.")]
Where = Annotated[str | None, typer.Option(help="An SQL predicate.")]


def show(table: Any, as_json: bool) -> None:
    """An Arrow table, drawn, or as one JSON object a line."""
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
    if isinstance(value, list) and all(isinstance(one, tuple) for one in value):  # a map
        return ", ".join(f"{key}={text}" for key, text in value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(text: str) -> str:
    """Square brackets are text here, not rich's markup; what would steer the terminal is written out."""
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return shown.replace("[", r"\[")
