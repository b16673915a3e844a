"""The catalog's commands for those who curate: labels, tags, pinned sets, and where a step came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from dataset_catalog.catalog import Catalog
from dataset_catalog.errors import QueryError
from dataset_catalog.labels import Value
from dataset_catalog.screen import End, Json, Lake, Robot, Start, Version, Where, show


def add_to(app: typer.Typer) -> None:
    for command in (label, labels, tag, tags, untag, pin, pinned, statistics, lineage):
        app.command()(command)


def label(
    episode: Annotated[list[str], typer.Argument(help="Ids of episodes.")],
    put: Annotated[list[str], typer.Option("--set", help="name=value, repeatable; an empty value takes it back.")],
    author: Annotated[str | None, typer.Option(help="Who says so; else you.")] = None,
    lake: Lake = None,
) -> None:
    """Say something of episodes: --set success=false --set grip=firm."""
    version = Catalog.open(lake).label(episode, author=author, **dict(map(_label, put)))
    typer.echo(f"labels v{version}: {len(episode)} episodes")


def labels(
    version: Annotated[int | None, typer.Option(help="Those of a version; else those that count now.")] = None,
    lake: Lake = None,
    as_json: Json = False,
) -> None:
    """What people said of episodes."""
    show(Catalog.open(lake).labels(version), as_json)


def tag(name: str, tag: str, version: Version = None, lake: Lake = None) -> None:
    """Give a version of a dataset a name."""
    typer.echo(f"{tag} is {name} v{Catalog.open(lake).tag(name, tag, version)}")


def tags(name: str, lake: Lake = None, as_json: Json = False) -> None:
    """The tags of a dataset."""
    found = Catalog.open(lake).tags(name)
    show(pa.table({"tag": list(found), "version": pa.array(found.values(), pa.int64())}), as_json)


def untag(name: str, tag: str, lake: Lake = None) -> None:
    """Take a tag away; its version stays."""
    Catalog.open(lake).untag(name, tag)


def pin(
    name: str,
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    where: Where = None,
    robot: Robot = None,
    task: Annotated[str | None, typer.Option(help="Only of this task.")] = None,
    start: Start = None,
    end: End = None,
    version: Version = None,
    lake: Lake = None,
) -> None:
    """Write down a selection so that it can be had again, exactly, or not at all."""
    dataset = Catalog.open(lake).dataset(name, version)
    time = None if start is None and end is None else (start, end)
    chosen = dataset.select(
        where=where, robots=None if robot is None else [robot], tasks=None if task is None else [task], time=time
    )
    typer.echo(f"{chosen.pin().save(out)}: {chosen!r}")


def pinned(path: Path, lake: Lake = None) -> None:
    """Whether a pinned set can still be had exactly as it was pinned."""
    typer.echo(f"{Catalog.open(lake).pinned(path)!r}, as it was pinned")


def statistics(
    name: str, version: Version = None, where: Where = None, lake: Lake = None, as_json: Json = False
) -> None:
    """Each element's mean, deviation and range over a dataset, or what --where selects."""
    dataset = Catalog.open(lake).dataset(name, version).select(where=where)
    rows = []
    for column, about in dataset.columns.items():
        found = dataset.statistics(column)
        numbers = zip(found.count, found.mean, found.std, found.min, found.max, strict=True)
        names = about.names or tuple(map(str, range(about.size)))
        for element, (count, mean, std, least, greatest) in zip(names, numbers, strict=True):
            row = {"column": column, "element": element, "count": int(count), "mean": float(mean)}
            rows.append(row | {"std": float(std), "min": float(least), "max": float(greatest)})
    show(pa.Table.from_pylist(rows), as_json)


def lineage(
    name: str, episode: str, step: int, version: Version = None, lake: Lake = None, as_json: Json = False
) -> None:
    """From which raw objects a step's values and frames came."""
    show(Catalog.open(lake).dataset(name, version).lineage((episode, step)), as_json)


def _label(text: str) -> tuple[str, Value]:
    """`success=true` is True, `score=0.5` a number, and everything else a text."""
    name, is_given, value = text.partition("=")
    if not is_given:
        raise QueryError(f"a label is name=value, got {text!r}")
    if name in ("task", "notes"):
        return name, value or None
    try:
        parsed = json.loads(value) if value else None
    except ValueError:
        return name, value
    return name, parsed if isinstance(parsed, bool | int | float | None) else value
