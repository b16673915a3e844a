"""MP4 bodies: sound ones of several kinds, and ones made by hand to hurt whoever reads them (ISO/IEC 14496-12)."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import av
import numpy as np

_FOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts", b"moof", b"traf", b"mvex")
_HEADER_BYTES = 8


@cache
def film(
    *,
    codec: str = "libx264",
    frames: int = 25,
    bframes: int = 0,
    gop: int = 10,
    options: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """A moving gray ramp of 64x48 at 30 fps; `options` of the muxer."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options=dict(options)) as container:
        stream: Any = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if codec == "libx264":
            stream.options = {"x264-params": f"keyint={gop}:bframes={bframes}:b-adapt=0:scenecut=0:log-level=0"}
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_picture(number), format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _picture(number: int) -> np.ndarray[Any, Any]:
    ramp = (np.arange(64) * 3 + number * 5) % 256
    return np.broadcast_to(ramp.astype(np.uint8)[None, :, None], (48, 64, 3)).copy()


def sound() -> dict[str, bytes]:
    """Name → a body of which every picture decodes."""
    fragmented = (("movflags", "frag_keyframe+empty_moov+default_base_moof"),)
    return {
        "plain": film(),
        "b-frames": film(bframes=2),
        "fragmented": film(options=fragmented),
        "mpeg4": film(codec="mpeg4"),
        "faststart": faststart(),
    }


@cache
def faststart() -> bytes:
    """`moov` before the pictures, as `-movflags faststart` puts it."""
    body = film()
    moov, media = _find(body, b"moov"), _find(body, b"ftyp") + len(_ftyp(body))
    head = body[moov:]
    at = _find(body, b"stco") - moov + 16
    count = int.from_bytes(head[at - 4 : at], "big")
    places = [place + len(head) for place in struct.unpack_from(f">{count}I", head, at)]
    head = head[:at] + struct.pack(f">{count}I", *places) + head[at + 4 * count :]
    return body[:media] + head + body[media:moov]


def _ftyp(body: bytes) -> bytes:
    start, _, stop = next(boxes(body))
    return body[start:stop]


def boxes(body: bytes, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes, int]]:
    """(where it begins, its name, where it ends) of every box of a sound body, the outer one first."""
    stop = len(body) if stop is None else stop
    while start + _HEADER_BYTES <= stop:
        size = int.from_bytes(body[start : start + 4], "big") or stop - start
        name = body[start + 4 : start + 8]
        yield start, name, start + size
        if name in _FOLDERS:
            yield from boxes(body, start + _HEADER_BYTES, start + size)
        start += max(size, _HEADER_BYTES)


def _find(body: bytes, name: bytes) -> int:
    return next(start for start, found, _ in boxes(body) if found == name)


def _patched(body: bytes, box: bytes, offset: int, value: int, *, size: int = 4) -> bytes:
    """With a big-endian number in place of what stands `offset` bytes behind a box's beginning."""
    at = _find(body, box) + offset
    return body[:at] + value.to_bytes(size, "big") + body[at + size :]


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + _HEADER_BYTES, name) + content


def _nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = _box(b"moov", content)
    return film()[: _find(film(), b"moov")] + content


def _with_reference(url: str) -> bytes:
    """The media lie elsewhere: an entry of `dref` without the flag "in this file", and the address."""
    body = film()  # its `moov` comes last: it may grow and no offset is wrong then
    at = _find(body, b"dref") + 16
    entry = _box(b"url ", b"\0\0\0\0" + url.encode() + b"\0")
    old = int.from_bytes(body[at : at + 4], "big")
    grown, changed = len(entry) - old, body[:at] + entry + body[at + old :]
    for start, name, stop in boxes(body):  # every box around it grows with it
        if name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref") and start < at < stop:
            changed = changed[:start] + (stop - start + grown).to_bytes(4, "big") + changed[start + 4 :]
    return changed


def _playlist(urls: Sequence[str]) -> bytes:
    entries = "".join(f"#EXTINF:1.0,\n{url}\n" for url in urls)
    return f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n{entries}#EXT-X-ENDLIST\n".encode()


def by_hand(url: str) -> dict[str, bytes]:
    """Name → body, none of which can be taken. `url`: a server that must not hear of it."""
    plain = film()
    billion, early = 10**9, faststart()
    return {
        "HLS playlist": _playlist([f"{url}/0.ts", "file:///etc/passwd", f"concat:{url}/1.ts"]),
        "DASH manifest": f'<?xml version="1.0"?><MPD><BaseURL>{url}</BaseURL></MPD>'.encode(),
        "concat script": f"ffconcat version 1.0\nfile '{url}/x.mp4'\n".encode(),
        "a billion samples of one byte": _patched(_patched(plain, b"stsz", 12, 1), b"stsz", 16, billion),
        "a billion samples in stts": _patched(plain, b"stts", 16, billion),
        "endless frames": _patched(plain, b"stts", 20, 2**31 - 1),
        "a sample of 2 GB": _patched(plain, b"stsz", 20, 2**31 - 1),
        "samples behind the end": _patched(plain, b"stco", 16, 2**31),
        "no time scale": _patched(plain, b"mdhd", 20, 2**31 + 1),
        "boxes 5,000 deep": _nested(5_000),
        "zero frames": _patched(plain, b"stsz", 16, 0),
        "a GOP of 400 pictures": film(frames=400, gop=400),
        "no video": _without_video(),
        "its last pictures cut off": early[: -len(early) // 20],
        "only a head": plain[: _find(plain, b"moov")],
        "nothing": b"",
        "zeros": bytes(200_000),
    }


def harmless(url: str) -> dict[str, bytes]:
    """Name → body that lies about itself in what nobody needs, or asks for what is not done: taken or not, no harm."""
    plain = film()
    return {
        "a reference to a server": _with_reference(f"{url}/media.mov"),
        "a reference to a file": _with_reference("file:///etc/passwd"),
        "endless duration": _patched(_patched(plain, b"mdhd", 24, 2**32 - 1), b"mvhd", 24, 2**32 - 1),
        "a billion chunks": _patched(plain, b"stco", 12, 10**9),
        "a billion edits": _patched(plain, b"elst", 12, 10**9),
        "65535 pixels by its track": _patched(_patched(plain, b"tkhd", 84, 65535 << 16), b"tkhd", 88, 65535 << 16),
    }


def _without_video() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=48_000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 48_000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return file.getvalue()
