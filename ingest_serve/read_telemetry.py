"""`GET …/telemetry`: rows of one topic's table, streamed in the form that the client takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from dataset_catalog import versions
from dataset_catalog.storage import Storage
from dataset_catalog.tables import contains, open_table
from dataset_catalog.times import to_text
from dataset_catalog.topic_names import table_name, topic_name
from dataset_catalog.versions import Manifest
from ingest_serve.errors import Refused
from ingest_serve.read_answers import StreamAnswer
from ingest_serve.read_index import Index, freshness
from ingest_serve.read_query import Query
from ingest_serve.read_work import Workers
from ingest_serve.row_forms import FILE_ENDINGS, FORMS, chosen_form, encoded

BATCH_ROWS = 1024
_AHEAD = {"batch_readahead": 2, "fragment_readahead": 1, "io_buffer_size": 32 << 20}  # bounds what Lance holds


class ReadTelemetry:
    """The handler. Rows come in the order in which they were indexed."""

    def __init__(self, storage: Storage, index: Index, workers: Workers) -> None:
        self._storage, self._index, self._workers = storage, index, workers

    async def rows(self, request: Request) -> Response:
        query = Query.of(request)
        topic, (start_ns, end_ns) = query.needed("topic"), query.open_range_ns()
        form = chosen_form(request.headers.get("accept", ""))
        if form is None:
            raise Refused("not_acceptable", f"telemetry comes as {', '.join(FORMS)}", headers={"Vary": "Accept"})
        where = [contains("robot_id", [query.robot])]
        where += [f"t_ns >= {start_ns}"] if start_ns is not None else []
        where += [f"t_ns < {end_ns}"] if end_ns is not None else []
        manifest = await self._workers.run(lambda: self._index.newest(versions.TELEMETRY))
        name = f"{query.robot}_{table_name(topic)}{f'_{to_text(start_ns)}' if start_ns is not None else ''}"
        headers = {
            "Content-Type": form,
            "Content-Disposition": f'attachment; filename="{name.replace(":", "")}.{FILE_ENDINGS[form]}"',
            "Vary": "Accept, Authorization",
            "Cache-Control": "private, no-cache",
            **freshness(manifest),
        }
        chunks = self._workers.stream(lambda: self._chunks(manifest, topic, " AND ".join(where), form))
        return StreamAnswer(await anext(chunks, b""), chunks, request, headers)

    def _chunks(self, manifest: Manifest | None, topic: str, where: str, form: str) -> Iterator[bytes]:
        table = self._open(manifest, topic)
        scanner = table.scanner(filter=where, batch_size=BATCH_ROWS, scan_in_order=True, **_AHEAD)
        return encoded(form, table.schema, _in_small(scanner.to_reader()))

    def _open(self, manifest: Manifest | None, topic: str) -> Any:
        if manifest is None:
            raise Refused("unknown_topic", "no telemetry is loaded yet: run the job load_telemetry", topics=[])
        if table_name(topic) not in manifest.tables:
            topics = sorted(map(topic_name, manifest.tables))
            raise Refused(
                "unknown_topic", f"no topic {topic!r} is loaded; `topics` lists those that are", topics=topics
            )
        return open_table(self._storage, versions.TELEMETRY, manifest, table_name(topic))


def _in_small(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for begin in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(begin, BATCH_ROWS)
