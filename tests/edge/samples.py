"""Topics and messages for the tests of journals and segments, and a journal that needs no disk."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hypothesis import strategies as st

from edge.disk import Disk
from edge.journal import JournalWriter
from edge.records import Topic, message_record
from edge.segment import Message

START_NS = 1_760_000_000_000_000_000
NAME = "01J00000000000000000000000/telemetry/0000000007"
TOPICS = [
    Topic("/a", "json"),
    Topic("/b", "protobuf", "x.Y", "protobuf", b"\0schema"),
    Topic("/a", "json", "S", "jsonschema", b"{}"),
    Topic("/a", "json", "S", "jsonschema", b'{"type":"object"}'),
    Topic("/ü", "cdr", "std_msgs/msg/String", "ros2msg", b"string data"),
]
TIMES_NS = st.integers(0, 2**63 - 2)
message = st.builds(
    Message, st.sampled_from(TOPICS), TIMES_NS, st.integers(0, 2**32 - 1), st.binary(max_size=2000), TIMES_NS
)


def some_messages(*, count: int, size: int, seed: int = 1) -> list[Message]:
    """Messages of about `size` random bytes; a new topic joins now and then. Capture and steady times differ."""
    dice = random.Random(seed)
    made = []
    for n in range(count):
        newest, since = divmod(n * len(TOPICS), count)
        topic = TOPICS[newest if since < len(TOPICS) else dice.randint(0, newest)]
        t_ns = START_NS + n * 1_000_000
        data = dice.randbytes(dice.randint(size // 2, size * 3 // 2))
        made.append(Message(topic, t_ns, n, data, t_ns + dice.randint(0, 500_000)))
    return made


@dataclass(frozen=True)
class SomeJournal:
    """The bytes of a journal, its message records, and where each lies.

    `frames[n]` is [start, end) of message n; `described[channel]` those of the two frames that describe a topic.
    """

    data: bytes
    records: list[bytes]
    frames: list[range]
    described: dict[int, list[range]]


def journal_of(messages: Sequence[Message], *, name: str = NAME) -> SomeJournal:
    """A journal as `StreamLog` writes it: a topic is described before its first message."""
    disk = MemoryDisk()
    writer = JournalWriter(disk, Path("j"), name=name)
    channels: dict[Topic, int] = {}
    records, frames, described = [], [], {}
    for one in messages:
        if one.topic not in channels:
            channels[one.topic] = len(channels) + 1
            start = writer.size
            writer.describe(channels[one.topic], one.topic)
            middle = (start + writer.size) // 2
            described[channels[one.topic]] = [range(start, middle), range(middle, writer.size)]
        publish_ns = one.t_ns if one.publish_ns is None else one.publish_ns
        records.append(message_record(channels[one.topic], one.sequence, one.t_ns, publish_ns, one.data))
        start = writer.size
        writer.add(records[-1])
        frames.append(range(start, writer.size))
    writer.sync()
    return SomeJournal(disk.file.getvalue(), records, frames, described)


class MemoryDisk(Disk):
    """One file, in memory."""

    def __init__(self) -> None:
        self.file = io.BytesIO()

    def create(self, path: Path, *, mode: int = 0o644) -> IO[bytes]:
        return self.file

    def sync(self, file: IO[bytes]) -> None:
        """There is nothing below it."""

    def sync_folder(self, folder: Path) -> None:
        """Nor a folder."""
