"""`fleetfeed ingest …`: the platform team's commands for robots, people and the bucket."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dataset_catalog.errors import CatalogError
from dataset_catalog.storage import Storage
from dataset_catalog.times import parse_ns, to_text
from edge.errors import BadName
from edge.wire import MAX_TIME_NS
from ingest_serve.app import create_app
from ingest_serve.audit import Audit, Entry
from ingest_serve.bucket import Bucket
from ingest_serve.check import check_create_once
from ingest_serve.errors import IngestError, StorageUnavailable
from ingest_serve.invitations import INVITE_LIFETIME_S, MAX_INVITE_LIFETIME_S
from ingest_serve.openapi import as_text
from ingest_serve.pieces import Pieces
from ingest_serve.quarantine import list_conflicts
from ingest_serve.registry import Registry
from ingest_serve.registry import invite as new_token
from ingest_serve.revocations import Revocations
from ingest_serve.settings import IngestSettings
from ingest_serve.tokens import SCOPES, TOKEN_LIFETIME_DAYS, Tokens

AUDIT_PAGE = 1000

app = typer.Typer(help="Server side: let robots in, look at the bucket.", no_args_is_help=True)
console = Console(stderr=True)

Robot = Annotated[str, typer.Argument(help="The robot's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def invite(
    robot: Robot,
    lifetime_s: Annotated[
        int, typer.Option(min=1, max=MAX_INVITE_LIFETIME_S, help="How long the token is good, in s.")
    ] = INVITE_LIFETIME_S,
) -> None:
    """Print a one-time token with which this robot may enrol."""
    print(new_token(_registry(), robot, now_ns=time.time_ns(), lifetime_s=lifetime_s))


@app.command()
def robots(as_json: AsJson = False) -> None:
    """List the robots that have enrolled, and their keys."""
    rows = [{"robot": robot, "key_ids": kids} for robot, kids in _registry().robots().items()]
    table = Table("robot", "keys")
    for row in rows:
        table.add_row(str(row["robot"]), " ".join(row["key_ids"]) or "none that counts")
    _print(rows, table, as_json=as_json)


@app.command()
def revoke(robot: Robot, key_id: Annotated[str, typer.Argument(help="As `robots` lists it.")]) -> None:
    """Let one key of a robot count no longer, within seconds and for good."""
    if not _registry().revoke(robot, key_id, now_ns=time.time_ns()):
        raise IngestError(f"robot {robot!r} has no key {key_id!r}")


@app.command("revoke-robot")
def revoke_robot(robot: Robot) -> None:
    """Let all keys and unused invitations of a robot count no longer, within seconds; a new invitation lets it in."""
    ended = _registry().revoke_robot(robot, now_ns=time.time_ns())
    if ended is None:
        raise IngestError(f"the registry knows no robot {robot!r}")
    print(f"revoked {len(ended.key_ids)} keys and {ended.invitations} unused invitations of {robot}")


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Whose it is: a person, or a program.")],
    scope: Annotated[list[str], typer.Option(help=f"Some of {', '.join(SCOPES)}; may be given several times.")],
    days: Annotated[float, typer.Option(help="How long it is good, in days.")] = TOKEN_LIFETIME_DAYS,
) -> None:
    """Print a new token for a person. It is told only here; the registry keeps its SHA-256."""
    print(_tokens().create(name, scopes=scope, days=days, now_ns=time.time_ns())[1])


@app.command()
def tokens(as_json: AsJson = False) -> None:
    """List people's tokens, and whether they count."""
    found = sorted(_tokens().list(), key=lambda one: one.created_ns)
    table = Table("id", "name", "scopes", "made by", "good until", "state")
    for one in found:
        state = "revoked" if one.revoked_ns is not None else "counts" if time.time_ns() < one.expires_ns else "expired"
        scopes = " ".join(sorted(one.scopes))
        table.add_row(one.token_id, escape(one.name), scopes, escape(one.created_by), to_text(one.expires_ns), state)
    _print([one.as_json() for one in found], table, as_json=as_json)


@app.command("revoke-token")
def revoke_token(token_id: Annotated[str, typer.Argument(help="As `tokens` lists it.")]) -> None:
    """Let a person's token count no longer, within seconds and for good."""
    if not _tokens().revoke(token_id, now_ns=time.time_ns()):
        raise IngestError(f"there never was a token {token_id!r}")


@app.command()
def audit(
    start: Annotated[str, typer.Option(help="ISO 8601, UTC without a zone, or ns since the epoch.")] = "1970-01-01",
    end: Annotated[str | None, typer.Option(help="The same; it is not part of the time.")] = None,
    as_json: AsJson = False,
) -> None:
    """List who let whom in and out: every act by HTTP or by command, in order."""
    table, rows = Table("time", "who", "act", "subject", "details"), []
    for entry in _acts(start, end):
        who = f"{entry.actor.kind} {entry.actor.name} ({entry.actor.id})"
        details = " ".join(f"{name}={value}" for name, value in sorted(entry.details.items()))
        table.add_row(to_text(entry.t_ns), escape(who), entry.act, escape(entry.subject), escape(details))
        rows.append(entry.as_json())
    _print(rows, table, as_json=as_json)


@app.command()
def conflicts(
    as_json: AsJson = False,
    fail: Annotated[bool, typer.Option("--fail", help="Exit code 1 if there are any: for an alert.")] = False,
) -> None:
    """List other bytes that came for a stored segment: two robots under one name, or a robot that numbers anew."""
    found = list_conflicts(_bucket())
    table = Table("came", "segment", "bytes", "kept at")
    for one in found:
        table.add_row(to_text(one.stored_ns), one.segment, str(one.bytes), one.key)
    _print([one.as_json() for one in found], table, as_json=as_json)
    if fail and found:
        raise typer.Exit(1)


@app.command()
def expire(
    days: Annotated[float, typer.Option(min=0.1, help="For how long nothing was added to them, in days.")] = 7.0,
) -> None:
    """Remove pieces of uploads that no robot has gone on with, and revocation records that nobody needs any more."""
    before_ns = time.time_ns() - int(days * 86_400 * 1e9)
    removed = Pieces(_bucket()).expire(before_ns=before_ns)
    print(f"removed {removed} unfinished uploads to which nothing was added for {days:g} days")
    print(f"removed {Revocations(_bucket()).expire()} revocation records older than a day; the keys stay revoked")


@app.command()
def check() -> None:
    """Say whether the storage can be reached and creates an object only once."""
    storage = Storage.open()
    check_create_once(Bucket.open(storage))
    print(f"{storage.url} can be reached; a second create of one key is refused")


@app.command()
def openapi() -> None:
    """Print the OpenAPI description of the HTTP interface."""
    print(as_text(create_app(Storage.open(), IngestSettings())), end="")


def _acts(start: str, end: str | None) -> Iterator[Entry]:
    """Page by page, so that the log may be long."""
    start_ns, end_ns = parse_ns(start), MAX_TIME_NS if end is None else parse_ns(end)
    log, cursor = Audit(_bucket()), None
    while page := log.read(start_ns=start_ns, end_ns=end_ns, after=cursor, limit=AUDIT_PAGE):
        yield from page
        cursor = page[-1].cursor


def _print(rows: list[dict[str, Any]], table: Table, *, as_json: bool) -> None:
    """One JSON object a line for programs, a table for people."""
    if as_json:
        print("".join(f"{json.dumps(row)}\n" for row in rows), end="")
    else:
        Console().print(table)


def _bucket() -> Bucket:
    return Bucket.open(Storage.open())


def _tokens() -> Tokens:
    return Tokens(_bucket())


def _registry() -> Registry:
    return Registry(_bucket())


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
