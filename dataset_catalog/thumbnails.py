"""Segments to look at: the small pictures that index_segments kept, as a table or as one page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataset_catalog.errors import NoVideo, QueryError
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table
from dataset_catalog.times import to_text
from dataset_catalog.versions import SEGMENTS, Manifest

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
    table = open_table(storage, SEGMENTS, manifest, "segments") if manifest else None
    if table is None or "thumbnail" not in table.schema.names or not rows.num_rows:
        return THUMBNAILS.empty_table()
    chosen = rows.take(np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(np.int64))
    where = f"{contains('key', chosen['key'].to_pylist())} AND thumbnail IS NOT NULL"
    found = table.to_table(columns=["key", "thumbnail"], filter=where).to_pylist()
    pictures = {row["key"]: row["thumbnail"] for row in found}
    kept = [row | {"thumbnail": pictures[row["key"]]} for row in chosen.to_pylist() if row["key"] in pictures]
    return pa.Table.from_pylist(kept, schema=THUMBNAILS)


def write_sheet(found: pa.Table, path: Path) -> Path:
    """A PNG of thumbnails, under each its robot, camera and time. `NoVideo` where there is none."""
    cells = [_cell(row) for row in found.to_pylist()]
    if not cells:
        raise NoVideo("no segment has a picture to show")
    across = math.ceil(math.sqrt(len(cells)))
    cells += [np.full_like(cells[0], _PAPER)] * (-len(cells) % across)
    page = np.concatenate([np.concatenate(cells[at : at + across], axis=1) for at in range(0, len(cells), across)])
    if not cv2.imwrite(str(path), page):
        raise NoVideo(f"cannot write a PNG at {path}")
    return path


def _cell(row: dict[str, Any]) -> Image:
    cell: Image = np.full((_CELL + _LABEL + 2 * _MARGIN, _CELL + 2 * _MARGIN, 3), _PAPER, np.uint8)
    picture = cv2.imdecode(np.frombuffer(row["thumbnail"], np.uint8), cv2.IMREAD_COLOR)
    if picture is not None:
        height, width = (min(side, _CELL) for side in picture.shape[:2])
        top, left = _MARGIN + (_CELL - height) // 2, _MARGIN + (_CELL - width) // 2
        cell[top : top + height, left : left + width] = picture[:height, :width]
    _write(cell, f"{row['robot_id']} {row['stream']}", _MARGIN + _CELL + 12)
    _write(cell, to_text(row["start_ns"])[:19].replace("T", " "), _MARGIN + _CELL + 26)
    return cell


def _write(cell: Image, text: str, y: int) -> None:
    cv2.putText(cell, text[:26], (_MARGIN, y), cv2.FONT_HERSHEY_SIMPLEX, 0.36, _INK, 1, cv2.LINE_AA)
