"""Devices whose segments reach the bucket in any order: twice, late, damaged, never, or as a gap record in their place.

A device numbers its readings from 0. What has become of each segment is drawn from a seed, and known.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dataset_catalog.storage import Storage
from edge.segment import Message, Topic, build
from edge.wire import GAP_TYPE, MCAP_TYPE, Gap, SegmentId
from ingest_serve.raw_store import AlreadyStored, RawObject, RawStore, Stored

Fate = Literal["sound", "twice", "late", "damaged", "never", "gap", "in a gap"]
RECORDING = "01JAAAAAAAAAAAAAAAAAAAAAAA"
STREAM, TOPIC = "telemetry", "/readings"
READINGS = 5  # of a segment
T0, S = 1_760_000_000_000_000_000, 1_000_000_000
_AT_ONCE = 16  # uploads
_WEIGHTS: dict[Fate, int] = {"sound": 60, "twice": 10, "late": 8, "damaged": 6, "never": 3, "gap": 6, "in a gap": 4}


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a device. `gap`: the range of the gap record that its seq lies in, if any."""

    robot: str
    seq: int
    fate: Fate
    gap: tuple[int, int] | None = None

    @property
    def name(self) -> SegmentId:
        return SegmentId(self.robot, RECORDING, STREAM, self.seq)

    @property
    def numbers(self) -> range:
        """Of its readings."""
        return range(self.seq * READINGS, (self.seq + 1) * READINGS)

    @property
    def start_ns(self) -> int:
        return T0 + self.seq * S

    def body(self) -> bytes:
        if self.fate == "damaged":
            return f"no MCAP: {self.name.key}".encode()
        step = S // READINGS
        built = build(
            Message(Topic(TOPIC, "json"), T0 + number * step, number, json.dumps({"number": number}).encode())
            for number in self.numbers
        )
        assert built
        return built[1]


@dataclass(frozen=True, slots=True)
class Device:
    """All that one robot recorded, in the order in which it did."""

    segments: tuple[Segment, ...]

    @property
    def robot(self) -> str:
        return self.segments[0].robot

    def reach(self, *, late: bool) -> int:
        """How many of its segments lie before its first hole. `late`: whether what is late has come."""
        absent = ("never",) if late else ("never", "late")
        return next((one.seq for one in self.segments if one.fate in absent), len(self.segments))


def devices(count: int, *, segments: int, seed: int) -> list[Device]:
    rng = random.Random(seed)
    return [Device(tuple(_draw(f"robo-{number:03d}", segments, rng))) for number in range(count)]


def _draw(robot: str, count: int, rng: random.Random) -> Iterator[Segment]:
    """A gap covers one to four seqs; its record stands at the first, and a stored segment may lie within."""
    seq = 0
    while seq < count:
        (fate,) = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        if fate not in ("gap", "in a gap"):
            is_last = seq == count - 1  # of a segment that nothing follows, nobody can know that it is missing
            yield Segment(robot, seq, "sound" if is_last and fate == "never" else fate)
            seq += 1
            continue
        last = min(seq + rng.randint(1, 4), count) - 1
        stored = rng.randint(seq + 1, last) if fate == "in a gap" and last > seq else -1
        for one in range(seq, last + 1):
            yield Segment(robot, one, "in a gap" if one == stored else "gap", (seq, last))
        seq = last + 1


def upload(storage: Storage, fleet: Sequence[Device], *, late: bool, seed: int) -> None:
    """Everything that comes at first, or all that is late, in an order that has nothing to do with the devices'."""
    wanted = [one for device in fleet for one in device.segments if (one.fate == "late") == late]
    requests = [(one, raw, body) for one in wanted for raw, body in _requests(one)]
    random.Random(seed).shuffle(requests)
    asyncio.run(_put_all(RawStore.open(storage), requests))


def _requests(one: Segment) -> Iterator[tuple[RawObject, bytes]]:
    if one.gap and one.seq == one.gap[0]:
        yield _object(one.name, _gap_record(one.gap), GAP_TYPE)
    elif one.fate not in ("gap", "never"):
        for _ in range(2 if one.fate == "twice" else 1):
            yield _object(one.name, one.body(), MCAP_TYPE)


def _object(name: SegmentId, body: bytes, content_type: str) -> tuple[RawObject, bytes]:
    start_ns = T0 + name.seq * S
    digest = hashlib.sha256(body).hexdigest()
    return RawObject(name, "telemetry", content_type, len(body), digest, start_ns, start_ns + S, None, "test", 1), body


def _gap_record(seqs: tuple[int, int]) -> bytes:
    first, last = seqs
    counts = {TOPIC: READINGS * (last + 1 - first)}
    return Gap(first, last, T0 + first * S, T0 + (last + 1) * S, "evicted", "the disk is full", 1, counts).as_bytes()


async def _put_all(store: RawStore, requests: Iterable[tuple[Segment, RawObject, bytes]]) -> None:
    room = asyncio.Semaphore(_AT_ONCE)

    async def put(raw: RawObject, body: bytes) -> Stored | AlreadyStored:
        async with room:
            answer = await store.put_once(raw, body)
        assert isinstance(answer, Stored | AlreadyStored), answer
        return answer

    answers = await asyncio.gather(*(put(raw, body) for _, raw, body in requests))
    assert sum(isinstance(answer, Stored) for answer in answers) == len({raw.key for _, raw, _ in requests})
