"""One telemetry segment → rows of its topics' tables."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from edge.segment import Message, read_messages
from edge.wire import SegmentId
from ray_jobs import flatten
from ray_jobs.errors import MessageError
from ray_jobs.messages import decoder, is_typed


@dataclass(frozen=True)
class Loaded:
    """`batches`: table → rows in file order. `undecoded`: topic → messages whose bytes stand in `extra`."""

    batches: dict[str, pa.RecordBatch]
    undecoded: Counter[str]


def by_topic(body: bytes) -> dict[str, list[Message]]:
    """A segment's messages in file order, by the topic's name."""
    found: dict[str, list[Message]] = {}
    for message in read_messages(io.BytesIO(body)):
        found.setdefault(message.topic.name, []).append(message)
    return found


def infer_schema(messages: Sequence[Message]) -> pa.Schema:
    """The table schema of a topic that is seen for the first time, from its declared schema and these messages."""
    topic = messages[0].topic
    declared = topic.schema_data if topic.schema_encoding == "jsonschema" else b""
    decoded = (value for value in map(_decode, messages) if value is not None)
    return flatten.table_schema(flatten.infer_types(decoded, typed=is_typed(topic), json_schema=declared))


def load(segment: SegmentId, body: bytes, schemas: Mapping[str, pa.Schema]) -> Loaded:
    """Every message becomes one row of its topic's table. `schemas`: table → schema."""
    loaded = Loaded({}, Counter())
    for topic, messages in by_topic(body).items():
        table = flatten.table_name(topic)
        values = []
        for message in messages:
            try:
                values.append(decoder(message.topic)(message.data))
            except MessageError:
                values.append(flatten.undecoded(message.data))
                loaded.undecoded[topic] += 1
        loaded.batches[table] = flatten.to_batch(schemas[table], _own(segment, messages), values)
    return loaded


def _decode(message: Message) -> Any:
    """None where it cannot be decoded."""
    try:
        return decoder(message.topic)(message.data)
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
