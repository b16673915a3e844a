"""`python -m ray_jobs`: run a job here, or on a cluster by `ray job submit -- python -m ray_jobs run NAME`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

os.environ.setdefault("LANCE_LOG", "error")  # "no existing dataset, it will be created" is no news; set before Lance

app = typer.Typer(
    help="Jobs on Ray: index what arrived, load telemetry, align datasets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
JOBS = {
    "index_segments": "Raw segments → lake/segments; every frame is decoded once, what is damaged is quarantined.",
    "load_telemetry": "Telemetry segments → lake/telemetry/<topic>, one table a topic at its native rate.",
    "align_frames": "An align spec and whole episodes → datasets/<name>: steps, series, gops, episodes.",
    "maintain": "Keeps the lake fast and small: compaction, indices, old versions, abandoned uploads.",
}
_err = Console(stderr=True)


@app.command("list")
def list_jobs() -> None:
    """Name the jobs."""
    table = Table("job", "what it does", box=None)
    for name, about in JOBS.items():
        table.add_row(name, about)
    Console().print(table)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="One of the jobs that `list` names.")],
    spec: Annotated[
        Path | None, typer.Option(help="Align spec (TOML), for align_frames; or the name of one that comes with us.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Of maintain: say what is due, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one line of JSON.")] = False,
) -> None:
    """Run one job until nothing is left to do; a killed run changes nothing and can be run again."""
    if name not in JOBS:
        raise typer.BadParameter(f"expected one of {', '.join(JOBS)}, got {name!r}")
    if (name == "align_frames") != (spec is not None):
        raise typer.BadParameter("align_frames needs --spec, the other jobs take none")
    if dry_run and name != "maintain":
        raise typer.BadParameter("only maintain has a dry run")
    from dataset_catalog.errors import CatalogError
    from ingest_serve.errors import IngestError
    from ray_jobs.errors import JobError

    try:
        with _bar(name, quiet=as_json) as progress:
            summary = _run(name, spec, progress, dry_run=dry_run)
    except (JobError, CatalogError, IngestError) as error:
        _err.print(f"{name} published nothing more: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(summary.as_json()))
    else:
        _print(summary)


def _run(name: str, spec: Path | None, progress: Callable[[int, int], None], *, dry_run: bool) -> Any:
    from dataset_catalog.storage import Storage
    from ray_jobs import align_frames, index_segments, load_telemetry, maintain
    from ray_jobs.align_spec import AlignSpec
    from ray_jobs.settings import JobsSettings

    storage, settings = Storage.open(), JobsSettings()
    if spec is not None:
        return align_frames.run(storage, settings, AlignSpec.load(_spec_path(spec)), progress=progress)
    if name == "maintain":
        return maintain.run(storage, settings, dry_run=dry_run, progress=progress)
    job = {"index_segments": index_segments, "load_telemetry": load_telemetry}[name]
    return job.run(storage, settings, progress=progress)


def _spec_path(spec: Path) -> Path:
    """A file, or the name of a spec that comes with us."""
    ours = Path(__file__).with_name("specs") / f"{spec}.toml"
    return ours if not spec.exists() and spec.name == str(spec) and ours.exists() else spec


@contextmanager
def _bar(name: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; Ray's own bars and logs are off."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_err, transient=True, disable=quiet) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _print(summary: Any) -> None:
    table = Table(show_header=False)
    for what, count in summary.counts.items():
        table.add_row(what, f"{count:,}")
    for name, rows in summary.rows.items():
        table.add_row(f"rows of {name}", f"{rows:,}")
    table.add_row("published", ", ".join(f"v{n}" for n in summary.versions) or "nothing new")
    table.add_row("seconds", f"{summary.seconds:.1f}")
    console = Console()
    console.print(f"{summary.job} → {summary.chain}", highlight=False)
    console.print(table)
    for note in summary.notes:
        console.print(f"· {note}", markup=False, highlight=False)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
