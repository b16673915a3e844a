"""MCAP bodies: sound video and telemetry, and ones made by hand to hurt whoever reads them (https://mcap.dev/spec)."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from functools import cache

import lz4.frame
import numpy as np
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import Channel, DataEnd, Footer, Header, Statistics
from mcap.records import Message as McapMessage

from edge.chunks import MAGIC
from edge.segment import Message, Topic, build
from edge.topics import video_message, video_topic
from edge.video import Packet, VideoEncoder
from tests.faults.bits import Bits
from tests.ray_jobs.conftest import pictures, video

T_NS = 1_760_000_000_000_000_000
CAMERA = "head_camera"
_GIB = 1 << 30


@cache
def film(*, frames: int = 25, gop: int = 10) -> tuple[Packet, ...]:
    return tuple(pictures(T_NS, frames, gop=gop))


def sound_video() -> bytes:
    return video(CAMERA, list(film()))


def sound_telemetry(messages: int = 200) -> bytes:
    words = [json.dumps({"position": [n, n / 2], "name": "left"}).encode() for n in range(messages)]
    return _built(Message(Topic("/joint_states", "json"), T_NS + n, n, word) for n, word in enumerate(words))


def altered(packets: Iterable[tuple[int, bytes]]) -> bytes:
    """A file that is whole, with all checksums right, around pictures that may not be."""
    topic = video_topic(CAMERA)
    return _built(
        Message(topic, t_ns, number, video_message(t_ns, data, stream=CAMERA))
        for number, (t_ns, data) in enumerate(packets)
    )


def _built(messages: Iterable[Message]) -> bytes:
    built = build(messages)
    assert built
    return built[1]


def videos_by_hand() -> dict[str, bytes]:
    """Name → video body, none of which can be taken."""
    times, pictures_ = [packet.t_ns for packet in film()], [packet.data for packet in film()]
    small, large = film(), pictures_of_another_size()
    return {
        "65536 pixels square": altered(zip(times, _enlarged(pictures_, across=4096), strict=True)),
        "another size in mid-stream": altered(
            [(p.t_ns, p.data) for p in small] + [(p.t_ns + 10**10, p.data) for p in large]
        ),
        "empty pictures": altered((t_ns, b"") for t_ns in times),
        "start codes and nothing else": altered([(T_NS, b"\0\0\1" * 100_000)]),
        "no pictures, only telemetry": sound_telemetry(),
        "times that stand still": altered((T_NS, data) for data in pictures_),
        "no keyframe": altered(list(zip(times, pictures_, strict=True))[1:]),
    }


def harmless_videos() -> dict[str, bytes]:
    """Name → video body with something in it that a decoder passes over."""
    first = film()[0].data
    return {
        "a second slice of zeros": altered([(T_NS, first + b"\0\0\1\x65" + bytes(1 << 20))]),
        "a megabyte of a user's data": altered([(T_NS, b"\0\0\1\x06\x05" + b"\xff" * (1 << 20) + first)]),
    }


def pictures_of_another_size() -> list[Packet]:
    encoder = VideoEncoder(width=96, height=64, gop_frames=10, crf=20, max_bit_rate=4_000_000)
    gray = np.full((64, 96, 3), 90, np.uint8)
    return [encoder.encode(T_NS + n * 50_000_000, gray, color="rgb", keyframe=False) for n in range(10)]


def _enlarged(access_units: list[bytes], *, across: int) -> list[bytes]:
    """With a sequence parameter set before the first that states pictures of `across` macroblocks square."""
    bits = Bits()
    for value, width in ((66, 8), (0, 8), (62, 8)):  # baseline, no constraints, level 6.2
        bits.put(value, width)
    for code in (0, 0, 2, 1):  # its id, frame_num of 4 bits, order of decoding, one reference
        bits.ue(code)
    bits.put(0, 1)
    bits.ue(across - 1)
    bits.ue(across - 1)
    bits.put(0b1100, 4)  # frames only, 8x8 inference, no cropping, no VUI
    parameters = b"\0\0\0\1\x67" + bits.trailed()
    first = access_units[0]
    behind = first.index(b"\0\0\1", 4)  # its own set goes
    return [parameters + first[behind - (first[behind - 1] == 0) :], *access_units[1:]]


def telemetry_by_hand() -> dict[str, bytes]:
    """Name → telemetry body, none of which can be taken."""
    return {
        "a zstd bomb": _chunked("zstd", _zstd_zeros(), _GIB),
        "a zstd bomb that hides its size": _chunked("zstd", _zstd_zeros(), 1000),
        "a zstd frame of 2^62 bytes": _chunked("zstd", _zstd_claim(2**62), 2**62),
        "a lz4 bomb": _chunked("lz4", _lz4_zeros(), _GIB),
        "a lz4 bomb that hides its size": _chunked("lz4", _lz4_zeros(), 1000),
        "fifty bombs one after the other": _file(*[_chunk("zstd", _zstd_zeros(100 << 20), 100 << 20)] * 50),
        "a chunk of another compression": _chunked("xz", b"x" * 100, 100),
        "a record of 2^63 bytes": MAGIC + struct.pack("<BQ", Opcode.CHUNK, 2**63) + bytes(1000) + MAGIC,
        "a chunk inside a chunk, 50 deep": _nested(50),
        "a message of no channel": _file(_message(b"{}", channel=7)),
        "a time past the end of time": _file(_channel(), _message(b"{}", t_ns=2**64 - 1)),
        "a topic of a megabyte": _built([Message(Topic("/" + "x" * 60_000, "json"), T_NS, 0, b"{}")]),
        "a statistic of a billion messages": _file(
            _channel(),
            _message(b"{}"),
            _record(Statistics(0, 1, {1: 10**9}, 0, 10**9, T_NS, T_NS, 0, 0)),
        ),
        "zero messages": _file(_channel()),
        "nothing": b"",
        "only the magic": MAGIC + MAGIC,
        "magic for ever": MAGIC * 100_000,
    }


def harmless_telemetry() -> dict[str, bytes]:
    """Name → telemetry body that is read whole: its messages are strange, which is nobody's business yet."""
    nested = [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000]
    return {
        "JSON nested 100,000 deep": _built(Message(Topic("/a", "json"), T_NS + n, n, d) for n, d in enumerate(nested)),
        "no JSON": _built([Message(Topic("/a", "json"), T_NS, 0, b"\xff\x00")]),
        "an encoding of nobody": _built([Message(Topic("/a", "\u2603"), T_NS, 0, b"x")]),
        "an lz4 chunk": _lz4_chunk(),
    }


def heavy_videos() -> dict[str, bytes]:
    """Name → video body that takes seconds and all the memory it is given before it is refused."""
    times, data = zip(*((packet.t_ns, packet.data) for packet in film()), strict=True)
    return {
        "8192 pixels square": altered(zip(times, _enlarged(list(data), across=512), strict=True)),
        "ten million start codes": altered([(T_NS, b"\0\0\1" * 10_000_000)]),
    }


def heavy_telemetry() -> dict[str, bytes]:
    return {
        "two million empty messages": _empty_messages(2_000_000),
        "28 million empty records": _chunked("zstd", _zstd_zeros(250 << 20), 250 << 20),
    }


def _record(record: object) -> bytes:
    builder = RecordBuilder()
    record.write(builder)  # type: ignore[attr-defined]
    return bytes(builder.end())


def _message(data: bytes, *, channel: int = 1, t_ns: int = T_NS) -> bytes:
    return _record(McapMessage(channel_id=channel, log_time=t_ns, publish_time=t_ns, sequence=0, data=data))


def _channel() -> bytes:
    return _record(Channel(1, "/a", "json", {}, 0))


def _file(*records: bytes) -> bytes:
    head, tail = Header(profile="", library=""), Footer(0, 0, 0)
    return b"".join([MAGIC, _record(head), *records, _record(DataEnd(0)), _record(tail), MAGIC])


def _chunk(compression: str, packed: bytes, size: int, *, crc: int = 0) -> bytes:
    name = compression.encode()
    content = struct.pack("<QQQII", T_NS, T_NS, size, crc, len(name)) + name + struct.pack("<Q", len(packed)) + packed
    return struct.pack("<BQ", Opcode.CHUNK, len(content)) + content


def _chunked(compression: str, packed: bytes, size: int) -> bytes:
    return _file(_chunk(compression, packed, size))


def _lz4_chunk() -> bytes:
    inside = _channel() + _message(b"{}")
    return _file(_chunk("lz4", lz4.frame.compress(inside), len(inside), crc=zlib.crc32(inside)))


def _nested(depth: int) -> bytes:
    inside = _channel() + _message(b"{}")
    for _ in range(depth):
        inside = _chunk("zstd", zstandard.compress(inside), len(inside))
    return _file(inside)


def _empty_messages(count: int) -> bytes:
    inside = _channel() + _message(b"") * count
    return _file(_chunk("zstd", zstandard.compress(inside), len(inside)))


@cache
def _zstd_zeros(size: int = _GIB) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(bytes(size))


def _zstd_claim(size: int) -> bytes:
    """A frame's head alone (RFC 8878, 3.1.1): one segment, a content size of eight bytes, then a block of one byte."""
    return struct.pack("<IBQ", 0xFD2FB528, 0b11100000, size) + b"\x01\0\0"


@cache
def _lz4_zeros() -> bytes:
    """A gigabyte as frames of 64 MiB: no more than one of them is ever in memory here."""
    compressor = lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX4MB)
    zeros = bytes(64 << 20)
    return b"".join([compressor.begin(), *(compressor.compress(zeros) for _ in range(_GIB >> 26)), compressor.flush()])
