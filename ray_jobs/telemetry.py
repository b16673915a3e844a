"""Telemetry segments → rows of their topics' tables."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from edge.segment import Message, Topic, read_messages
from edge.segment_reader import TopicMessages, read_topics
from edge.wire import SegmentId
from ray_jobs import flatten, widening
from ray_jobs.column_types import Path
from ray_jobs.columns import columns_of
from ray_jobs.errors import MessageError
from ray_jobs.json_columns import columns_of_json
from ray_jobs.messages import decode, is_typed, protobuf_parser, quick_decoder
from ray_jobs.poison import blamed_on
from ray_jobs.protobuf_columns import columns_of_protobuf
from ray_jobs.widening import Needed
from ray_jobs.wire_columns import columns_of_wire

CACHED_BYTES = 1 << 20  # of messages; Arrow reads JSON of four times as much a third slower
Columns = Callable[[Mapping[Path, pa.Field], Topic, list[bytes]], dict[str, pa.Array] | None]


@dataclass(frozen=True, slots=True)
class Held:
    """Messages of one topic that a segment holds."""

    segment: SegmentId
    messages: TopicMessages

    @property
    def table(self) -> str:
        return flatten.table_name(self.messages.topic.name)

    @property
    def bytes(self) -> int:
        return sum(map(len, self.messages.data))


@dataclass(frozen=True)
class Loaded:
    """`batches`: rows in file order. `undecoded`: messages whose bytes stand in `extra`. `needed`: columns that these
    rows lack."""

    batches: list[pa.RecordBatch]
    undecoded: int
    needed: Needed


def by_topic(body: bytes) -> dict[str, list[Message]]:
    """A segment's messages in file order, by the topic's name. The bytes are those that were stored and indexed."""
    found: dict[str, list[Message]] = {}
    for message in read_messages(io.BytesIO(body), check_crcs=False):
        found.setdefault(message.topic.name, []).append(message)
    return found


def read(segment: SegmentId, body: bytes) -> list[Held]:
    """The same, as columns. Of a topic whose encoding or schema changes within the segment there are several."""
    topics = read_topics(io.BytesIO(body), check_crcs=False)
    names = Counter(topic.name for topic in topics)
    held = [Held(segment, messages) for topic, messages in topics.items() if names[topic.name] == 1]
    if len(held) < len(topics):
        for name, messages in by_topic(body).items():
            if names[name] > 1:
                runs = groupby(messages, key=lambda message: message.topic)
                held += [Held(segment, TopicMessages.of(list(run))) for _, run in runs]
    return held


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


def load(schema: pa.Schema, held: Sequence[Held]) -> Loaded:
    """Every message becomes one row of its topic's table, which has this schema."""
    fields = flatten.fields_of(schema)
    parts = [part for together in _together(held) for part in _parts(schema, fields, together)]
    needed: Needed = {}
    for part in parts:
        needed |= part.needed
    return Loaded([batch for part in parts for batch in part.batches], sum(part.undecoded for part in parts), needed)


def _together(held: Sequence[Held]) -> Iterator[list[Held]]:
    """Neighbours of one topic, as many as a processor's cache holds."""
    for _, neighbours in groupby(held, key=lambda one: one.messages.topic):
        found: list[Held] = []
        size = 0
        for one in neighbours:
            found.append(one)
            size += one.bytes
            if size >= CACHED_BYTES:
                yield found
                found, size = [], 0
        if found:
            yield found


def _parts(schema: pa.Schema, fields: Mapping[Path, pa.Field], held: Sequence[Held]) -> Iterator[Loaded]:
    """All of one topic at once; where that does not go, by halves, down to one segment's by themselves."""
    batch = _at_once(schema, fields, held, _columns_of_bytes)
    if batch is None and len(held) == 1:
        batch = _at_once(schema, fields, held, _columns_of_values)
    if batch is not None:
        yield Loaded([batch], 0, {})
    elif len(held) == 1:
        yield _one_by_one(schema, held[0].segment, held[0].messages.messages())
    else:
        middle = len(held) // 2
        yield from _parts(schema, fields, held[:middle])
        yield from _parts(schema, fields, held[middle:])


def _at_once(
    schema: pa.Schema, fields: Mapping[Path, pa.Field], held: Sequence[Held], columns_of: Columns
) -> pa.RecordBatch | None:
    """Rows of messages that all are what their table expects; None where one of them is not."""
    topic = held[0].messages.topic
    try:
        with blamed_on(MessageError, topic.name):
            columns = columns_of(fields, topic, [data for one in held for data in one.messages.data])
    except MessageError:
        return None
    if columns is None:
        return None
    found = {**_own_columns(held), **columns}
    return pa.RecordBatch.from_arrays([found[name] for name in schema.names], schema=schema)


def _columns_of_bytes(
    fields: Mapping[Path, pa.Field], topic: Topic, encoded: list[bytes]
) -> dict[str, pa.Array] | None:
    """Without a step a message."""
    if topic.encoding == "json":
        return columns_of_json(fields, encoded)
    if topic.encoding == topic.schema_encoding == "protobuf":
        return columns_of_wire(fields, topic, encoded)
    return None


def _columns_of_values(
    fields: Mapping[Path, pa.Field], topic: Topic, encoded: list[bytes]
) -> dict[str, pa.Array] | None:
    """Each message is decoded, and each field is a step for all of them."""
    if topic.encoding == topic.schema_encoding == "protobuf":
        return columns_of_protobuf(fields, list(map(protobuf_parser(topic), encoded)))
    return columns_of(fields, list(map(quick_decoder(topic), encoded)))


def _own_columns(held: Sequence[Held]) -> dict[str, pa.Array]:
    counts = [len(one.messages.data) for one in held]
    names = {"robot_id": "robot", "recording_id": "recording", "stream": "stream"}
    texts = {
        column: pa.concat_arrays(
            [pa.repeat(getattr(one.segment, name), count) for one, count in zip(held, counts, strict=True)]
        )
        for column, name in names.items()
    }
    return {
        **texts,
        "seq": pa.array(np.repeat([one.segment.seq for one in held], counts), pa.int64()),
        "t_ns": pa.array(np.concatenate([one.messages.t_ns for one in held])),
        "sequence": pa.array(np.concatenate([one.messages.sequence for one in held])),
        flatten.EXTRA: pa.nulls(sum(counts), pa.string()),
    }


def _one_by_one(schema: pa.Schema, segment: SegmentId, messages: Sequence[Message]) -> Loaded:
    """Rows of messages of which some are not what their table expects."""
    values = [_decode(message) for message in messages]
    own = _own(segment, messages)
    try:
        batch = _rows(schema, own, values, messages)
    except MessageError:  # one of them cannot become a row: find out which
        pairs = zip(own, values, messages, strict=True)
        values = [value if _fits(schema, row, value, message) else None for row, value, message in pairs]
        batch = _rows(schema, own, values, messages)
    return Loaded([batch], values.count(None), _needed(schema, values, messages))


def _needed(schema: pa.Schema, values: Sequence[Any], messages: Sequence[Message]) -> Needed:
    """The columns that these values lack; none where the table has no room for more."""
    fields, found = flatten.fields_of(schema), Needed()
    if len(fields) < flatten.MAX_COLUMNS:
        for value, message in zip(values, messages, strict=True):
            if value is not None:
                found |= widening.needed(flatten.leaves(value), fields, typed=is_typed(message.topic))
    return found


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
