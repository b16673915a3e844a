"""What the benchmark's robots recorded: video of a room, joint states as JSON and as protobuf, labels.

A camera's pictures are those of `scene.py` under more grain, encoded as the recorder does by default: closed GOPs of
ten, about 2.5 Mbit/s at 640×480 and 20 fps. A clip is encoded once and used under other capture times.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks.camera import FPS, HEIGHT, WIDTH, read_pictures
from benchmarks.readings import joint_states
from benchmarks.scene import write_pictures
from edge.segment import Message, Topic, build
from edge.settings import EdgeSettings
from edge.topics import EPISODE, RECORDING_CLOSED, encode, video_message, video_topic
from edge.video import Packet, VideoEncoder

CAMERA = "head_camera"
STATES, COMMANDS = "/joint_states", "/joint_commands"  # JSON, protobuf
HZ = 20
TICK_NS = 1_000_000_000 // HZ
START_NS = 1_760_000_000_000_000_000
GRAIN = 4.0  # standard deviation of a pixel beside the scene's own
_SHIFT = 64

Clip = list[Packet]


class Built(NamedTuple):
    """A sealed segment, and how many messages are in it."""

    body: bytes
    messages: int


def film(folder: Path, *, clips: int, frames: int) -> list[Clip]:
    """Clips of so many pictures, each of another part of the loop and under other grain; times begin at 0."""
    path = folder / "pictures"
    write_pictures(path)
    pictures, numbers = read_pictures(path), np.random.default_rng(3)
    grain = numbers.normal(0, GRAIN, (HEIGHT + _SHIFT, WIDTH + _SHIFT, 3)).astype(np.int16)
    seen = (_under(grain, picture, numbers) for picture in pictures)
    return [encode_clip(islice(seen, frames), fps=FPS) for _ in range(clips)]


def _under(grain: Any, picture: Any, numbers: np.random.Generator) -> Any:
    y, x = numbers.integers(0, _SHIFT, 2)
    return np.clip(picture + grain[y : y + HEIGHT, x : x + WIDTH], 0, 255).astype(np.uint8)


def encode_clip(pictures: Iterable[Any], *, fps: float) -> Clip:
    """RGB pictures of 640×480 as the recorder encodes them by default."""
    edge = EdgeSettings()
    encoder = VideoEncoder(
        width=WIDTH, height=HEIGHT, gop_frames=edge.gop_frames, crf=edge.crf, max_bit_rate=edge.max_bit_rate, fps=fps
    )
    step_ns = 1e9 / fps
    return [
        encoder.encode(round(number * step_ns), picture, color="rgb", keyframe=False)
        for number, picture in enumerate(pictures)
    ]


def video_segment(clip: Sequence[Packet], start_ns: int, *, stream: str = CAMERA) -> Built:
    """A clip as the recorder seals it, from `start_ns` on."""
    topic = video_topic(stream)
    return sealed(
        Message(topic, start_ns + one.t_ns, number, video_message(start_ns + one.t_ns, one.data, stream=stream))
        for number, one in enumerate(clip)
    )


@dataclass(frozen=True)
class Telemetry:
    """Messages as a control loop logs them, encoded: (topic, bytes) of each tick, round and round."""

    ticks: Sequence[Sequence[tuple[Topic, bytes]]]

    @classmethod
    def make(cls) -> Telemetry:
        """4,000 ticks that differ in every number."""
        readings, commands = joint_states(seed=1), joint_states(seed=2)
        kind = _commands_type()
        return cls(
            [
                (encode(STATES, one), encode(COMMANDS, _as_protobuf(kind, number, other)))
                for number, (one, other) in enumerate(zip(readings, commands, strict=True))
            ]
        )

    def segment(self, first_tick: int, ticks: int, start_ns: int) -> Built:
        """So many ticks of the loop as the recorder seals them; `first_tick` numbers the messages of the topics."""
        return sealed(
            Message(topic, start_ns + number * TICK_NS, first_tick + number, data)
            for number in range(ticks)
            for topic, data in self.ticks[(first_tick + number) % len(self.ticks)]
        )


def events_segment(episode_id: str, start_ns: int, end_ns: int) -> Built:
    """The labels of one episode."""
    label = {"episode_id": episode_id, "task": "tidy the shelf", "success": True, "notes": None}
    words = [(start_ns, {**label, "event": "start"}), (end_ns, {**label, "event": "end"})]
    return sealed(Message(EPISODE, t_ns, n, json.dumps(word).encode()) for n, (t_ns, word) in enumerate(words))


def closing_segment(last_seq: dict[str, int], t_ns: int) -> Built:
    """A recording's last word."""
    return sealed([Message(RECORDING_CLOSED, t_ns, 0, json.dumps({"last_seq": last_seq}).encode())])


def sealed(messages: Iterable[Message]) -> Built:
    """A segment of at least one message."""
    built = build(messages)
    if built is None:
        raise ValueError("a segment without a message")
    facts, body = built
    return Built(body, sum(facts.counts.values()))


def _commands_type() -> Any:
    """A robot's own protobuf message: scalars, repeated numbers, and one message in another."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="joint_commands.proto", package="robot", syntax="proto3")
    header = file.message_type.add(name="Header")
    header.field.add(name="frame_id", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    header.field.add(name="counter", number=2, type=field.TYPE_UINT64, label=field.LABEL_OPTIONAL)
    commands = file.message_type.add(name="JointCommands")
    commands.field.add(
        name="header", number=1, type=field.TYPE_MESSAGE, type_name=".robot.Header", label=field.LABEL_OPTIONAL
    )
    commands.field.add(name="name", number=2, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    for number, name in enumerate(("position", "velocity", "effort", "stiffness", "damping"), 3):
        commands.field.add(name=name, number=number, type=field.TYPE_DOUBLE, label=field.LABEL_REPEATED)
    commands.field.add(name="mode", number=8, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("robot.JointCommands"))


def _as_protobuf(kind: Any, counter: int, reading: dict[str, Any]) -> Any:
    numbers = {name: reading[name] for name in ("name", "position", "velocity", "effort")}
    more = {"stiffness": reading["effort"], "damping": reading["velocity"]}
    return kind(header={"frame_id": reading["frame_id"], "counter": counter}, **numbers, **more, mode=3)
