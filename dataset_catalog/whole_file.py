"""A file that is there whole or not at all, and one sentence where it cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dataset_catalog.errors import CatalogError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """What is written in the block becomes the file when the block ends without an error."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
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
