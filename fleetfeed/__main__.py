"""The command `fleetfeed`: `up`, `down`, `status`, `demo`, and the packages' own commands behind it."""

from __future__ import annotations

import importlib
import sys
from typing import Any

PACKAGES = {"edge": "edge", "ingest": "ingest_serve", "jobs": "ray_jobs", "catalog": "dataset_catalog"}


def main() -> None:
    """Hand over to one package's commands without importing the others: a robot has no Ray, a researcher no Serve."""
    words = sys.argv[1:]
    if words and words[0] in PACKAGES:
        name = words[0]
        sys.argv = [f"fleetfeed {name}", *words[1:]]
        _import(f"{PACKAGES[name]}.__main__", extra=name).main()
    else:
        _import("fleetfeed.commands", extra="demo").main()


def _import(module: str, *, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in (*PACKAGES.values(), "fleetfeed"):
            raise
        sentence = f'fleetfeed: {error.name} is not installed here: pip install "fleetfeed[{extra}]"'
        raise SystemExit(sentence) from error


if __name__ == "__main__":
    main()
