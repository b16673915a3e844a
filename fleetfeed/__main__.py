"""The command `fleetfeed`: `up`, `down`, `status`, `demo`, and the packages' own commands behind it."""

from __future__ import annotations

import importlib
import sys

EXCHANGE = ("import-lerobot", "export-lerobot", "export-mcap")  # commands of the catalog that stand by themselves
PACKAGES = {"edge": "edge", "ingest": "ingest_serve", "jobs": "ray_jobs", "catalog": "dataset_catalog"}


def main() -> None:
    """Hand over to one package's commands without importing the others: a robot has no Ray, a researcher no Serve."""
    words = sys.argv[1:]
    if words and words[0] in PACKAGES:
        name = words[0]
        sys.argv = [f"fleetfeed {name}", *words[1:]]
        _run(f"{PACKAGES[name]}.__main__", extra=name)
    elif words and words[0] in EXCHANGE:
        sys.argv = ["fleetfeed", *words]
        _run("dataset_catalog.__main__", extra="catalog")
    else:
        _run("fleetfeed.commands", extra="demo")


def _run(module: str, *, extra: str) -> None:
    """Run a module's `main`; a library that is missing here is named with the extra that brings it."""
    try:
        importlib.import_module(module).main()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in (*PACKAGES.values(), "fleetfeed"):
            raise
        sentence = f'fleetfeed: {error.name} is not installed here: pip install "fleetfeed[{extra}]"'
        raise SystemExit(sentence) from error


if __name__ == "__main__":
    main()
