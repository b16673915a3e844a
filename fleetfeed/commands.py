"""`fleetfeed up`, `down`, `status`, `demo`: the embedded stack and the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fleetfeed import stack
from fleetfeed.settings import StackSettings

HELP = """fleetfeed: robot recordings into training batches.

Each part has commands of its own: `fleetfeed edge` (robots), `fleetfeed ingest` (server), `fleetfeed jobs` (Ray jobs),
`fleetfeed catalog` (datasets)."""
app = typer.Typer(help=HELP, no_args_is_help=True)
console = Console(stderr=True)

for name, told in (
    ("edge", "Robot side: enrol, run the agent, adopt and replay recordings."),
    ("ingest", "Server side: invite robots, check the bucket."),
    ("jobs", "Ray jobs: index, load, align."),
    ("catalog", "Datasets: search, SQL, contact sheets."),
):
    app.command(name, help=told, add_help_option=False)(lambda: None)  # handed over before this is reached
