"""The topics that fleetfeed itself gives a meaning, and how any message becomes bytes of a topic."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from google.protobuf.message import Message as ProtobufMessage
from mcap_protobuf.schema import build_file_descriptor_set

from edge.segment import Topic

TELEMETRY_STREAM = "telemetry"
AGENT_STREAM = "_agent"
LEVELS = {"debug": 1, "info": 2, "warning": 3, "error": 4, "fatal": 5}


def _object(**properties: str | list[str]) -> bytes:
    fields = {name: {"type": type_} for name, type_ in properties.items()}
    return json.dumps({"type": "object", "properties": fields}).encode()


# https://docs.foxglove.dev/docs/visualization/message-schemas/log
LOG = Topic("/log", "json", "foxglove.Log", "jsonschema", _object(level="integer", message="string", name="string"))
EPISODE = Topic(
    "/episode",
    "json",
    "fleetfeed.Episode",
    "jsonschema",
    _object(
        episode_id="string",
        event="string",
        task="string",
        success=["boolean", "null"],
        notes=["string", "null"],
    ),
)
RECORDING_OPENED = Topic(
    "/recording/opened",
    "json",
    "fleetfeed.RecordingOpened",
    "jsonschema",
    _object(software_version="string", host="string"),
)
RECORDING_CLOSED = Topic(
    "/recording/closed",
    "json",
    "fleetfeed.RecordingClosed",
    "jsonschema",
    _object(last_seq="object", dropped="object", recovered="boolean"),
)
VIDEO_SCHEMA = ("foxglove.CompressedVideo", "protobuf")


def video_topic(stream: str) -> Topic:
    """The one topic of a camera's stream."""
    data = build_file_descriptor_set(CompressedVideo).SerializeToString()
    return Topic(f"/{stream}", "protobuf", *VIDEO_SCHEMA, data)


def video_message(t_ns: int, data: bytes, *, stream: str, codec: str = "h264") -> bytes:
    """A frame as `foxglove.CompressedVideo`: one access unit (H.264 in Annex B) and its capture time."""
    message = CompressedVideo(frame_id=stream, data=data, format=codec)
    message.timestamp.seconds, message.timestamp.nanos = divmod(t_ns, 1_000_000_000)
    return bytes(message.SerializeToString())


def encode(topic: str, message: Mapping[str, Any] | ProtobufMessage) -> tuple[Topic, bytes]:
    """A message of the robot's program as (topic, bytes): a mapping becomes JSON, protobuf stays protobuf."""
    if isinstance(message, ProtobufMessage):
        descriptor = build_file_descriptor_set(type(message)).SerializeToString()
        return Topic(
            topic, "protobuf", message.DESCRIPTOR.full_name, "protobuf", descriptor
        ), message.SerializeToString()
    return Topic(topic, "json"), encode_json(message)


def encode_json(message: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON; numpy arrays become lists; NaN and infinities, which JSON cannot hold, become null."""
    try:
        return _dumps(message)
    except ValueError:
        return _dumps(_finite(message))


def _dumps(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":"), allow_nan=False, default=_plain, ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a message may hold JSON values and numpy arrays, got {type(value).__name__}")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_finite(item) for item in value]
    return value
