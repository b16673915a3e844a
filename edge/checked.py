"""JSON that knows whether it is whole: every fact on the robot's disk carries a checksum over itself."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHECK = "crc32"


def dumps(fields: Mapping[str, Any]) -> str:
    """One line of JSON with a checksum among its members."""
    return json.dumps({**fields, _CHECK: _checksum(fields)}, sort_keys=True)


def loads(text: str) -> dict[str, Any] | None:
    """The members without the checksum; None where the text is not what `dumps` wrote."""
    try:
        fields = json.loads(text)
        stated = fields.pop(_CHECK)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return fields if stated == _checksum(fields) else None


def read(path: Path) -> dict[str, Any] | None:
    """The members of a file; None where there is none, or it is damaged."""
    try:
        return loads(path.read_text(errors="replace"))
    except FileNotFoundError:
        return None


def _checksum(fields: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())
