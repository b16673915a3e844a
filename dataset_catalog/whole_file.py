"""A file that is there whole or not at all, and one sentence where it cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from dataset_catalog.errors import CatalogError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """What is written in the block becomes the file when the block ends without an error."""
    target = path.resolve()  # a link stays one
    if target.exists() and not target.is_file():
        raise CatalogError(f"cannot write {path}: it is no file")
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")  # another process may write the same file
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise CatalogError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> Path:
    path = Path(path)
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path
