"""From the bytes of a message to plain values: JSON, protobuf, and ROS 2 CDR.

Plain values are dicts with string keys, lists, str, int, float, bool, bytes, None, and 1-D numpy arrays where the
encoding has typed arrays of numbers.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from mcap.exceptions import McapError
from mcap.records import Schema
from mcap_protobuf.decoder import DecoderFactory
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.base import TypesysError

from edge.segment import Message, Topic
from edge.segment_reader import TopicMessages
from ray_jobs.errors import MessageError
from ray_jobs.plain_protobuf import PlainProtobuf
from ray_jobs.poison import blamed_on

Decode = Callable[[bytes], Any]

_SERVICE_EVENT = re.compile(r"(?P<package>[^/]+)/srv/(?P<name>[^/]+)_Event")
# https://github.com/ros2/rcl_interfaces/blob/rolling/service_msgs/msg/ServiceEventInfo.msg
_SERVICE_EVENT_INFO = """uint8 event_type
builtin_interfaces/Time stamp
uint8[16] client_gid
int64 sequence_number
"""
_TIME = "int32 sec\nuint32 nanosec\n"


def decode(message: Message) -> Any:
    """A message's value; `MessageError` for whatever its bytes or its schema make a decoder raise."""
    with blamed_on(MessageError, message.topic.name):
        return decoder(message.topic)(message.data)


@lru_cache(maxsize=1024)
def quick_decoder(topic: Topic, wanted: frozenset[str] | None = None) -> Decode:
    """As `decoder`, in a fraction of its time, for those who need no more than numbers or look at what they get:

    JSON integers beyond 64 bits are the nearest float, and typed arrays may be lists. Where the type says that there
    are `wanted` fields, there may be no others.
    """
    if topic.encoding == "json":
        return _decode_json_quickly
    if topic.encoding == "protobuf" and topic.schema_encoding == "protobuf":
        return _protobuf(topic, typed_arrays=False, wanted=wanted)
    return decoder(topic)


UNDECODED = object()


def decode_each(messages: TopicMessages, wanted: frozenset[str] | None = None) -> list[Any]:
    """The values of messages as `quick_decoder` gives them; `UNDECODED` where one cannot be decoded."""
    try:
        with blamed_on(MessageError, "these messages"):
            return list(map(quick_decoder(messages.topic, wanted), messages.data))
    except MessageError:
        return [_decode_or_not(message) for message in messages.messages()]


def _decode_or_not(message: Message) -> Any:
    try:
        return decode(message)
    except MessageError:
        return UNDECODED


@lru_cache(maxsize=1024)
def decoder(topic: Topic) -> Decode:
    """How a topic's messages are decoded. Both this and the decoder raise `MessageError`."""
    if topic.encoding == "json":
        return _decode_json
    if topic.encoding == "protobuf" and topic.schema_encoding == "protobuf":
        return _protobuf(topic)
    if topic.encoding == "cdr" and topic.schema_encoding in ("ros2msg", "ros2idl"):
        return _ros2(topic)
    raise MessageError(f"{topic.name}: encoding {topic.encoding!r} with schema {topic.schema_encoding!r} is not read")


def is_typed(topic: Topic) -> bool:
    """Whether the encoding tells integers from floats; JSON does not."""
    return topic.encoding != "json"


def _decode_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}") from error


def _decode_json_quickly(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # or it is what only the standard library takes: NaN, UTF-16, half characters
        return _decode_json(data)


@lru_cache(maxsize=1024)
def protobuf_parser(topic: Topic) -> Callable[[bytes], ProtobufMessage]:
    """What makes messages of a protobuf topic's bytes; `MessageError` where the topic tells no usable type."""
    schema = Schema(id=1, name=topic.schema_name, encoding="protobuf", data=topic.schema_data)
    try:
        return DecoderFactory().decoder_for("protobuf", schema)  # type: ignore[no-any-return]
    except (McapError, DecodeError, TypeError, KeyError) as error:
        raise MessageError(f"{topic.name}: no usable schema {topic.schema_name!r}: {error}") from error


def _protobuf(topic: Topic, *, typed_arrays: bool = True, wanted: frozenset[str] | None = None) -> Decode:
    parse, plain = protobuf_parser(topic), PlainProtobuf(typed_arrays=typed_arrays, wanted=wanted)

    def decode(data: bytes) -> Any:
        try:
            return plain(parse(data))
        except DecodeError as error:
            raise MessageError(f"not {topic.schema_name}: {error}") from error

    return decode


def _ros2(topic: Topic) -> Decode:
    store = get_typestore(Stores.EMPTY)
    name = _rosbags_name(topic.schema_name)
    try:
        store.register(_ros2_types(topic))
    except (TypesysError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise MessageError(f"{topic.name}: no usable schema {topic.schema_name!r}: {error}") from error

    def decode(data: bytes) -> Any:
        try:
            return _plain_ros2(store.deserialize_cdr(data, name), store)
        except _CDR_ERRORS as error:
            raise MessageError(f"not {topic.schema_name}: {type(error).__name__}: {error}") from error

    return decode


# what the generated readers raise on bytes that are not of the type
_CDR_ERRORS = (SerdeError, TypesysError, LookupError, ValueError, AssertionError, struct.error, MemoryError)


def _ros2_types(topic: Topic) -> dict[str, Any]:
    text = topic.schema_data.decode()
    if topic.schema_encoding == "ros2idl":
        return dict(get_types_from_idl(text))
    event = _SERVICE_EVENT.fullmatch(topic.schema_name)
    if event and "\n---" in text:
        return _service_event_types(event["package"], event["name"], text)
    return dict(get_types_from_msg(text, topic.schema_name))


def _service_event_types(package: str, name: str, text: str) -> dict[str, Any]:
    """The recorder writes a service's definition where the schema of its introspection event should be.

    The event's own definition: https://design.ros2.org/articles/interface_definition.html and service_msgs.
    """
    text, *dependencies = re.split(r"^={80}\n", text, flags=re.MULTILINE)
    request, response = re.split(r"^---\s*$", text, maxsplit=1, flags=re.MULTILINE)
    service = f"{package}/srv/{name}"
    event = f"service_msgs/ServiceEventInfo info\n{service}_Request[<=1] request\n{service}_Response[<=1] response\n"
    parts = {
        f"{service}_Request": request,
        f"{service}_Response": response,
        f"{service}_Event": event,
        "service_msgs/msg/ServiceEventInfo": _SERVICE_EVENT_INFO,
        "builtin_interfaces/msg/Time": _TIME,
    }
    for dependency in dependencies:
        head, _, body = dependency.partition("\n")
        parts[head.removeprefix("MSG:").strip()] = body
    types: dict[str, Any] = {}
    for part, definition in parts.items():
        types |= get_types_from_msg(definition, part)
    return types


def _rosbags_name(name: str) -> str:
    """rosbags files every type under `msg`: `package/srv/Name` is `package/srv/msg/Name`."""
    folder, _, last = name.rpartition("/")
    return name if folder.endswith(("/msg", "/action")) else f"{folder}/msg/{last}"


def _plain_ros2(value: Any, store: Any) -> Any:
    """Fields only, not the type's constants."""
    if isinstance(value, list):
        return [_plain_ros2(item, store) for item in value]
    type_name = getattr(value, "__msgtype__", None)
    if type_name is None:
        return value
    return {name: _plain_ros2(getattr(value, name), store) for name, _ in store.get_msgdef(type_name).fields}
