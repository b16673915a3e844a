"""`fleetfeed ingest …`: the platform team's commands for enrolment and the bucket."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from dataset_catalog.errors import CatalogError
from dataset_catalog.storage import Storage
from edge.errors import BadName
from ingest_serve.app import create_app
from ingest_serve.bucket import Bucket
from ingest_serve.check import check_create_once
from ingest_serve.errors import IngestError, StorageUnavailable
from ingest_serve.invitations import INVITE_LIFETIME_S
from ingest_serve.pieces import Pieces
from ingest_serve.registry import Registry
from ingest_serve.registry import invite as new_token
from ingest_serve.settings import IngestSettings

app = typer.Typer(help="Server side: let robots in, look at the bucket.", no_args_is_help=True)
console = Console(stderr=True)

Robot = Annotated[str, typer.Argument(help="The robot's id.")]


@app.command()
def invite(
    robot: Robot,
    lifetime_s: Annotated[int, typer.Option(min=1, help="How long the token is good, in s.")] = INVITE_LIFETIME_S,
) -> None:
    """Print a one-time token with which this robot may enrol."""
    print(new_token(_registry(), robot, now_ns=time.time_ns(), lifetime_s=lifetime_s))


@app.command()
def revoke(robot: Robot, key_id: Annotated[str, typer.Argument(help="As `robots` lists it.")]) -> None:
    """Let a key count no longer, from the moment the replicas' cached keys run out."""
    if not _registry().revoke(robot, key_id, now_ns=time.time_ns()):
        raise IngestError(f"robot {robot!r} has no key {key_id!r}")


@app.command()
def robots() -> None:
    """List the robots that have enrolled, and their keys."""
    table = Table("robot", "keys")
    for robot, kids in _registry().robots().items():
        table.add_row(robot, " ".join(kids) or "none that counts")
    Console().print(table)


@app.command()
def expire(
    days: Annotated[float, typer.Option(min=0.1, help="For how long nothing was added to them, in days.")] = 7.0,
) -> None:
    """Remove the pieces of uploads that no robot has gone on with."""
    before_ns = time.time_ns() - int(days * 86_400 * 1e9)
    removed = Pieces(Bucket.open(Storage.open())).expire(before_ns=before_ns)
    print(f"removed {removed} unfinished uploads to which nothing was added for {days:g} days")


@app.command()
def check() -> None:
    """Say whether the storage can be reached and creates an object only once."""
    storage = Storage.open()
    check_create_once(Bucket.open(storage))
    print(f"{storage.url} can be reached; a second create of one key is refused")


@app.command()
def openapi() -> None:
    """Print the OpenAPI description of the HTTP interface."""
    print(json.dumps(create_app(Storage.open(), IngestSettings()).openapi(), indent=2))


def _registry() -> Registry:
    return Registry(Bucket.open(Storage.open()))


def main() -> None:
    """Run the commands; an error of ours is one sentence and exit code 2."""
    try:
        app()
    except (IngestError, CatalogError, BadName, ValidationError) as error:
        where = f" ({Storage.open().where})" if isinstance(error, StorageUnavailable) else ""
        console.print(f"fleetfeed ingest: {error}{where}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
