"""`python -m ray_jobs`: run a job here, or submit it to a cluster, or let all of them run again and again."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

os.environ.setdefault("LANCE_LOG", "error")  # "no existing dataset, it will be created" is no news; set before Lance

from dataset_catalog.progress import bar
from ray_jobs import screen

app = typer.Typer(
    help="Jobs on Ray: index what arrived, load telemetry, align datasets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
JOBS = {
    "index_segments": "Raw segments → lake/segments; every frame is decoded once, what is damaged is quarantined.",
    "load_telemetry": "Telemetry segments → lake/telemetry/<topic>, one table a topic at its native rate.",
    "align_frames": "An align spec and whole episodes → datasets/<name>: steps, series, gops, statistics, episodes.",
    "backfill": "A robot's episodes or a range of time in a dataset again, also by a changed spec, in a new version.",
    "materialize": "A rendition of a dataset's video at training resolution → gops, as its next version.",
    "maintain": "Keeps the lake fast and small: compaction, indices, old versions, abandoned uploads.",
}
SPECS = Path(__file__).with_name("specs")
SPECS_TAKEN = ("align_frames", "backfill")
TAKEN = {"backfill": ("robot", "start", "end"), "materialize": ("dataset", "image_size", "codec", "fit")}
SPEC_HELP = "Align spec (TOML), for align_frames and backfill; or the name of one that comes with us."

Name = Annotated[str, typer.Argument(help="One of the jobs that `list` names.")]
Spec = Annotated[Path | None, typer.Option(help=SPEC_HELP)]
DryRun = Annotated[bool, typer.Option(help="Of maintain: say what is due, and change nothing.")]
Robot = Annotated[str | None, typer.Option(help="Of backfill: only this robot's episodes.")]
Start = Annotated[str | None, typer.Option(help="Of backfill: only episodes that end after this ISO 8601 time, or ns.")]
End = Annotated[str | None, typer.Option(help="Of backfill: only episodes that begin before this one.")]
Dataset = Annotated[str | None, typer.Option(help="Of materialize: the dataset, whose newest version is taken.")]
ImageSize = Annotated[str | None, typer.Option(help="Of materialize: HEIGHTxWIDTH, or one number for both.")]
Codec = Annotated[str | None, typer.Option(help="Of materialize: h264-g10 (else), h264-g2 or jpeg.")]
FitAs = Annotated[str | None, typer.Option("--fit", help="Of materialize: stretch (else), crop or letterbox.")]


@app.command("list")
def list_jobs() -> None:
    """Name the jobs."""
    table = Table("job", "what it does", box=None)
    for name, about in JOBS.items():
        table.add_row(name, about)
    Console().print(table)


@app.command()
def run(
    name: Name,
    spec: Spec = None,
    dry_run: DryRun = False,
    robot: Robot = None,
    start: Start = None,
    end: End = None,
    dataset: Dataset = None,
    image_size: ImageSize = None,
    codec: Codec = None,
    fit: FitAs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one line of JSON.")] = False,
) -> None:
    """Run one job until nothing is left to do; a killed run changes nothing and can be run again."""
    which = _given(robot=robot, start=start, end=end, dataset=dataset, image_size=image_size, codec=codec, fit=fit)
    _check(name, spec, dry_run=dry_run, which=which)
    with _told(name), bar(name, quiet=as_json) as progress:
        summary = _job(name, spec, progress, dry_run=dry_run, which=which)()
    if as_json:
        print(json.dumps(summary.as_json()))
    else:
        screen.show(summary)


@app.command()
def submit(
    name: Name,
    spec: Spec = None,
    dry_run: DryRun = False,
    robot: Robot = None,
    start: Start = None,
    end: End = None,
    dataset: Dataset = None,
    image_size: ImageSize = None,
    codec: Codec = None,
    fit: FitAs = None,
) -> None:
    """Run one job on the cluster that RAY_API_SERVER_ADDRESS names, and print its id."""
    which = _given(robot=robot, start=start, end=end, dataset=dataset, image_size=image_size, codec=codec, fit=fit)
    _check(name, spec, dry_run=dry_run, which=which)
    with _told(name):
        from ray_jobs import submitted

        file = spec if spec is not None and spec.exists() else None
        words = ["run", name, "--json", *(["--spec", file.name if file else str(spec)] if spec is not None else [])]
        words += [word for option, value in which.items() for word in (f"--{option.replace('_', '-')}", value)]
        print(submitted.submit([*words, *(["--dry-run"] if dry_run else [])], file=file))


@app.command()
def logs(job_id: Annotated[str, typer.Argument(help="As `submit` prints it and `status` lists it.")]) -> None:
    """Print what a submitted job has printed so far."""
    with _told(job_id):
        from ray_jobs import submitted

        print(submitted.logs(job_id), end="")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """How old the newest versions are, and what the cluster's jobs came to."""
    with _told("status"):
        from dataset_catalog import versions
        from dataset_catalog.storage import Storage
        from ray_jobs import submitted

        storage = Storage.open()
        datasets = [f"{versions.DATASETS}/{name}" for name in versions.list_datasets(storage)]
        chains = {
            chain: versions.newest(storage, chain) for chain in (versions.SEGMENTS, versions.TELEMETRY, *datasets)
        }
        jobs = list(submitted.submitted()) if os.environ.get(submitted.ADDRESS) else []
    if as_json:
        found = {
            chain: manifest and {"version": manifest.n, "created_ns": manifest.created_ns}
            for chain, manifest in chains.items()
        }
        print(json.dumps({"chains": found, "jobs": [job.as_json() for job in jobs]}))
    else:
        screen.show_status(chains.items(), jobs, now_ns=time.time_ns())


@app.command()
def loop(
    spec: Annotated[list[Path] | None, typer.Option(help=SPEC_HELP + " May be given several times.")] = None,
    every_s: Annotated[float, typer.Option(min=1, help="A round begins so often, in s.")] = 60.0,
    maintain_every_s: Annotated[float, typer.Option(min=60, help="How often the lake is maintained, in s.")] = 3600.0,
) -> None:
    """Index, load, align (each --spec) and maintain, again and again, until Ctrl-C or SIGTERM."""
    from dataset_catalog.storage import Storage
    from ray_jobs import cluster
    from ray_jobs.arriving import Arriving
    from ray_jobs.loop import Loop
    from ray_jobs.settings import JobsSettings

    rounds = Loop(every_s, done=_say)
    with _told("loop"):
        cluster.connect(JobsSettings())  # before the signals: Ray takes SIGTERM for itself
        rounds.add("index_segments", Arriving(Storage.open(), JobsSettings()).run)
        rounds.add("load_telemetry", _job("load_telemetry", None))
        names = [one.stem for one in spec or ()]
        if len(set(names)) < len(names):
            raise typer.BadParameter(f"two specs of one name: {', '.join(names)}")
        for one in spec or ():
            rounds.add(f"align_frames {one.stem}", _job("align_frames", one))
        rounds.add("maintain", _job("maintain", None), every_s=maintain_every_s)
        rounds.run(_stopped_by_signals())


def _say(name: str, outcome: Any) -> None:
    said = screen.line(name, outcome)
    if said:
        style = "red" if isinstance(outcome, Exception) else None
        screen.errors.print(f"{time.strftime('%H:%M:%S')} {said}", style=style, markup=False, highlight=False)


def _stopped_by_signals() -> threading.Event:
    """Set by Ctrl-C or SIGTERM: the job under way is finished. A second one ends it where it is."""
    stop = threading.Event()

    def end(number: int, _: Any) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()
        screen.errors.print("ending after the job under way; once more to end it now", style="dim")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return stop


def _given(**options: str | None) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _check(name: str, spec: Path | None, *, dry_run: bool, which: Mapping[str, str]) -> None:
    if name not in JOBS:
        raise typer.BadParameter(f"expected one of {', '.join(JOBS)}, got {name!r}")
    if (name in SPECS_TAKEN) != (spec is not None):
        raise typer.BadParameter(f"{' and '.join(SPECS_TAKEN)} need --spec, the other jobs take none")
    for option in set(which) - set(TAKEN.get(name, ())):
        takes = next(job for job, options in TAKEN.items() if option in options)
        raise typer.BadParameter(f"only {takes} takes --{option.replace('_', '-')}")
    if name == "materialize" and not {"dataset", "image_size"} <= set(which):
        raise typer.BadParameter("materialize needs --dataset and --image-size")
    if dry_run and name != "maintain":
        raise typer.BadParameter("only maintain has a dry run")


@contextmanager
def _told(name: str) -> Iterator[None]:
    """An error of ours is one sentence and exit code 1; of a setting that cannot be read it is 2."""
    from pydantic import ValidationError

    from dataset_catalog.errors import CatalogError
    from dataset_catalog.settings import sentence_of
    from ingest_serve.errors import IngestError
    from ray_jobs.errors import JobError

    try:
        yield
    except ValidationError as error:
        said = sentence_of(error)
        if said is None:
            raise
        screen.errors.print(f"{name} cannot begin: {said}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except (JobError, CatalogError, IngestError, OSError) as error:  # the last is Lance's, for a store that failed
        screen.errors.print(f"{name} published nothing more: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _job(
    name: str,
    spec: Path | None,
    progress: Callable[[int, int], None] | None = None,
    *,
    dry_run: bool = False,
    which: Mapping[str, str] | None = None,
) -> Callable[[], Any]:
    """A job as a call without arguments. Raises `SpecError` for a spec, `QueryError` for a time that cannot be used."""
    from dataset_catalog.storage import Storage
    from dataset_catalog.times import parse_ns
    from ray_jobs import align_frames, backfill, index_segments, load_telemetry, maintain, materialize
    from ray_jobs.align_spec import AlignSpec
    from ray_jobs.cluster import no_progress
    from ray_jobs.settings import JobsSettings

    storage, settings = Storage.open(), JobsSettings()
    more: dict[str, Any] = {"progress": progress or no_progress}
    if name == "materialize":
        chosen = dict(which or {})
        return partial(
            materialize.run, storage, settings, chosen.pop("dataset"), materialize.encoding(**chosen), **more
        )
    for option, text in (which or {}).items():
        more |= {option: text} if option == "robot" else {f"{option}_ns": parse_ns(text)}
    if spec is not None:
        job: Callable[..., Any] = {"align_frames": align_frames.run, "backfill": backfill.run}[name]
        return partial(job, storage, settings, AlignSpec.load(_spec_path(spec)), **more)
    if name == "maintain":
        return partial(maintain.run, storage, settings, dry_run=dry_run, **more)
    plain = {"index_segments": index_segments.run, "load_telemetry": load_telemetry.run}
    return partial(plain[name], storage, settings, **more)


def _spec_path(spec: Path) -> Path:
    """A file, or the name of a spec that comes with us."""
    ours = SPECS / f"{spec}.toml"
    return ours if not spec.exists() and spec.name == str(spec) and ours.exists() else spec


def main() -> None:
    app()


if __name__ == "__main__":
    main()
