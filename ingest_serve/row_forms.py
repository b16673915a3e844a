"""Rows of a telemetry table as bytes, batch by batch, in three forms.

Arrow   the IPC stream format: exact
JSON    one object a line; 64-bit integers as they are, bytes as base64, NaN and infinities as null
CSV     RFC 4180 with a line of names: text in quotes, null as an empty field, lists as JSON text, bytes as base64,
        true and false, and of numbers `NaN`, `Infinity`, `-Infinity`
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pyarrow as pa

ARROW, NDJSON, CSV = "application/vnd.apache.arrow.stream", "application/x-ndjson", "text/csv"
FORMS = (NDJSON, ARROW, CSV)  # the first is given where the client takes anything
FILE_ENDINGS = {ARROW: "arrows", NDJSON: "jsonl", CSV: "csv"}


def encoded(form: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """The rows in one of `FORMS`, a chunk a batch; nothing of a batch is kept after its chunk."""
    return {ARROW: _arrow, NDJSON: _ndjson, CSV: _csv}[form](schema, batches)


def chosen_form(accept: str) -> str | None:
    """The form that an `Accept` field likes best (RFC 9110, 12.5.1); None where it takes none of ours."""
    asked = [_media_range(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    liked = [(_quality(form, asked), -place, form) for place, form in enumerate(FORMS)]
    quality, _, form = max(liked)
    return form if quality > 0 else None


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return name, 0.0
    return name, 1.0


def _quality(form: str, asked: list[tuple[str, float]]) -> float:
    """What the most exact range that fits says."""
    for wanted in (form, f"{form.partition('/')[0]}/*", "*/*"):
        fitting = [quality for name, quality in asked if name == wanted]
        if fitting:
            return max(fitting)
    return 0.0


def _arrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield _taken(sink)
    yield _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    chunk = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return chunk


def _ndjson(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    for batch in batches:
        yield b"".join(orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE) for row in batch.to_pylist())


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"a telemetry table holds no {type(value).__name__}")


def _csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    yield _csv_line(schema.names)
    for batch in batches:
        columns = [column.to_pylist() for column in batch.columns]
        yield b"".join(_csv_line(row) for row in zip(*columns, strict=True))


def _csv_line(row: Iterable[Any]) -> bytes:
    return ",".join(map(_csv_field, row)).encode() + b"\r\n"


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    text = value if isinstance(value, str) else orjson.dumps(value, default=_plain).decode()
    return '"' + text.replace('"', '""') + '"'
