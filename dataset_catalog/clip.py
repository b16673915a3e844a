"""A stretch of one camera's video as fragmented MP4, copied packet by packet from raw segments.

A frame's presentation time is its capture time minus the clip's start, in microseconds; where time is missing between
segments it stays missing. The same cut gives the same bytes, on any machine.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dataset_catalog import fmp4
from dataset_catalog.cut import Cut, Missing, Piece
from dataset_catalog.errors import CodecChanged, DamagedSegment, DecodeError
from dataset_catalog.fmp4 import Sample
from dataset_catalog.raw_video import Packet, RawVideo, read_raw
from dataset_catalog.storage import Storage
from dataset_catalog.video import Size, decode_gop, to_rgb

FRAGMENT_TICKS = 1_000_000  # GOPs go into a fragment until it spans this
LONGEST_TICKS = 2**32 - 1  # that a picture can be shown

Gop = tuple[Packet, ...]


@dataclass(frozen=True)
class Clip:
    """One cut of one stream. `base_ns` is the capture time that is presented at 0: the clip's start, of a playlist
    the playlist's."""

    storage: Storage
    cut: Cut
    base_ns: int

    @property
    def start_ns(self) -> int:
        """Capture time of the first frame."""
        return self.cut.start_ns

    @property
    def end_ns(self) -> int:
        """Half-open: where the last GOP ends."""
        return self.cut.end_ns

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Gaps and quarantined segments in the range that was asked for."""
        return self.cut.missing

    @property
    def digest(self) -> str:
        """32 hex digits that name the bytes, known before they are made."""
        return self.cut.digest(base_ns=self.base_ns)

    @property
    def most_bytes(self) -> int:
        """The MP4 has at most so many, known before it is made."""
        gops = sum(piece.stop - piece.first for piece in self.cut.pieces)
        # a NAL unit, of four bytes at least with its start code, may become a byte longer
        return self.cut.bytes * 5 // 4 + 20 * self.cut.frames + 128 * gops + fmp4.MAX_DESCRIPTION + 4096

    def write(self, file: IO[bytes]) -> None:
        """Write the MP4; one raw segment at a time is in memory.

        Raises `CodecChanged` where the parameters of the encoding change inside, and `DamagedSegment`, `DecodeError`.
        """
        for part in self._parts(duration_ns=self.end_ns - self.base_ns):
            file.write(part)

    def write_init(self, file: IO[bytes]) -> None:
        """Write the initialization section alone, which leaves open how long the track is."""
        file.write(next(self._parts(duration_ns=0)))

    def write_media(self, file: IO[bytes]) -> None:
        """Write the fragments alone. Raises as `write` does."""
        for part in islice(self._parts(duration_ns=0), 1, None):
            file.write(part)

    def to_bytes(self) -> bytes:
        """The MP4, whole in memory."""
        file = io.BytesIO()
        self.write(file)
        return file.getvalue()

    def frames(self, size: Size | None = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Capture time in ns and (height, width, 3) uint8 RGB of each frame, in order; `size` is (height, width)."""
        for piece in self.cut.pieces:
            raw = read_piece(self.storage, piece)
            for gop in gops_of(raw, piece):
                decoded = decode_gop(raw.codec, raw.extradata, [packet.data for packet in gop])
                times = sorted(packet.t_ns for packet in gop)
                yield from ((t_ns, to_rgb(frame, size)) for t_ns, frame in zip(times, decoded, strict=True))

    def _parts(self, *, duration_ns: int) -> Iterator[bytes]:
        """The initialization section, then the fragments piece by piece."""
        track: _Track | None = None
        following = [piece.start_ns for piece in self.cut.pieces[1:]]
        for piece, next_ns in zip(self.cut.pieces, [*following, None], strict=True):
            raw = read_piece(self.storage, piece)
            gops = gops_of(raw, piece)
            if track is None:
                track = _Track.begin(raw, piece, gops, self.base_ns)
                yield track.initialization(piece, duration_ns=duration_ns)
            yield from track.fragments(raw, piece, gops, next_ns=next_ns)


def read_piece(storage: Storage, piece: Piece) -> RawVideo:
    """The packets of a piece's segment, whose bytes are checked against what was acknowledged.

    Raises `DamagedSegment`, `DecodeError`, and `StorageError` where the store cannot be reached.
    """
    with storage.reaching():
        try:
            body: bytes = storage.filesystem().cat_file(storage.path(piece.key))
        except FileNotFoundError as error:
            raise DamagedSegment(f"{piece.key} is in the index but not stored any more") from error
    found = hashlib.sha256(body).hexdigest()
    if found != piece.sha256:
        raise DamagedSegment(f"{piece.key} was stored with sha-256 {piece.sha256}, its bytes now have {found}")
    raw = read_raw(body, codec=piece.codec, content_type=piece.content_type, start_ns=piece.segment_start_ns)
    if len(raw.packets) != sum(piece.gop_frames):
        raise DecodeError(f"{piece.key} holds {len(raw.packets)} pictures, the index says {sum(piece.gop_frames)}")
    return raw


def gops_of(raw: RawVideo, piece: Piece) -> list[Gop]:
    """The GOPs of the piece, in decoding order."""
    ends = np.cumsum(piece.gop_frames).tolist()
    begins = [0, *ends]
    return [raw.packets[begins[n] : ends[n]] for n in range(piece.first, piece.stop)]


class _Track:
    """What is kept from fragment to fragment: how the track is described, its delay, and the fragments' number."""

    def __init__(self, stsd: bytes, delay: int, base_ns: int) -> None:
        self._stsd, self._delay, self._base_ns = stsd, delay, base_ns
        self._number = 0

    @classmethod
    def begin(cls, raw: RawVideo, piece: Piece, gops: Sequence[Gop], base_ns: int) -> _Track:
        stsd = raw.description(gops[0][0].data, width=piece.width, height=piece.height)
        if stsd is None:
            raise DecodeError(f"{piece.key}: the keyframe at {gops[0][0].t_ns} ns has no parameter sets")
        # twice what this segment needs: later ones may reorder over somewhat longer times
        return cls(stsd, 2 * max(_late(gop, base_ns) for gop in gops), base_ns)

    def initialization(self, piece: Piece, *, duration_ns: int) -> bytes:
        return fmp4.initialization(
            self._stsd, width=piece.width, height=piece.height, duration=_ticks(duration_ns), delay=self._delay
        )

    def fragments(self, raw: RawVideo, piece: Piece, gops: Sequence[Gop], *, next_ns: int | None) -> Iterator[bytes]:
        """The piece's GOPs. `next_ns`: where the next piece begins, if there is one."""
        begins = [gop[0].t_ns for gop in gops]
        after = [*begins[1:], self._after(piece, next_ns)]
        collected: list[Sample] = []
        for left, gop, end_ns in zip(reversed(range(len(gops))), gops, after, strict=True):
            self._check(raw, piece, gop)
            collected += self._samples(raw, gop, end_ns)
            if not left or _ticks(end_ns - self._base_ns) - collected[0].dts >= FRAGMENT_TICKS:
                self._number += 1
                yield from fmp4.fragment(self._number, collected, delay=self._delay)
                collected = []

    def _check(self, raw: RawVideo, piece: Piece, gop: Gop) -> None:
        stsd = raw.description(gop[0].data, width=piece.width, height=piece.height)
        if stsd not in (None, self._stsd):
            raise CodecChanged(gop[0].t_ns, f"the parameters of {piece.codec} change")
        if _late(gop, self._base_ns) > self._delay:
            raise CodecChanged(gop[0].t_ns, f"{piece.codec} reorders its pictures otherwise")

    def _samples(self, raw: RawVideo, gop: Gop, end_ns: int) -> Iterator[Sample]:
        """Decoding times are the presentation times in order; a picture lasts until the next."""
        shown = [_ticks(packet.t_ns - self._base_ns) for packet in gop]
        decoded = [*sorted(shown), _ticks(end_ns - self._base_ns)]
        if decoded[-2] - decoded[0] > LONGEST_TICKS:
            raise DecodeError(f"the GOP at {gop[0].t_ns} ns lasts longer than an MP4 can say")
        for n, packet in enumerate(gop):
            data = raw.as_sample(packet.data)
            duration = min(decoded[n + 1] - decoded[n], LONGEST_TICKS)
            yield Sample(decoded[n], shown[n], duration, n == 0, data)

    def _after(self, piece: Piece, next_ns: int | None) -> int:
        """Until when the piece's last picture is shown: until the next one, unless that is missing."""
        if piece.stop < len(piece.gop_ns):
            return piece.gop_ns[piece.stop]
        last_ns = piece.end_ns - 1
        if next_ns is not None and next_ns - last_ns <= 2 * piece.frame_ns:
            return next_ns
        return last_ns + piece.frame_ns


def _late(gop: Gop, base_ns: int) -> int:
    """By how many ticks, at most, a picture's place in decoding order comes after its presentation; 0 in order."""
    shown = [_ticks(packet.t_ns - base_ns) for packet in gop]
    return max(decoded - presented for decoded, presented in zip(sorted(shown), shown, strict=True))


def _ticks(ns: int) -> int:
    """Microseconds, rounded to the nearest."""
    return (ns + 500) // 1000
