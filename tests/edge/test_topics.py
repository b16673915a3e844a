"""How a message of the robot's program becomes bytes of a topic."""

from __future__ import annotations

import json
import math
from collections import UserDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from foxglove_schemas_protobuf.Pose_pb2 import Pose
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st

from edge import topics
from edge.errors import BadName
from edge.records import Topic

START_NS = 1_760_000_000_123_456_789
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
)


def _json(message: Mapping[str, Any]) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(topics.encode_json(message), parse_constant=refuse)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), values, max_size=5))
def test_any_json_value_comes_back_with_null_for_what_json_cannot_hold(message: dict[str, Any]) -> None:
    assert _json(message) == _without_nan(message)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([[1.5, 2.0]], np.float32), [[1.5, 2.0]]),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([1.0, np.nan, np.inf, -np.inf]), [1.0, None, None, None]),
        (np.float32("nan"), None),
        (np.float64("nan"), None),
        (math.nan, None),
        ((1, (2, math.inf)), [1, [2, None]]),
        ({"a": {"b": [np.array([np.nan])]}}, {"a": {"b": [[None]]}}),
        (np.array([], np.float32), []),
        (UserDict(a=1), {"a": 1}),
        (MappingProxyType({"a": math.nan}), {"a": None}),
    ],
)
def test_numpy_and_nan_become_plain_json(value: Any, expected: Any) -> None:
    assert _json({"v": value}) == {"v": expected}


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_float32_values_survive_exactly(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    assert np.array_equal(np.array(_json({"v": array})["v"], np.float32), array)


@pytest.mark.parametrize("message", [{"v": b"x"}, {"v": object()}, {"v": {1, 2}}, {"v": b"x", "n": math.nan}])
def test_what_json_cannot_hold_at_all_is_a_type_error(message: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="JSON"):
        topics.encode_json(message)


def test_characters_that_utf8_cannot_hold_cost_no_message() -> None:
    assert _json({"message": "cannot open \udcff.bag", "n": 1}) == {"message": "cannot open ?.bag", "n": 1}
    assert _json({"\udcff": [math.nan, "\ud800"]}) == {"?": [None, "?"]}


@pytest.mark.parametrize("name", ["", "/\udcff", None, 5, b"/t"])
@pytest.mark.parametrize("message", [{}, Pose()])
def test_a_name_that_a_topic_cannot_have_is_refused(name: Any, message: Any) -> None:
    for _ in range(2):
        with pytest.raises(BadName, match="a topic's name must be text"):
            topics.encode(name, message)


def test_a_mapping_that_is_no_dict_is_a_message() -> None:
    assert _json(MappingProxyType({"a": 1})) == {"a": 1}


def test_a_mapping_becomes_compact_json_without_a_schema() -> None:
    topic, data = topics.encode("/t", {"name": "Größe", "v": [1, 2]})
    assert (topic.name, topic.encoding, topic.schema_name) == ("/t", "json", "")
    assert data == '{"name":"Größe","v":[1,2]}'.encode()


def test_a_protobuf_message_stays_protobuf_and_carries_its_schema() -> None:
    pose = Pose()
    pose.position.x = 1.25
    topic, data = topics.encode("/pose", pose)
    assert (topic.encoding, topic.schema_encoding, topic.schema_name) == ("protobuf", "protobuf", "foxglove.Pose")
    assert Pose.FromString(data) == pose
    files = FileDescriptorSet.FromString(topic.schema_data).file
    assert {"Pose", "Vector3", "Quaternion"} <= {one.name for file in files for one in file.message_type}


def test_the_same_sort_of_message_gives_the_same_topic() -> None:
    assert topics.encode("/pose", Pose())[0] == topics.encode("/pose", Pose())[0]
    assert topics.encode("/pose", Pose())[0] != topics.encode("/other", Pose())[0]
    assert topics.encode("/pose", Pose())[0] != topics.encode("/pose", CompressedVideo())[0]


def test_a_video_message_holds_its_frame_and_time_to_the_nanosecond() -> None:
    message = CompressedVideo.FromString(topics.video_message(START_NS, b"\0\0\1x", stream="head"))
    assert (message.frame_id, message.format, message.data) == ("head", "h264", b"\0\0\1x")
    assert message.timestamp.seconds * 10**9 + message.timestamp.nanos == START_NS


OURS = [
    topics.LOG,
    topics.EPISODE,
    topics.RECORDING_OPENED,
    topics.RECORDING_CLOSED,
    topics.DROPPED,
    topics.STATUS,
]


@pytest.mark.parametrize("topic", OURS)
def test_our_own_topics_carry_a_json_schema(topic: Topic) -> None:
    assert json.loads(topic.schema_data)["type"] == "object"
    assert topic.schema_encoding == "jsonschema"
