"""What a search found: an Arrow table that shows itself with pictures, in a notebook or as one PNG."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dataset_catalog.thumbnails import draw_sheet
from dataset_catalog.times import to_text

Row = dict[str, Any]
Pictures = Callable[[Sequence[Row]], list[bytes | None]]  # a JPEG for each row, or None

SHOWN = 24  # rows on a page of a notebook
WIDTH = 160  # pixels of a picture
_LONG = 80  # characters of a cell


class Found:
    """Everything that a `pyarrow.Table` can is done by the table inside: `to_pandas()`, `found["robot_id"]`, `len`.

    Polars, DuckDB and pandas take it as it is (the Arrow C stream). `pictures` is asked only for rows that are shown.
    """

    def __init__(self, table: pa.Table, pictures: Pictures, *, title: str = "") -> None:
        self.table, self._pictures, self._title = table, pictures, title

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copying and pickling ask for before there is a table
            raise AttributeError(name)
        return getattr(self.table, name)

    def __getitem__(self, key: Any) -> Any:
        return self.table[key]

    def __len__(self) -> int:
        return len(self.table)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        """The first rows as an HTML table. Every text is escaped: it comes from robots."""
        rows = self.table.slice(0, SHOWN).to_pylist()
        names = self.table.schema.names
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *names])
        body = "".join(_line(row, names, picture) for row, picture in zip(rows, self._pictures(rows), strict=True))
        more = f"{len(self)} rows" if len(self) <= SHOWN else f"the first {SHOWN} of {len(self)} rows"
        title = html.escape(f"{self._title}: {more}" if self._title else more)
        return f"<p>{title}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def contact_sheet(self, path: str | Path, *, limit: int = 48) -> Path:
        """The same as one PNG; of more than `limit` evenly chosen ones. `NoVideo` where none has a picture."""
        chosen = np.linspace(0, len(self) - 1, min(limit, len(self))).round().astype(np.int64)
        rows = self.table.take(pa.array(chosen)).to_pylist()
        pairs = zip(rows, self._pictures(rows), strict=True)
        return draw_sheet([(picture, _caption(row)) for row, picture in pairs if picture], Path(path))


def _line(row: Row, names: Iterable[str], picture: bytes | None) -> str:
    image = f'<img src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">' if picture else ""
    return f"<tr><td>{image}</td>" + "".join(f"<td>{html.escape(_cell(n, row[n]))}</td>" for n in names) + "</tr>"


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    text = to_text(value) if name.endswith("_ns") and isinstance(value, int) and value > 10**17 else str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


def _caption(row: Row) -> tuple[str, str]:
    what = row.get("stream") or row.get("task") or row.get("text") or ""
    when = row.get("start_ns", row.get("t_ns"))
    return f"{row.get('robot_id', '')} {what}", "" if when is None else to_text(when)[:19].replace("T", " ")
