"""Bodies from hell: made by hand, and made of sound ones by a seed. Each says whether it may be taken."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from edge.wire import MCAP_TYPE, MP4_TYPE, Kind
from tests.faults import hostile_mcap, hostile_mp4

Verdict = Literal["ok", "quarantined", "either"]

_NUMBERS = (0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class Hostile:
    """One body to store. `may`: what its row's state has to be; `either`: ok only if every picture decodes."""

    name: str
    kind: Kind
    content_type: str
    body: bytes
    may: Verdict


def sound() -> Iterator[Hostile]:
    """What must be taken whatever lies beside it."""
    for name, body in hostile_mp4.sound().items():
        yield Hostile(f"sound {name}", "video", MP4_TYPE, body, "ok")
    yield Hostile("sound MCAP", "video", MCAP_TYPE, hostile_mcap.sound_video(), "ok")
    yield Hostile("sound telemetry", "telemetry", MCAP_TYPE, hostile_mcap.sound_telemetry(), "ok")


def by_hand(url: str, *, heavy: bool) -> Iterator[Hostile]:
    """`url`: a server that must not hear of any of it. `heavy`: also what takes its time."""
    for name, body in hostile_mp4.by_hand(url).items():
        yield Hostile(name, "video", MP4_TYPE, body, "quarantined")
    for name, body in hostile_mp4.harmless(url).items():
        yield Hostile(name, "video", MP4_TYPE, body, "ok")
    for name, body in hostile_mcap.videos_by_hand().items():
        yield Hostile(name, "video", MCAP_TYPE, body, "quarantined")
    for name, body in hostile_mcap.harmless_videos().items():
        yield Hostile(name, "video", MCAP_TYPE, body, "either")
    for name, body in hostile_mcap.telemetry_by_hand().items():
        yield Hostile(name, "telemetry", MCAP_TYPE, body, "quarantined")
    for name, body in hostile_mcap.harmless_telemetry().items():
        yield Hostile(name, "telemetry", MCAP_TYPE, body, "ok")
    yield Hostile("a page of HTML", "video", "text/html", b"<video>", "quarantined")
    yield Hostile("an mp4 as telemetry", "telemetry", MP4_TYPE, hostile_mp4.film(), "quarantined")
    yield Hostile("an mp4 that says MCAP", "video", MCAP_TYPE, hostile_mp4.film(), "quarantined")
    yield Hostile("an MCAP that says mp4", "video", MP4_TYPE, hostile_mcap.sound_video(), "quarantined")
    if heavy:
        for name, body in hostile_mcap.heavy_videos().items():
            yield Hostile(name, "video", MCAP_TYPE, body, "quarantined")
        for name, body in hostile_mcap.heavy_telemetry().items():
            yield Hostile(name, "telemetry", MCAP_TYPE, body, "quarantined")


def fuzzed(seed: int) -> Hostile:
    """A sound body, damaged once to three times; the same seed gives the same."""
    rng = random.Random(seed)
    if rng.random() < 0.2:
        return Hostile(f"fuzzed pictures {seed}", "video", MCAP_TYPE, _fuzzed_pictures(rng), "either")
    base = rng.choice(list(sound()))
    body = base.body
    for _ in range(rng.randint(1, 3)):
        body = rng.choice(_DAMAGES)(rng, body)
    return Hostile(f"fuzzed {seed}: {base.name}", base.kind, base.content_type, body, "either")


def _fuzzed_pictures(rng: random.Random) -> bytes:
    """A file with all its checksums right, around damaged pictures: the reader cannot help, the decoder must."""
    packets = [(packet.t_ns, packet.data) for packet in hostile_mcap.film()]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(packets))
        packets[at] = (packets[at][0], rng.choice(_DAMAGES)(rng, packets[at][1]))
    return hostile_mcap.altered(packets)


def _flip(rng: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.randint(1, 20) if body else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, body: bytes) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _swap(rng: random.Random, body: bytes) -> bytes:
    """Two neighbouring stretches change places."""
    a, b, c = sorted(rng.randrange(len(body) + 1) for _ in range(3))
    return body[:a] + body[b:c] + body[a:b] + body[c:]


def _drop(rng: random.Random, body: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(body) + 1) for _ in range(2))
    return body[:a] + body[min(b, a + 300) :]


def _repeat(rng: random.Random, body: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(body) + 1) for _ in range(2))
    return body[:b] + body[a:b] * rng.randint(1, 5) + body[b:]


def _absurd_number(rng: random.Random, body: bytes) -> bytes:
    """Four bytes somewhere become a number that is too small, too large or negative, of either byte order."""
    at = rng.randrange(max(len(body) - 4, 1))
    return body[:at] + rng.choice(_NUMBERS).to_bytes(4, rng.choice(("big", "little"))) + body[at + 4 :]


def _absurd_size(rng: random.Random, body: bytes) -> bytes:
    """The size of a box, or a number of a table right behind its name; of an MCAP any four bytes."""
    places = [start for start, _, _ in hostile_mp4.boxes(body)][:60] if body[4:8] == b"ftyp" else []
    if not places:
        return _absurd_number(rng, body)
    at = rng.choice(places) + rng.choice((0, 4, 8, 12, 16, 20, 24))
    return body[:at] + rng.choice(_NUMBERS).to_bytes(4, "big") + body[at + 4 :]


_DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _truncate, _swap, _drop, _repeat),
    *(_absurd_number, _absurd_size, _absurd_size),
)
