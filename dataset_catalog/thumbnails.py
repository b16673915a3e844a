"""Segments to look at: the small pictures that index_segments kept, as a table or as one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataset_catalog.errors import NoVideo, QueryError
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table
from dataset_catalog.times import to_text
from dataset_catalog.versions import SEGMENTS, Manifest
from dataset_catalog.whole_file import write_whole

THUMBNAILS = pa.schema(
    [
        ("robot_id", pa.string()),
        ("recording_id", pa.string()),
        ("stream", pa.string()),
        ("seq", pa.int64()),
        ("start_ns", pa.int64()),
        ("end_ns", pa.int64()),
        ("thumbnail", pa.binary()),
    ]
)
_CELL, _LABEL, _MARGIN = 160, 30, 8  # pixels: a picture's greatest side, two lines of text, the space between
_PAPER, _INK = (242, 239, 238), (44, 36, 32)  # BGR

Image = NDArray[np.uint8]


def find_thumbnails(storage: Storage, manifest: Manifest | None, rows: pa.Table, *, limit: int) -> pa.Table:
    """The thumbnails of these rows of `segments`, in their order; of more than `limit`, evenly chosen ones.

    Rows without one, from before there were any, are left out.
    """
    if limit < 1:
        raise QueryError(f"limit must be >= 1, got {limit}")
    if not rows.num_rows:
        return THUMBNAILS.empty_table()
    chosen = rows.take(np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(np.int64)).to_pylist()
    pictures = segment_pictures(storage, manifest, [row["key"] for row in chosen])
    kept = [row | {"thumbnail": one} for row, one in zip(chosen, pictures, strict=True) if one]
    return pa.Table.from_pylist(kept, schema=THUMBNAILS)


def segment_pictures(storage: Storage, manifest: Manifest | None, keys: list[str | None]) -> list[bytes | None]:
    """The thumbnail of each segment, by the key of its raw object; None where there is none."""
    table = open_table(storage, SEGMENTS, manifest, "segments") if manifest else None
    if table is None or "thumbnail" not in table.schema.names:
        return [None] * len(keys)
    where = f"{contains('key', [key for key in keys if key])} AND thumbnail IS NOT NULL"
    found = {
        row["key"]: row["thumbnail"] for row in table.to_table(columns=["key", "thumbnail"], filter=where).to_pylist()
    }
    return [found.get(key) for key in keys]


def write_sheet(found: pa.Table, path: Path) -> Path:
    """A PNG of thumbnails, under each its robot, camera and time. `NoVideo` where there is none."""
    rows = found.to_pylist()
    captions = [(f"{r['robot_id']} {r['stream']}", to_text(r["start_ns"])[:19].replace("T", " ")) for r in rows]
    return draw_sheet([(row["thumbnail"], said) for row, said in zip(rows, captions, strict=True)], path)


def draw_sheet(pictures: Sequence[tuple[bytes, tuple[str, str]]], path: Path) -> Path:
    """A PNG of JPEGs with two lines of text under each. `NoVideo` where there is none."""
    cells = [_cell(picture, lines) for picture, lines in pictures]
    if not cells:
        raise NoVideo("nothing has a picture to show")
    across = math.ceil(math.sqrt(len(cells)))
    cells += [np.full_like(cells[0], _PAPER)] * (-len(cells) % across)
    page = np.concatenate([np.concatenate(cells[at : at + across], axis=1) for at in range(0, len(cells), across)])
    return write_whole(path, cv2.imencode(".png", page)[1].tobytes())


def _cell(jpeg: bytes, lines: tuple[str, str]) -> Image:
    cell: Image = np.full((_CELL + _LABEL + 2 * _MARGIN, _CELL + 2 * _MARGIN, 3), _PAPER, np.uint8)
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if picture is not None:
        height, width = (min(side, _CELL) for side in picture.shape[:2])
        top, left = _MARGIN + (_CELL - height) // 2, _MARGIN + (_CELL - width) // 2
        cell[top : top + height, left : left + width] = picture[:height, :width]
    for number, text in enumerate(lines):
        _write(cell, text, _MARGIN + _CELL + 12 + 14 * number)
    return cell


def _write(cell: Image, text: str, y: int) -> None:
    cv2.putText(cell, text[:26], (_MARGIN, y), cv2.FONT_HERSHEY_SIMPLEX, 0.36, _INK, 1, cv2.LINE_AA)
