"""Every message encoding becomes plain values, or says why not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from foxglove_schemas_protobuf.Log_pb2 import Log
from foxglove_schemas_protobuf.PackedElementField_pb2 import PackedElementField
from foxglove_schemas_protobuf.PointCloud_pb2 import PointCloud
from mcap.reader import make_reader
from mcap_protobuf.schema import build_file_descriptor_set
from rosbags.typesys import Stores, get_typestore

from edge.segment import Topic, read_messages
from ray_jobs.errors import MessageError
from ray_jobs.messages import decoder, quick_decoder


def protobuf_topic(kind: type) -> Topic:
    data = build_file_descriptor_set(kind).SerializeToString()
    return Topic("/p", "protobuf", kind.DESCRIPTOR.full_name, "protobuf", data)


def test_json_is_what_it_is() -> None:
    assert decoder(Topic("/j", "json"))(b'{"a": [1, null]}') == {"a": [1, None]}


def test_protobuf_has_every_field_of_its_type() -> None:
    log = Log(message="hot", level=3, line=7)
    log.timestamp.seconds = 5
    found = decoder(protobuf_topic(Log))(log.SerializeToString())
    assert found["timestamp"] == {"seconds": 5, "nanos": 0}
    assert (found["message"], found["level"], found["file"]) == ("hot", 3, "")
    cloud = PointCloud(data=b"\1\2", fields=[PackedElementField(name="x", type=7)])
    found = decoder(protobuf_topic(PointCloud))(cloud.SerializeToString())
    assert (found["data"], found["pose"], found["fields"][0]["name"]) == (b"\1\2", None, "x")


def test_only_wanted_fields_are_read_where_the_type_has_them_all() -> None:
    topic, cloud = protobuf_topic(PointCloud), PointCloud(data=b"\1", fields=[PackedElementField(name="x", type=7)])
    cloud.pose.position.x = 0.5
    whole = quick_decoder(topic)(cloud.SerializeToString())
    some = quick_decoder(topic, frozenset({"pose", "fields"}))(cloud.SerializeToString())
    assert some == {"pose": whole["pose"], "fields": [{"name": "x", "offset": 0, "type": 7}]}
    assert some["pose"]["position"] == {"x": 0.5, "y": 0.0, "z": 0.0}
    assert quick_decoder(topic, frozenset({"pose", "colour"}))(cloud.SerializeToString()) == whole
    assert quick_decoder(topic, frozenset())(cloud.SerializeToString()) == whole


def test_ros2_types_are_read_from_the_schema_without_their_constants() -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](1, 2), "base")
    joints = store.types["sensor_msgs/msg/JointState"](
        header, ["a"], np.array([1.5]), np.array([], np.float64), np.array([], np.float64)
    )
    text = store.generate_msgdef("sensor_msgs/msg/JointState", ros_version=2)[0]
    topic = Topic("/joint_states", "cdr", "sensor_msgs/msg/JointState", "ros2msg", text.encode())
    found = decoder(topic)(bytes(store.serialize_cdr(joints, "sensor_msgs/msg/JointState")))
    assert found["header"] == {"stamp": {"sec": 1, "nanosec": 2}, "frame_id": "base"}
    assert (found["name"], found["position"].tolist(), found["velocity"].dtype) == (["a"], [1.5], np.float64)


@pytest.mark.parametrize(
    "topic",
    [
        Topic("/x", "flatbuffer", "X", "flatbuffer", b""),
        Topic("/x", "protobuf", "X", "protobuf", b"\xff\xff"),
        Topic("/x", "cdr", "a/msg/X", "ros2msg", b"no such thing here"),
        Topic("/x", "cdr", "a/msg/X", "ros2idl", b"module {"),
        Topic("/x", "cdr", "a/msg/X", "ros2msg", b"b/Missing field"),
        Topic("/x", "json"),
    ],
)
def test_what_cannot_be_decoded_is_one_kind_of_error(topic: Topic) -> None:
    with pytest.raises(MessageError):
        decoder(topic)(b"\x00\x01\x00\x00\xff\xff\xff\xff")


def test_every_message_of_the_real_bags_decodes(real_data: Path) -> None:
    for bag in sorted((real_data / "rosbag2").glob("*.mcap")):
        with bag.open("rb") as file:
            found = Counter(m.topic.name for m in read_messages(file) if decoder(m.topic)(m.data) is not None)
            file.seek(0)
            summary = make_reader(file).get_summary()
        assert summary
        assert summary.statistics
        assert found.total() == summary.statistics.message_count
