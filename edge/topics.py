"""The topics that fleetfeed itself gives a meaning, and how any message becomes bytes of a topic."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from google.protobuf.message import Message as ProtobufMessage
from mcap_protobuf.schema import build_file_descriptor_set

from edge.errors import BadName
from edge.records import Topic

TELEMETRY_STREAM = "telemetry"
EVENTS_STREAM = "_events"  # text and labels: worth more than the telemetry they are about
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
    _object(
        software_version="string",
        host="string",
        calibration="object",
        boot="string",
        wall_ns="integer",
        monotonic_ns="integer",
    ),
)
RECORDING_CLOSED = Topic(
    "/recording/closed",
    "json",
    "fleetfeed.RecordingClosed",
    "jsonschema",
    _object(last_seq="object", dropped="object", recovered="boolean"),
)
DROPPED = Topic(
    "/recording/dropped",
    "json",
    "fleetfeed.Dropped",
    "jsonschema",
    _object(stream="string", count="integer", first_ns="integer", last_ns="integer", reason="string"),
)
STATUS = Topic(
    "/agent/status",
    "json",
    "fleetfeed.Status",
    "jsonschema",
    _object(streams="object", spool="object", clock=["object", "null"], alarms="array"),
)
VIDEO_SCHEMA = ("foxglove.CompressedVideo", "protobuf")


def video_topic(stream: str) -> Topic:
    """The one topic of a camera's stream."""
    return Topic(f"/{stream}", "protobuf", *VIDEO_SCHEMA, _descriptor(CompressedVideo))


def _descriptor(kind: type[ProtobufMessage]) -> bytes:
    """The schema of a protobuf message; made once, a control loop logs the same kinds over and over."""
    if kind not in _DESCRIPTORS:
        _DESCRIPTORS[kind] = bytes(build_file_descriptor_set(kind).SerializeToString())
    return _DESCRIPTORS[kind]


_DESCRIPTORS: dict[type[ProtobufMessage], bytes] = {}


@lru_cache(1024)
def _json_topic(name: str) -> Topic:
    return Topic(_checked(name), "json")


def _protobuf_topic(name: str, kind: type[ProtobufMessage]) -> Topic:
    topic = _PROTOBUF_TOPICS.get((name, kind))
    if topic is None:
        topic = Topic(_checked(name), "protobuf", kind.DESCRIPTOR.full_name, "protobuf", _descriptor(kind))
        _PROTOBUF_TOPICS[name, kind] = topic
    return topic


_PROTOBUF_TOPICS: dict[tuple[str, type[ProtobufMessage]], Topic] = {}


def _checked(name: str) -> str:
    """What MCAP cannot hold as a name is refused at the call; seen once, a name costs nothing."""
    with contextlib.suppress(UnicodeEncodeError):
        if isinstance(name, str) and name.encode():
            return name
    raise BadName(f"a topic's name must be text that UTF-8 can hold, and not empty, got {name!r}")


def video_message(t_ns: int, data: bytes, *, stream: str, codec: str = "h264") -> bytes:
    """A frame as `foxglove.CompressedVideo`: one access unit (H.264 in Annex B) and its capture time."""
    message = CompressedVideo(frame_id=stream, data=data, format=codec)
    message.timestamp.seconds, message.timestamp.nanos = divmod(t_ns, 1_000_000_000)
    return bytes(message.SerializeToString())


def encode(topic: str, message: Mapping[str, Any] | ProtobufMessage) -> tuple[Topic, bytes]:
    """A message of the robot's program as (topic, bytes): a mapping becomes JSON, protobuf stays protobuf.

    `BadName` where a topic cannot have this name.
    """
    if isinstance(message, ProtobufMessage):
        return _protobuf_topic(topic, type(message)), message.SerializeToString()
    return _json_topic(topic), encode_json(message)


def encode_json(message: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON; numpy arrays become lists; NaN and infinities, which JSON cannot hold, become null.

    So do characters that UTF-8 cannot hold (surrogates, from the name of a file, say) become "?".
    """
    try:
        return orjson.dumps(message, default=_plain, option=_OPTIONS)
    except TypeError:  # numbers beyond 64 bits, keys that are no text: rare, and the standard library takes them
        return _dumps(_finite(message))


_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def _dumps(message: Any) -> bytes:
    text = json.dumps(message, separators=(",", ":"), allow_nan=False, default=_plain, ensure_ascii=False)
    return text.encode(errors="replace")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy scalars, and arrays that do not lie in one piece
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
