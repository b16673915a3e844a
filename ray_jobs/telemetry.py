"""One telemetry segment → rows of its topics' tables."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from edge.segment import Message, Topic, read_messages
from edge.wire import SegmentId
from ray_jobs import flatten, widening
from ray_jobs.column_types import Path
from ray_jobs.columns import columns_of
from ray_jobs.errors import MessageError
from ray_jobs.messages import decode, is_typed, protobuf_parser, quick_decoder
from ray_jobs.poison import blamed_on
from ray_jobs.protobuf_columns import columns_of_protobuf
from ray_jobs.widening import Needed


@dataclass(frozen=True)
class Loaded:
    """`batches`: table → rows in file order. `undecoded`: topic → messages whose bytes stand in `extra`. `needed`:
    table → columns that its rows lack."""

    batches: dict[str, pa.RecordBatch]
    undecoded: Counter[str]
    needed: dict[str, Needed]


def by_topic(body: bytes) -> dict[str, list[Message]]:
    """A segment's messages in file order, by the topic's name. The bytes are those that were stored and indexed."""
    found: dict[str, list[Message]] = {}
    for message in read_messages(io.BytesIO(body), check_crcs=False):
        found.setdefault(message.topic.name, []).append(message)
    return found


def infer_schema(messages: Sequence[Message]) -> pa.Schema:
    """The table schema of a topic that is seen for the first time, from its declared schema and these messages."""
    topic = messages[0].topic
    declared = topic.schema_data if topic.schema_encoding == "jsonschema" else b""
    decoded = (value for value in map(_decode, messages) if value is not None)
    try:
        with blamed_on(MessageError, topic.name):
            types = flatten.infer_types(decoded, typed=is_typed(topic), json_schema=declared)
    except MessageError:
        types = {}  # every message goes to `extra`
    return flatten.table_schema(types)


def load(segment: SegmentId, body: bytes, schemas: Mapping[str, pa.Schema]) -> Loaded:
    """Every message becomes one row of its topic's table. `schemas`: table → schema."""
    loaded = Loaded({}, Counter(), {})
    for topic, messages in by_topic(body).items():
        table = flatten.table_name(topic)
        at_once = _at_once(schemas[table], segment, messages)
        if at_once is not None:
            loaded.batches[table] = at_once
            continue
        values = [_decode(message) for message in messages]
        own = _own(segment, messages)
        try:
            loaded.batches[table] = _rows(schemas[table], own, values, messages)
        except MessageError:  # one of them cannot become a row: find out which
            pairs = zip(own, values, messages, strict=True)
            values = [value if _fits(schemas[table], row, value, message) else None for row, value, message in pairs]
            loaded.batches[table] = _rows(schemas[table], own, values, messages)
        loaded.undecoded[topic] += values.count(None)
        if needed := _needed(schemas[table], values, messages):
            loaded.needed[table] = needed
    return Loaded(loaded.batches, +loaded.undecoded, loaded.needed)


def _needed(schema: pa.Schema, values: Sequence[Any], messages: Sequence[Message]) -> Needed:
    """The columns that these values lack; none where the table has no room for more."""
    fields, found = flatten.fields_of(schema), Needed()
    if len(fields) < flatten.MAX_COLUMNS:
        for value, message in zip(values, messages, strict=True):
            if value is not None:
                found |= widening.needed(flatten.leaves(value), fields, typed=is_typed(message.topic))
    return found


def _at_once(schema: pa.Schema, segment: SegmentId, messages: Sequence[Message]) -> pa.RecordBatch | None:
    """Rows of messages that all are what their table expects; None where one of them is not."""
    topic = messages[0].topic
    if not all(message.topic is topic or message.topic == topic for message in messages):
        return None
    try:
        with blamed_on(MessageError, topic.name):
            columns = _columns(flatten.fields_of(schema), topic, [message.data for message in messages])
    except MessageError:
        return None
    if columns is None:
        return None
    count = len(messages)
    own = {
        "robot_id": pa.repeat(segment.robot, count),
        "recording_id": pa.repeat(segment.recording, count),
        "stream": pa.repeat(segment.stream, count),
        "seq": pa.repeat(pa.scalar(segment.seq, pa.int64()), count),
        "t_ns": pa.array([message.t_ns for message in messages], pa.int64()),
        "sequence": pa.array([message.sequence for message in messages], pa.int64()),
        flatten.EXTRA: pa.nulls(count, pa.string()),
    }
    found = {**own, **columns}
    return pa.RecordBatch.from_arrays([found[name] for name in schema.names], schema=schema)


def _columns(fields: Mapping[Path, pa.Field], topic: Topic, encoded: Sequence[bytes]) -> dict[str, pa.Array] | None:
    if topic.encoding == topic.schema_encoding == "protobuf":
        return columns_of_protobuf(fields, list(map(protobuf_parser(topic), encoded)))
    return columns_of(fields, list(map(quick_decoder(topic), encoded)))


def _rows(
    schema: pa.Schema, own: Sequence[dict[str, Any]], values: Sequence[Any], messages: Sequence[Message]
) -> pa.RecordBatch:
    """A batch of these messages; one without a value is kept as its bytes."""
    pairs = zip(values, messages, strict=True)
    kept = [flatten.undecoded(message.data) if value is None else value for value, message in pairs]
    with blamed_on(MessageError, messages[0].topic.name):
        return flatten.to_batch(schema, own, kept)


def _fits(schema: pa.Schema, row: dict[str, Any], value: Any, message: Message) -> bool:
    try:
        _rows(schema, [row], [value], [message])
    except MessageError:
        return False
    return True


def _decode(message: Message) -> Any:
    """None where it cannot be decoded."""
    try:
        return decode(message)
    except MessageError:
        return None


def _own(segment: SegmentId, messages: Iterable[Message]) -> list[dict[str, Any]]:
    name = {
        "robot_id": segment.robot,
        "recording_id": segment.recording,
        "stream": segment.stream,
        "seq": segment.seq,
    }
    return [{**name, "t_ns": message.t_ns, "sequence": message.sequence} for message in messages]
