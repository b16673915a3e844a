"""What a live recorder or agent tells those who look into the spool: a small file, not synced, a second old at most."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.disk import Disk


def write_state(disk: Disk, path: Path, state: Mapping[str, Any]) -> None:
    """Best effort: a full disk keeps the file from being written, not its writer from working."""
    temporary = path.with_name(path.name + ".tmp")
    with contextlib.suppress(OSError):
        with disk.create(temporary) as file:
            file.write(json.dumps(state).encode())
        disk.rename(temporary, path)


def read_state(path: Path) -> dict[str, Any]:
    """Empty where there is none, or it cannot be read."""
    try:
        found = json.loads(path.read_text(errors="replace"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
