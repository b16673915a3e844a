"""Fragmented MP4 as bytes: the initialization section of one video track, and its fragments (ISO/IEC 14496-12).

Times are ticks of a microsecond. The same arguments give the same bytes; no library's version is in them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dataset_catalog.errors import DecodeError

TIMESCALE = 1_000_000
MAX_DESCRIPTION = 64 << 10
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SYNC, _DEPENDS = 0x02000000, 0x01010000  # a sample that needs no other; one that does
_TRUN = 0xF01  # data offset; of each sample duration, size, flags, composition offset
_VISUAL_ENTRY = 78  # bytes of a visual sample entry before the boxes in it
_DEFAULT_BASE_IS_MOOF = 0x020000


@dataclass(frozen=True, slots=True)
class Sample:
    """One coded picture. `dts`, `pts`, `duration` in ticks."""

    dts: int
    pts: int
    duration: int
    keyframe: bool
    data: bytes


def initialization(stsd: bytes, *, width: int, height: int, duration: int, delay: int) -> bytes:
    """`ftyp` and `moov`. `duration` 0: not known; `delay`: by how much every composition time is late (reordering)."""
    track = _box(b"trak", _tkhd(width, height), _edits(delay), _mdia(stsd))
    extends = _box(b"mvex", _full(b"mehd", 1, 0, struct.pack(">Q", duration)) if duration else b"", _trex())
    movie = _full(b"mvhd", 0, 0, struct.pack(">5I", 0, 0, TIMESCALE, 0, 0x10000), _volume(), _MATRIX, bytes(24), _id(2))
    brands = _box(b"ftyp", b"iso6", struct.pack(">I", 512), b"iso6cmfcmp41")
    return brands + _box(b"moov", movie, track, extends)


def fragment(number: int, samples: Sequence[Sample], *, delay: int) -> Iterator[bytes]:
    """`moof` and `mdat` of samples in decoding order, piece by piece; `number` counts from 1."""
    size = len(_moof(number, samples, 0, delay))
    yield _moof(number, samples, size + 8, delay)
    yield struct.pack(">I4s", 8 + sum(len(sample.data) for sample in samples), b"mdat")
    for sample in samples:
        yield sample.data


def sample_description(kind: bytes, configuration: bytes, *, width: int, height: int) -> bytes:
    """An `stsd` box with one entry, such as `avc1`, whose last box is its decoder configuration."""
    entry = bytes(6) + struct.pack(">H16xHHIIIH32xHh", 1, width, height, 0x480000, 0x480000, 0, 1, 0x18, -1)
    return _full(b"stsd", 0, 0, struct.pack(">I", 1), _box(kind, entry, configuration))


def configuration_box(kind: bytes, payload: bytes) -> bytes:
    return _box(kind, payload)


def find_sample_description(mp4: bytes) -> bytes:
    """The `stsd` box of the first video track of an MP4 file, but for the bit rate, which is one file's own.

    Raises `DecodeError` if there is none, or it describes several encodings.
    """
    for trak in _find(memoryview(mp4), (b"moov", b"trak")):
        handler = b"".join(bytes(hdlr[8:12]) for hdlr in _find(trak, (b"mdia", b"hdlr")))
        if handler == b"vide":
            for payload in _find(trak, (b"mdia", b"minf", b"stbl", b"stsd")):
                if len(payload) > MAX_DESCRIPTION:
                    raise DecodeError(f"the mp4 describes its track in {len(payload)} bytes")
                return _box(b"stsd", payload[:8], _without_bit_rate(payload[8:]))
    raise DecodeError("the mp4 describes no video track")


def _without_bit_rate(entries: memoryview) -> bytes:
    found = list(_boxes(entries))
    if len(found) != 1:
        raise DecodeError(f"the mp4 describes {len(found)} encodings in one track, expected 1")
    ((kind, entry),) = found
    boxes = [_box(name, payload) for name, payload in _boxes(entry[_VISUAL_ENTRY:]) if name != b"btrt"]
    return _box(kind, entry[:_VISUAL_ENTRY], *boxes)


def _find(data: memoryview, path: Sequence[bytes]) -> Iterator[memoryview]:
    """The payloads of all boxes at a path."""
    for kind, payload in _boxes(data):
        if kind == path[0]:
            yield from _find(payload, path[1:]) if len(path) > 1 else (payload,)


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1 and at + 16 <= len(data):
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        size = size or len(data) - at  # 0: to the end
        if size < head:
            return
        yield kind, data[at + head : at + size]
        at += size


def _box(kind: bytes, *parts: bytes | memoryview) -> bytes:
    payload = b"".join(parts)
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _volume() -> bytes:
    return bytes(12)  # a picture makes no sound; then ten reserved


def _id(number: int) -> bytes:
    return struct.pack(">I", number)


def _tkhd(width: int, height: int) -> bytes:
    return _full(
        b"tkhd", 0, 3, struct.pack(">5I16x", 0, 0, 1, 0, 0), _MATRIX, struct.pack(">II", width << 16, height << 16)
    )


def _edits(delay: int) -> bytes:
    """The edit that takes the delay away again: what is presented first is presented at 0."""
    if not delay:
        return b""
    return _box(b"edts", _full(b"elst", 1, 0, struct.pack(">IQqI", 1, 0, delay, 0x10000)))


def _mdia(stsd: bytes) -> bytes:
    head = _full(b"mdhd", 0, 0, struct.pack(">4IHH", 0, 0, TIMESCALE, 0, 0x55C4, 0))
    handler = _full(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"vide"), b"video\0")
    where = _box(b"dinf", _full(b"dref", 0, 0, _id(1), _full(b"url ", 0, 1)))
    empty = [_full(kind, 0, 0, bytes(size)) for kind, size in ((b"stts", 4), (b"stsc", 4), (b"stsz", 8), (b"stco", 4))]
    picture = _full(b"vmhd", 0, 1, bytes(8))
    return _box(b"mdia", head, handler, _box(b"minf", picture, where, _box(b"stbl", stsd, *empty)))


def _trex() -> bytes:
    return _full(b"trex", 0, 0, struct.pack(">5I", 1, 1, 0, 0, 0))


def _moof(number: int, samples: Sequence[Sample], data_offset: int, delay: int) -> bytes:
    rows = b"".join(
        struct.pack(">IIIi", s.duration, len(s.data), _SYNC if s.keyframe else _DEPENDS, s.pts + delay - s.dts)
        for s in samples
    )
    track = _full(b"tfhd", 0, _DEFAULT_BASE_IS_MOOF, _id(1))
    begins = _full(b"tfdt", 1, 0, struct.pack(">Q", samples[0].dts))
    run = _full(b"trun", 1, _TRUN, struct.pack(">Ii", len(samples), data_offset), rows)
    return _box(b"moof", _full(b"mfhd", 0, 0, _id(number)), _box(b"traf", track, begins, run))
